"""Writing a teacher from any source in the torch format that all later steps read."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from compress.core.artifacts import STRUCTURE, TASK, TOKENIZER
from compress.core.disk.files import write_json, write_text
from compress.core.disk.reading import content_errors
from compress.core.disk.source_uris import CODE_PREFIX, local_path
from compress.core.errors import ModelError
from compress.models.anatomy.table.families import max_tokens_of
from compress.models.io.architectures import model_class, read_config
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.io.pretrained import load_pretrained
from compress.models.io.weights import missing_weights
from compress.models.teacher.code import call_function
from compress.models.teacher.heads import align_head
from compress.models.teacher.location import hub_commit, model_folder
from compress.models.text.pooling import MEAN, Pooling, read_pooling
from compress.models.text.sentence import SentenceEncoder
from compress.models.text.tokenization import Tokenization, from_transformers, read_tokenization
from compress.profile.model_checks.tokenizers import vocabulary_too_large
from compress.profile.schema import TeacherSpec
from compress.tasks.table import task_kind


@dataclass(frozen=True)
class LoadedTeacher:
    """A model in memory: `untrained` names weights that its files lack; `pooling` is the one that they specify."""

    model: PreTrainedModel
    tokenization: Tokenization
    untrained: frozenset[str] = frozenset()
    pooling: Pooling = MEAN


def materialise(
    spec: TeacherSpec,
    labels: Sequence[str],
    base: Path,
    out: Path,
    *,
    max_length: int,
    allow_code: bool,
    task: str,
    seed: int = 0,
    texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the teacher's source to `out`: weights, config, tokenizer.json without truncation, task.json.

    An encoder stays an encoder. A classifier whose labels are those of the data gets its rows in their order; any
    other keeps its head unchanged, and is refused if `finetune` is not set. For sentence embedding any head is
    replaced by the pooling of the folder or the profile.

    Args:
        texts: training texts, on which the written tokenizer is compared with the one that transformers loads.

    Returns:
        Facts: `parameters`, `architecture`, `source`, `commit` of a hub model, `head` (`none`, `as it was` or
            `matched`), the text format, and `max_length` if the tokenizer allows fewer tokens than requested; for
            sentence embedding also `pooling`, `normalize` and `width`.

    Raises:
        ModelError: the model cannot be loaded, is not safetensors, or does not take texts of `max_length` tokens.
    """
    commit = None
    sentences = task_kind(task).head == "pooled"
    if spec.model.startswith(CODE_PREFIX):
        source = _from_code(spec, base, allow_code, seed, bare=sentences)
    else:
        folder = model_folder(spec.model, spec.revision, base, task)
        with content_errors("this model", str(folder)):
            source = _from_folder(folder, spec, bare=sentences)
        if local_path(spec.model, base) is None:
            commit = hub_commit(spec.model, spec.revision)
    model = source.model
    check_lengths(model.config, max_length, spec.model)
    head = "none" if sentences else align_head(model, spec, labels)
    tokenization = source.tokenization
    tokenizer = tokenization.tokenizer()
    check_vocabulary(model, tokenizer, spec.model)
    length = min(max_length, tokenization.max_length or max_length)
    tokenization.verify(texts, length, spec.model)
    pooling = source.pooling
    written_model = SentenceEncoder(model, pooling.mode, pooling.normalize) if sentences else model
    save_model(written_model, out, leave_out=source.untrained)
    write_text(out / TOKENIZER, tokenization.text)
    write_json(
        out / TASK,
        describe_task(task, written_model, tokenizer, labels, length) | tokenization.format.section(),
    )
    facts: dict[str, Any] = {
        "parameters": count_parameters(written_model),
        "architecture": type(model).__name__,
        "source": spec.model,
        "head": head,
        **tokenization.format.section(),
    }
    if length < max_length:
        facts["max_length"] = length
    if sentences:
        facts |= {"pooling": pooling.mode, "normalize": pooling.normalize, "width": model.config.hidden_size}
    return facts if commit is None else {**facts, "commit": commit}


