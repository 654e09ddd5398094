"""Adding a classification head for given labels to an encoder, all of whose weights must be present."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from compress.core.artifacts import MODEL_CONFIG, TORCH_WEIGHTS
from compress.core.errors import ModelError
from compress.models.io.architectures import build_on_meta, classifier_class
from compress.models.io.weights import read_model_json, read_shapes
from compress.models.teacher.labels import check_head, head_names, match_labels
from compress.profile.model_checks.checkpoints import head_problems
from compress.profile.schema import TeacherSpec


@dataclass(frozen=True)
class HeadPlan:
    """Where each weight of a classifier comes from.

    `names`: name in the file -> name in the classifier, for each weight that is loaded. `fresh`: weights initialised
    from the seed: those of the head, or of a pooler that the file lacks. `order`: for each label, its row in the
    saved head; None if the head is fresh. `rows`: the weights with one row per label.
    """

    names: dict[str, str]
    fresh: tuple[str, ...]
    order: tuple[int, ...] | None
    rows: tuple[str, ...]


def with_labels(config: PretrainedConfig, labels: Sequence[str]) -> PretrainedConfig:
    """Copy the config for a single-label classifier of these labels, in this order."""
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    return config


def label_rows(kind: Any, config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a classifier's weights with one row per label, found by comparing two label counts."""
    fewer, more = (
        build_on_meta(kind, with_labels(config, [str(index) for index in range(count)])).state_dict()
        for count in (3, 4)
    )
    return tuple(name for name, tensor in fewer.items() if tensor.shape != more[name].shape)


def plan_head(path: Path, config: PretrainedConfig, labels: Sequence[str]) -> HeadPlan:
    """Plan how to build a classifier of `labels` from a model directory.

    A head with the same labels is kept, its rows reordered; any other head is replaced by a fresh one.

    Raises:
        ModelError: the encoder lacks a weight.
    """
    kind = classifier_class(config, path)
    model = build_on_meta(kind, with_labels(config, labels))
    names = _match_names(model, set(read_shapes(path)))
    saved_head = head_names(read_model_json(path / MODEL_CONFIG))
    order = match_labels(saved_head, labels) if saved_head is not None else None
    expected = set(model.state_dict())
    base = f"{model.base_model_prefix}."
    head = {name for name in expected if not name.startswith(base)}
    if order is None:
        names = {saved: name for saved, name in names.items() if name not in head}
    missing = expected - set(names.values())
    may_be_fresh = {name for name in expected if name.startswith(f"{base}pooler.")} | (
        head if order is None else set()
    )
    if missing - may_be_fresh:
        example, count = min(missing - may_be_fresh), len(missing - may_be_fresh)
        raise ModelError(
            f"the encoder lacks {count} of its weights, for example {example!r}",
            where=str(path / TORCH_WEIGHTS),
        )
    return HeadPlan(names, tuple(sorted(missing)), order, label_rows(kind, config))


def reorder_rows(
    tensors: dict[str, torch.Tensor], rows: Sequence[str], order: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Reorder the rows of the head's weights: row i of the result is row `order[i]` of the input."""
    return {name: tensor[list(order)] if name in rows else tensor for name, tensor in tensors.items()}


def align_head(model: PreTrainedModel, spec: TeacherSpec, labels: Sequence[str]) -> str:
    """Name the outputs of a classifier and, if they are the labels of the data, reorder them to match.

    Returns:
        `none` without a head, `as it was` if the labels differ, or `matched`.

    Raises:
        ModelError: the head does not fit the labels, and `finetune` is not set.
    """
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    names = head_names(config, spec.labels)
    if spec.finetune is None:
        for problem in head_problems(config):
            raise problem.error(spec.model)
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
    model.load_state_dict(reorder_rows(head, rows, order), strict=False)
    return "matched"


def _match_names(model: PreTrainedModel, saved_names: set[str]) -> dict[str, str]:
    """Map names in the file, which may hold the encoder alone, to names in the classifier, for shared weights."""
    expected = set(model.state_dict())
    base = f"{model.base_model_prefix}."
    is_bare = not any(name.startswith(base) for name in saved_names)
    candidates = {name: base + name if is_bare and base + name in expected else name for name in saved_names}
    return {saved: name for saved, name in candidates.items() if name in expected}
