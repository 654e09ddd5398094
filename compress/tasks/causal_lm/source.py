"""First step: write the model named by the profile, with its tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from compress.core.artifacts import STRUCTURE, TASK, TOKENIZER
from compress.core.disk.files import write_json, write_text
from compress.core.disk.reading import understood
from compress.core.disk.source_uris import CODE, CONFIG, local_path
from compress.core.errors import ModelError
from compress.core.pre_tokenization import SPACE, WHOLE_WORDS, pre_tokenizer
from compress.models.anatomy.table.families import why_not_generating
from compress.models.io.adapter import merge_adapter
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.io.offline import offline
from compress.models.io.pretrained import load_pretrained, quiet
from compress.models.students.decoder import new_decoder
from compress.models.teacher.code import call
from compress.models.teacher.location import GGUF, hub_commit, model_folder, tokenizer_path
from compress.models.teacher.materialise import check_lengths, check_vocabulary
from compress.models.text.chat import renderer
from compress.models.text.tokenization import Tokenization, of_transformers, read_tokenization
from compress.profile.model_checks.gguf import (
    adds_space,
    end_token_ids,
    header_fields,
    is_sentencepiece,
    pre_tokenization_of,
    why_not_cut,
)
from compress.profile.model_checks.tokenizers import tokenizer_missing_problem
from compress.profile.schema import TeacherSpec
from compress.profile.specs.decoder import DecoderSpec, TrainedTokenizerSpec
from compress.step import StepContext
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.chat_pieces import pieces_of_template
from compress.tasks.causal_lm.text.ends import end_of, ends_of
from compress.tasks.causal_lm.text.own_tokenizer import of_file, trained_tokenizer


@dataclass(frozen=True)
class _Source:
    """A model in memory with its tokenizer, chat template (None if it has none), and the facts of a merged adapter.

    `ends`: tokens that end an answer according to a GGUF file.
    """

    model: PreTrainedModel
    tokenization: Tokenization
    template: str | None
    special: Mapping[str, str]
    adapted: Mapping[str, Any] = field(default_factory=dict)
    ends: Sequence[int] = ()


def write_model(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the model's weights, its tokenizer and its `task.json`; return the facts.

    Raises:
        ModelError: the model is not available, is not a supported decoder, or does not accept `max_length` tokens.
    """
    data = ctx.task.data
    assert isinstance(data, LanguageData)
    source = _found(ctx, spec)
    if spec.adapter is not None:
        source = _adapted(source, spec.adapter, ctx.base)
    model, tokenization, template = source.model, source.tokenization, source.template
    where = "teacher.config" if spec.config is not None else spec.model
    if (why := why_not_generating(model.config.to_dict())) is not None:
        raise ModelError(why, where=where, code="family-unsupported")
    check_lengths(model.config, data.max_length, where)
    tokenizer = tokenization.tokenizer()
    check_vocabulary(model, tokenizer, where)
    tokenization.prove(ctx.data.train.texts, data.max_length, where)
    save_model(model, ctx.out)
    write_text(ctx.out / TOKENIZER, tokenization.text)
    end = end_of(model.config.eos_token_id, tokenizer, source.special)
    render = None if template is None else renderer(template, source.special, where)
    pad = model.config.pad_token_id
    write_json(
        ctx.out / TASK,
        {
            "task": ctx.task.kind.name,
            "labels": [],
            "input_names": ["input_ids", "attention_mask"],
            "output_names": ["logits"],
            "max_length": data.max_length,
            "words": model.config.vocab_size,
            "pad_id": next(one for one in (pad, end, 0) if one is not None),
            "begin_id": _begin_of(tokenizer),
            "end_id": end,
            "end_ids": ends_of(model, source.ends, end, render, tokenizer),
            "written": data.written,
            "chat_template": template,
            "chat": None if template is None or render is None else pieces_of_template(template, render),
            "special_tokens": dict(source.special),
        },
    )
    commit = None
    if not spec.model.startswith((CODE, CONFIG)) and local_path(spec.model, ctx.base) is None:
        commit = hub_commit(spec.model, spec.revision)
    return {
        "parameters": count_parameters(model),
        "architecture": type(model).__name__,
        "source": spec.model if spec.config is None else spec.config.words,
        "chat_template": template is not None,
        **({} if commit is None else {"commit": commit}),
        **source.adapted,
    }


def _found(ctx: StepContext, spec: TeacherSpec) -> _Source:
    if spec.config is not None:
        return _fresh(ctx, spec.config)
    if spec.model.startswith(CODE):
        made = call(spec.model, ctx.base, ctx.seed, allow_code=ctx.allow_code)
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], PreTrainedModel)):
            raise ModelError(
                "expected the function to return (model, tokenizer) from transformers", where=spec.model
            )
        return _Source(
            made[0].float().cpu().eval(), of_transformers(made[1], spec.model), *_conversations(made[1])
        )
    path = model_folder(spec.model, spec.revision, ctx.base, ctx.task.kind.name)
    with understood("this model", str(path)), offline(), quiet():
        return _of_gguf(path) if path.suffix == GGUF else _of_folder(path)