def describe_task(
    task: str,
    model: PreTrainedModel | SentenceEncoder,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    max_length: int,
) -> dict[str, Any]:
    """Return the content of `task.json`: how the model takes texts and what its outputs are.

    `unk_id` is -1 if the tokenizer has no unknown token, `mask_id` if it has no mask token.
    """
    vocabulary = tokenizer.get_vocab()
    transformer = model.encoder if isinstance(model, SentenceEncoder) else model
    forward_parameters = inspect.signature(transformer.forward).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in forward_parameters and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    pad = model.config.pad_token_id
    output_settings: dict[str, Any] = {"output_names": ["logits"]}
    if isinstance(model, SentenceEncoder):
        output_settings = {"output_names": ["embedding"], "width": model.config.hidden_size}
    return {
        "task": task,
        **output_settings,
        "max_length": max_length,
        "labels": list(labels),
        "input_names": names,
        "pad_id": pad if pad is not None else _first_id(vocabulary, "[PAD]", "<pad>", default=0),
        "unk_id": _first_id(
            vocabulary, getattr(tokenizer.model, "unk_token", None), "[UNK]", "<unk>", default=-1
        ),
        "mask_id": _first_id(vocabulary, "[MASK]", "<mask>", default=-1),
    }


def _first_id(vocabulary: dict[str, int], *tokens: str | None, default: int) -> int:
    return next((vocabulary[token] for token in tokens if token in vocabulary), default)


def check_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer, where: str) -> None:
    """Refuse a tokenizer with more tokens than the model.

    Raises:
        ModelError: it has more.
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    rows = model.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise vocabulary_too_large(highest, rows).error(where)


def check_lengths(config: PretrainedConfig, max_length: int, where: str) -> None:
    """Refuse a `max_length` above the model's maximum.

    Raises:
        ModelError: the model takes fewer than `max_length` tokens.
    """
    max_tokens = max_tokens_of(config.to_dict())
    if max_tokens is not None and max_length > max_tokens:
        raise ModelError(
            f"data.max_length is {max_length}, but the model takes at most {max_tokens} tokens", where=where
        )


def _from_folder(folder: Path, spec: TeacherSpec, *, bare: bool) -> LoadedTeacher:
    """Load the model of a folder; `bare`: without its head, and with its pooling."""
    pooling = read_pooling(folder, spec.pooling) if bare else MEAN
    if (problem := missing_weights(folder)) is not None:
        raise problem
    if (folder / STRUCTURE).exists():
        return LoadedTeacher(
            _transformer(load_model(folder), bare), read_tokenization(folder, sentences=bare), pooling=pooling
        )
    config = read_config(folder)
    name = str((config.architectures or [""])[0])
    headed = name.endswith("ForSequenceClassification") and not bare
    kind = model_class(config, folder) if headed else AutoModel
    model, untrained = load_pretrained(kind, folder, config)
    return LoadedTeacher(model, read_tokenization(folder, sentences=bare), untrained, pooling)


def _transformer(model: nn.Module, bare: bool) -> PreTrainedModel:
    """Return the transformers model in a loaded model; `bare`: without its head."""
    transformer = model.encoder if isinstance(model, SentenceEncoder) else model
    assert isinstance(transformer, PreTrainedModel)
    return cast(PreTrainedModel, transformer.base_model) if bare else transformer


def _from_code(spec: TeacherSpec, base: Path, allow_code: bool, seed: int, *, bare: bool) -> LoadedTeacher:
    source = spec.model
    result = call_function(source, base, seed, allow_code=allow_code)
    expected_types = (PreTrainedModel, SentenceEncoder) if bare else PreTrainedModel
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], expected_types)):
        raise ModelError("expected the function to return (model, tokenizer) from transformers", where=source)
    model = result[0].float().cpu().eval()
    declared = Pooling(model.pooling, model.normalize) if isinstance(model, SentenceEncoder) else MEAN
    pooling = Pooling(spec.pooling or declared.mode, declared.normalize)
    return LoadedTeacher(_transformer(model, bare), from_transformers(result[1], source), pooling=pooling)
