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
from compress.core.disk.reading import content_errors
from compress.core.disk.source_uris import CODE_PREFIX, CONFIG_PREFIX, local_path
from compress.core.errors import ModelError
from compress.core.pre_tokenization import IGNORE_MERGES_RULES, SENTENCEPIECE_SPACE, pre_tokenizer
from compress.models.anatomy.table.families import why_not_generating
from compress.models.io.adapter import merge_adapter
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.io.offline import offline
from compress.models.io.pretrained import load_pretrained, quiet
from compress.models.students.decoder import new_decoder
from compress.models.teacher.code import call_function
from compress.models.teacher.location import GGUF, hub_commit, model_folder, tokenizer_path
from compress.models.teacher.materialise import check_lengths, check_vocabulary
from compress.models.text.chat import renderer
from compress.models.text.tokenization import Tokenization, from_transformers, read_tokenization
from compress.profile.model_checks.gguf import (
    adds_space,
    end_token_ids,
    header_fields,
    is_sentencepiece,
    pre_tokenization_of,
    why_tokenizer_unsupported,
)
from compress.profile.model_checks.tokenizers import tokenizer_missing_problem
from compress.profile.schema import TeacherSpec
from compress.profile.specs.decoder import DecoderSpec, TrainedTokenizerSpec
from compress.step import StepContext
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.chat_pieces import pieces_of_template
from compress.tasks.causal_lm.text.ends import answer_end_tokens, end_token_of
from compress.tasks.causal_lm.text.own_tokenizer import load_tokenizer_file, trained_tokenizer


@dataclass(frozen=True)
class _Source:
    """A model in memory with its tokenizer, chat template (None if it has none), and the facts of a merged adapter.

    `gguf_end_ids`: tokens that end an answer according to a GGUF file.
    """

    model: PreTrainedModel
    tokenization: Tokenization
    template: str | None
    special: Mapping[str, str]
    adapter_facts: Mapping[str, Any] = field(default_factory=dict)
    gguf_end_ids: Sequence[int] = ()


