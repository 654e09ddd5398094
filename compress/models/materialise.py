"""A teacher from wherever it comes, written in the torch form that every later step reads."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from compress.artifacts import STRUCTURE, TASK, TOKENIZER, TORCH_WEIGHTS, write_json, write_text
from compress.errors import ModelError
from compress.models.architectures import model_class, read_config
from compress.models.checkpoints import count_parameters, load_model, save_model
from compress.models.heads import in_label_order, label_rows, with_labels
from compress.models.labels import check_head, head_names, match_labels
from compress.models.sources import (
    VOCABULARY_FILES,
    check_code_allowed,
    hub_commit,
    model_folder,
    module_file,
)
from compress.models.weights import missing_weights
from compress.package_paths import CODE, local_path
from compress.profile.schema import TeacherSpec


@dataclass(frozen=True)
class Source:
    """A model in memory: `untrained` names weights that its files do not hold."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    untrained: frozenset[str] = frozenset()


def materialise(
    spec: TeacherSpec, labels: Sequence[str], base: Path, out: Path, *, max_length: int, allow_code: bool
) -> dict[str, Any]:
    """Write the teacher's source to `out`: weights, config, tokenizer.json without truncation, task.json.

    An encoder stays an encoder. A classifier whose labels are those of the data gets its rows in their order;
    any other keeps its head as it is, and is refused where no `finetune` follows.

    Returns:
        facts: `parameters`, `architecture`, `source`, `commit` of a hub model, `head` (none, as it was, or
        matched).

    Raises:
        ModelError: the model cannot be had, is not safetensors, or takes no texts of `max_length` tokens.
    """
    commit = None
    if spec.model.startswith(CODE):
        source = _from_code(spec.model, base, allow_code)
    else:
        source = _from_folder(model_folder(spec.model, spec.revision, base))
        if local_path(spec.model, base) is None:
            commit = hub_commit(spec.model, spec.revision)
    model = source.model
    _check_lengths(model.config, max_length, spec.model)
    head = _put_head_in_order(model, spec, labels)
    _check_vocabulary(model, source.tokenizer, spec.model)
    source.tokenizer.no_truncation()
    source.tokenizer.no_padding()
    save_model(model, out, leave_out=source.untrained)
    write_text(out / TOKENIZER, source.tokenizer.to_str())
    write_json(out / TASK, describe_task(model, source.tokenizer, labels, max_length))
    facts = {
        "parameters": count_parameters(model),
        "architecture": type(model).__name__,
        "source": spec.model,
        "head": head,
    }
    return facts if commit is None else {**facts, "commit": commit}


def describe_task(
    model: PreTrainedModel, tokenizer: Tokenizer, labels: Sequence[str], max_length: int
) -> dict[str, Any]:
    """The content of `task.json`: how the model takes texts and what its outputs are.

    `unk_id` is -1 where the tokenizer spells every text and has no unknown token.
    """
    vocabulary = tokenizer.get_vocab()
    taken = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in taken and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    pad = model.config.pad_token_id
    return {
        "task": "text-classification",
        "max_length": max_length,
        "labels": list(labels),
        "input_names": names,
        "output_names": ["logits"],
        "pad_id": pad if pad is not None else _first_id(vocabulary, "[PAD]", "<pad>", default=0),
        "unk_id": _first_id(
            vocabulary, getattr(tokenizer.model, "unk_token", None), "[UNK]", "<unk>", default=-1
        ),
    }


def _first_id(vocabulary: dict[str, int], *tokens: str | None, default: int) -> int:
    return next((vocabulary[token] for token in tokens if token in vocabulary), default)


def _check_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer, where: str) -> None:
    highest = max(tokenizer.get_vocab().values(), default=-1)
    rows = model.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise ModelError(
            f"the tokenizer has ids up to {highest}, but the model embeds {rows} tokens only", where=where
        )