def _adapted(source: _Source, adapter: str, base: Path) -> _Source:
    """Merge an adapter into a model's weights; a tokenizer in the adapter's folder replaces the model's."""
    folder = local_path(adapter, base)
    if folder is None:
        raise ModelError("an adapter must be a folder on this machine", where=adapter)
    with understood("this adapter", str(folder)), offline(), quiet():
        model, facts = merge_adapter(source.model, folder)
        facts = {"adapter": adapter, **facts}
        if tokenizer_missing_problem({file.name for file in folder.iterdir()}) is not None:
            return replace(source, model=model, adapted=facts)
        return _Source(model, *_tokenizer_in(folder), facts, source.ends)


def _fresh(ctx: StepContext, spec: DecoderSpec) -> _Source:
    """Create a model with random weights, and a tokenizer that is loaded or trained here."""
    loaded = _tokenizer(ctx, spec)
    tokenization, (template, special) = of_transformers(loaded, "teacher.config"), _conversations(loaded)
    tokenizer = tokenization.tokenizer()
    model = new_decoder(
        spec.fresh,
        words=max(tokenizer.get_vocab().values()) + 1,
        positions=spec.positions or ctx.task.kind.positions_unset(ctx.task.data.max_length),
        begin=_begin_of(tokenizer),
        end=end_of(None, tokenizer, special),
        seed=ctx.seed,
    )
    return _Source(model, tokenization, template, special)


def _tokenizer(ctx: StepContext, spec: DecoderSpec) -> Any:
    if isinstance(spec.tokenizer, TrainedTokenizerSpec):
        data = ctx.task.data
        assert isinstance(data, LanguageData)
        return trained_tokenizer(ctx.data.train.texts, data.written, spec.tokenizer.vocabulary)
    place = tokenizer_path(spec.tokenizer, ctx.base)
    with understood("this tokenizer", str(place)), offline(), quiet():
        if place.suffix == GGUF:
            return gguf_tokenizer(place)
        if place.is_file():
            return of_file(place)
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _of_folder(folder: Path) -> _Source:
    if (folder / STRUCTURE).exists():
        model = load_model(folder)
        assert isinstance(model, PreTrainedModel)
    else:
        model, _ = load_pretrained(AutoModelForCausalLM, folder, read_config(folder))
    return _Source(model, *_tokenizer_in(folder))


def _tokenizer_in(folder: Path) -> tuple[Tokenization, str | None, dict[str, str]]:
    """Load the tokenizer of a folder, its chat template, and the special tokens used in templates."""
    tokenization = read_tokenization(folder, sentences=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return tokenization, *_conversations(tokenizer)


def _of_gguf(file: Path) -> _Source:
    """Load a model in llama.cpp's format, with dequantized weights and its tokenizer."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = gguf_tokenizer(file)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise ModelError(f"cannot load this model: {error}", where=str(file)) from error
    # Otherwise transformers still considers it quantized, and refuses to save it.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenization = of_transformers(tokenizer, str(file))
    return _Source(
        model.eval(), tokenization, *_conversations(tokenizer), ends=end_token_ids(header_fields(file))
    )


def gguf_tokenizer(file: Path) -> Any:
    """Load the tokenizer of a GGUF file with the file's pre-tokenization, as transformers only reads the merges.

    Raises:
        ModelError: the pre-tokenization is not given or unknown, or the order of merges is unknown.
    """
    fields = header_fields(file)
    if (why := why_not_cut(fields)) is not None:
        raise ModelError(why, where=str(file), code="tokenizer-unsupported")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    backend = tokenizer.backend_tokenizer
    if (name := pre_tokenization_of(fields)) is not None:
        bare = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": pre_tokenizer(name)}
        backend.pre_tokenizer = Tokenizer.from_str(json.dumps(bare)).pre_tokenizer
        backend.model.ignore_merges = name == WHOLE_WORDS
    elif is_sentencepiece(fields):
        _check_scores(file, backend)
        _join_letters(backend, adds_space=adds_space(fields))
    return tokenizer


def _join_letters(tokenizer: Tokenizer, *, adds_space: bool) -> None:
    """Make a SentencePiece BPE encode spaces like llama.cpp."""
    spaces, before = normalizers.Replace(" ", SPACE), normalizers.Prepend(SPACE)
    tokenizer.normalizer = normalizers.Sequence([before, spaces]) if adds_space else spaces
    tokenizer.pre_tokenizer = None
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if adds_space else parts)


def _check_scores(file: Path, tokenizer: Tokenizer) -> None:
    """Reject scores that do not determine the order of merges.

    For Gemma, transformers uses the order of the tokens instead, like its authors.
    """
    read = GGUFReader(file).fields
    if read["general.architecture"].contents().startswith("gemma"):
        return
    tokens, scores = (read[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores"))
    made = {"".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]}
    if len({score for token, score in zip(tokens, scores, strict=True) if token in made}) < len(made):
        raise ModelError(
            "tokens of this GGUF file have equal scores (`tokenizer.ggml.scores`), so the order of merges is "
            "unknown",
            where=str(file),
            hint="Name the folder that the file was made from.",
            code="tokenizer-unsupported",
        )


def _conversations(tokenizer: Any) -> tuple[str | None, dict[str, str]]:
    """Return the chat template of a tokenizer, and the special tokens used in templates."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: str(token) for name in names if (token := getattr(tokenizer, name, None)) is not None}
    return template, special


def _begin_of(tokenizer: Tokenizer) -> int | None:
    """Return the token that the tokenizer prepends to every text; None if there is none."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    return None if whole[:1] == plain[:1] else int(whole[0])