def write_model(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the model's weights, its tokenizer and its `task.json`; return the facts.

    Raises:
        ModelError: the model is not available, is not a supported decoder, or does not accept `max_length` tokens.
    """
    data = ctx.task.data
    assert isinstance(data, LanguageData)
    source = _load_source(ctx, spec)
    if spec.adapter is not None:
        source = _with_adapter(source, spec.adapter, ctx.base)
    model, tokenization, template = source.model, source.tokenization, source.template
    where = "teacher.config" if spec.config is not None else spec.model
    if (why := why_not_generating(model.config.to_dict())) is not None:
        raise ModelError(why, where=where, code="family-unsupported")
    check_lengths(model.config, data.max_length, where)
    tokenizer = tokenization.tokenizer()
    check_vocabulary(model, tokenizer, where)
    tokenization.verify(ctx.data.train.texts, data.max_length, where)
    save_model(model, ctx.out)
    write_text(ctx.out / TOKENIZER, tokenization.text)
    end_id = end_token_of(model.config.eos_token_id, tokenizer, source.special)
    render = None if template is None else renderer(template, source.special, where)
    pad_id = model.config.pad_token_id
    write_json(
        ctx.out / TASK,
        {
            "task": ctx.task.kind.name,
            "labels": [],
            "input_names": ["input_ids", "attention_mask"],
            "output_names": ["logits"],
            "max_length": data.max_length,
            "words": model.config.vocab_size,
            "pad_id": next(token_id for token_id in (pad_id, end_id, 0) if token_id is not None),
            "begin_id": _begin_token(tokenizer),
            "end_id": end_id,
            "end_ids": answer_end_tokens(model, source.gguf_end_ids, end_id, render, tokenizer),
            "written": data.example_format,
            "chat_template": template,
            "chat": None if template is None or render is None else pieces_of_template(template, render),
            "special_tokens": dict(source.special),
        },
    )
    commit = None
    if not spec.model.startswith((CODE_PREFIX, CONFIG_PREFIX)) and local_path(spec.model, ctx.base) is None:
        commit = hub_commit(spec.model, spec.revision)
    return {
        "parameters": count_parameters(model),
        "architecture": type(model).__name__,
        "source": spec.model if spec.config is None else spec.config.description,
        "chat_template": template is not None,
        **({} if commit is None else {"commit": commit}),
        **source.adapter_facts,
    }


def _load_source(ctx: StepContext, spec: TeacherSpec) -> _Source:
    if spec.config is not None:
        return _new_source(ctx, spec.config)
    if spec.model.startswith(CODE_PREFIX):
        result = call_function(spec.model, ctx.base, ctx.seed, allow_code=ctx.allow_code)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], PreTrainedModel)):
            raise ModelError(
                "expected the function to return (model, tokenizer) from transformers", where=spec.model
            )
        return _Source(
            result[0].float().cpu().eval(),
            from_transformers(result[1], spec.model),
            *_chat_template(result[1]),
        )
    path = model_folder(spec.model, spec.revision, ctx.base, ctx.task.kind.name)
    with content_errors("this model", str(path)), offline(), quiet():
        return _from_gguf(path) if path.suffix == GGUF else _from_folder(path)


def _with_adapter(source: _Source, adapter: str, base: Path) -> _Source:
    """Merge an adapter into a model's weights; a tokenizer in the adapter's folder replaces the model's."""
    folder = local_path(adapter, base)
    if folder is None:
        raise ModelError("an adapter must be a folder on this machine", where=adapter)
    with content_errors("this adapter", str(folder)), offline(), quiet():
        model, facts = merge_adapter(source.model, folder)
        facts = {"adapter": adapter, **facts}
        if tokenizer_missing_problem({file.name for file in folder.iterdir()}) is not None:
            return replace(source, model=model, adapter_facts=facts)
        return _Source(model, *_tokenizer_in(folder), facts, source.gguf_end_ids)


def _new_source(ctx: StepContext, spec: DecoderSpec) -> _Source:
    """Create a model with random weights, and a tokenizer that is loaded or trained here."""
    loaded = _tokenizer(ctx, spec)
    tokenization, (template, special) = from_transformers(loaded, "teacher.config"), _chat_template(loaded)
    tokenizer = tokenization.tokenizer()
    model = new_decoder(
        spec.fresh,
        vocabulary_size=max(tokenizer.get_vocab().values()) + 1,
        max_positions=spec.positions or ctx.task.kind.default_positions(ctx.task.data.max_length),
        bos_id=_begin_token(tokenizer),
        eos_id=end_token_of(None, tokenizer, special),
        seed=ctx.seed,
    )
    return _Source(model, tokenization, template, special)


def _tokenizer(ctx: StepContext, spec: DecoderSpec) -> Any:
    if isinstance(spec.tokenizer, TrainedTokenizerSpec):
        data = ctx.task.data
        assert isinstance(data, LanguageData)
        return trained_tokenizer(ctx.data.train.texts, data.example_format, spec.tokenizer.vocabulary)
    path = tokenizer_path(spec.tokenizer, ctx.base)
    with content_errors("this tokenizer", str(path)), offline(), quiet():
        if path.suffix == GGUF:
            return gguf_tokenizer(path)
        if path.is_file():
            return load_tokenizer_file(path)
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def _from_folder(folder: Path) -> _Source:
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
    return tokenization, *_chat_template(tokenizer)


def _from_gguf(file: Path) -> _Source:
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
    tokenization = from_transformers(tokenizer, str(file))
    return _Source(
        model.eval(),
        tokenization,
        *_chat_template(tokenizer),
        gguf_end_ids=end_token_ids(header_fields(file)),
    )


def gguf_tokenizer(file: Path) -> Any:
    """Load the tokenizer of a GGUF file with the file's pre-tokenization, as transformers only reads the merges.

    Raises:
        ModelError: the pre-tokenization is not given or unknown, or the order of merges is unknown.
    """
    fields = header_fields(file)
    if (why := why_tokenizer_unsupported(fields)) is not None:
        raise ModelError(why, where=str(file), code="tokenizer-unsupported")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    backend = tokenizer.backend_tokenizer
    if (name := pre_tokenization_of(fields)) is not None:
        config = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": pre_tokenizer(name)}
        backend.pre_tokenizer = Tokenizer.from_str(json.dumps(config)).pre_tokenizer
        backend.model.ignore_merges = name == IGNORE_MERGES_RULES
    elif is_sentencepiece(fields):
        _check_scores(file, backend)
        _encode_spaces(backend, adds_space=adds_space(fields))
    return tokenizer


def _encode_spaces(tokenizer: Tokenizer, *, adds_space: bool) -> None:
    """Make a SentencePiece BPE encode spaces like llama.cpp."""
    spaces, prefix = normalizers.Replace(" ", SENTENCEPIECE_SPACE), normalizers.Prepend(SENTENCEPIECE_SPACE)
    tokenizer.normalizer = normalizers.Sequence([prefix, spaces]) if adds_space else spaces
    tokenizer.pre_tokenizer = None
    parts = [decoders.Replace(SENTENCEPIECE_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if adds_space else parts)


def _check_scores(file: Path, tokenizer: Tokenizer) -> None:
    """Reject scores that do not determine the order of merges.

    For Gemma, transformers uses the order of the tokens instead, like its authors.
    """
    fields = GGUFReader(file).fields
    if fields["general.architecture"].contents().startswith("gemma"):
        return
    tokens, scores = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores"))
    merged = {"".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]}
    if len({score for token, score in zip(tokens, scores, strict=True) if token in merged}) < len(merged):
        raise ModelError(
            "tokens of this GGUF file have equal scores (`tokenizer.ggml.scores`), so the order of merges is "
            "unknown",
            where=str(file),
            hint="Name the folder that the file was made from.",
            code="tokenizer-unsupported",
        )


def _chat_template(tokenizer: Any) -> tuple[str | None, dict[str, str]]:
    """Return the chat template of a tokenizer, and the special tokens used in templates."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: str(token) for name in names if (token := getattr(tokenizer, name, None)) is not None}
    return template, special


def _begin_token(tokenizer: Tokenizer) -> int | None:
    """Return the token that the tokenizer prepends to every text; None if there is none."""
    without_special, with_special = (
        tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True)
    )
    return None if with_special[:1] == without_special[:1] else int(with_special[0])