def _check_lengths(config: PretrainedConfig, max_length: int, where: str) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        # Their positions are counted from the padding index on.
        positions -= config.pad_token_id + 1
    if max_length > positions:
        raise ModelError(
            f"data.max_length is {max_length}, but the model takes {positions} tokens at most", where=where
        )


def _put_head_in_order(model: PreTrainedModel, spec: TeacherSpec, labels: Sequence[str]) -> str:
    """Name the outputs of a classifier and, if they are the labels of the data, put them into their order."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    names = head_names(config, spec.labels)
    if spec.finetune is None:
        check_head(names, labels, spec.model)
    if names is None:
        return "none"
    order = match_labels(names, labels)
    named = with_labels(model.config, labels if order is not None else names)
    model.config.id2label, model.config.label2id = named.id2label, named.label2id
    if order is None:
        return "as it was"
    model.config.problem_type = named.problem_type
    rows = label_rows(type(model), model.config)
    head = {name: tensor for name, tensor in model.state_dict().items() if name in rows}
    model.load_state_dict(in_label_order(head, rows, order), strict=False)
    return "matched"


def _from_folder(folder: Path) -> Source:
    if (problem := missing_weights(folder)) is not None:
        raise problem
    if (folder / STRUCTURE).exists():
        return Source(load_model(folder), _read_tokenizer(folder))
    config = read_config(folder)
    name = str((config.architectures or [""])[0])
    kind = model_class(config, folder) if name.endswith("ForSequenceClassification") else AutoModel
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            model, found = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelError(f"cannot load this model: {error}", where=str(folder)) from error
        except Exception as error:
            if type(error).__module__.startswith("safetensors"):
                where = str(folder / TORCH_WEIGHTS)
                raise ModelError(f"this file is damaged: {error}", where=where) from error
            raise
    untrained = frozenset(found["missing_keys"])
    lacking = sorted(key for key in untrained if "pooler." not in key)
    if lacking:
        raise ModelError(
            f"its files lack {len(lacking)} weights of a {type(model).__name__}, {lacking[0]!r} among them",
            where=str(folder),
        )
    return Source(model.eval(), _read_tokenizer(folder), untrained)


def _read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer.json of a folder, or what transformers makes of its older files."""
    file = folder / TOKENIZER
    if not any(found for pattern in VOCABULARY_FILES for found in folder.glob(pattern)):
        # transformers would make up a tokenizer that knows no words.
        raise ModelError(
            f"no tokenizer here: none of {', '.join(VOCABULARY_FILES)}",
            where=str(folder),
            hint="Save the model's tokenizer into its folder: `tokenizer.save_pretrained(folder)`.",
        )
    try:
        if file.exists():
            return Tokenizer.from_str(file.read_text(encoding="utf-8"))
        return _backend(AutoTokenizer.from_pretrained(folder, local_files_only=True), str(folder))
    except ModelError:
        raise
    except Exception as error:
        # tokenizers raises bare `Exception` for a file that it cannot parse.
        raise ModelError(f"cannot read the tokenizer: {error}", where=str(folder)) from error


def _backend(tokenizer: Any, where: str) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"{type(tokenizer).__name__} is not of the `tokenizers` library and cannot be put into a bundle",
            where=where,
        )
    return Tokenizer.from_str(backend.to_str())


def _from_code(source: str, base: Path, allow_code: bool) -> Source:
    check_code_allowed(source, allow_code)
    module_file(source, base)
    module_name, _, function_name = source.removeprefix(CODE).partition(":")
    with _importable(base):
        try:
            made = getattr(importlib.import_module(module_name), function_name)()
        except Exception as error:  # the user's own code may raise anything
            raise ModelError(f"{type(error).__name__}: {error}", where=source) from error
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], PreTrainedModel)):
        raise ModelError("expected the function to return (model, tokenizer) of transformers", where=source)
    return Source(made[0].float().cpu().eval(), _backend(made[1], source))


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no tables of transformers: what they would say is checked here."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
