"""Matching the outputs of a classifier to the labels of the data, by name and never by index. Pure functions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from compress.core.errors import ModelError
from compress.tasks.table import task_kind

_HEADS: Mapping[str, str] = {"ForSequenceClassification": "text", "ForImageClassification": "image"}
_GENERIC = re.compile(r"LABEL_\d+")
_MAX_SHOWN = 5


def head_names(config: Mapping[str, Any], declared: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """Return the names of a classifier's outputs in order; None if the model has no classification head.

    Args:
        config: the parsed `config.json`.
        declared: names from the profile, which replace those of the config.

    Raises:
        ModelError: the config does not number its labels 0, 1, 2..., or `declared` has a different count.
    """
    if items_of_head(config) is None:
        return None
    # transformers omits the default from the config: two labels with generic names.
    id2label = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        by_index = {int(index): str(name) for index, name in id2label.items()}
        names = tuple(by_index[index] for index in range(len(by_index)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError("`id2label` of the model's config must name the outputs 0, 1, 2...") from error
    if declared is None:
        return names
    if len(declared) != len(names):
        raise ModelError(
            f"{len(declared)} names for a head of {len(names)} outputs",
            where="teacher.labels",
            hint="Name each output of the model, in order.",
        )
    return tuple(declared)


def items_of_head(config: Mapping[str, Any]) -> str | None:
    """Return what a model's classification head classifies, `text` or `image`; None without such a head.

    It is recognised by the name of the architecture.

    Args:
        config: the parsed `config.json`.
    """
    name = str((config.get("architectures") or [""])[0])
    return next((items for part, items in _HEADS.items() if part in name), None)


def check_task(config: Mapping[str, Any], task: str, where: str) -> None:
    """Raise if a classifier takes another kind of input than the task.

    Raises:
        ModelError: it classifies texts but the task has images, or the reverse.
    """
    found, wanted = items_of_head(config), task_kind(task).items
    if found is not None and found != wanted:
        raise ModelError(
            f"this model takes {found}s, but the task is {task}",
            where=where,
            hint=f"Set `task`, or name a model that takes {wanted}s.",
        )


def match_labels(
    names: Sequence[str], labels: Sequence[str], *, subset: bool = False
) -> tuple[int, ...] | None:
    """Return the index in `names` of each label; None if they are not the same labels.

    Case is ignored unless two names differ only in case.

    Args:
        subset: allow `names` to contain names that are not labels.
    """
    for key in (str, _normalized):
        index_by_name = {key(name): index for index, name in enumerate(names)}
        keys = [key(label) for label in labels]
        same = set(keys) <= set(index_by_name) if subset else set(keys) == set(index_by_name)
        if len(index_by_name) == len(names) and len(set(keys)) == len(labels) and same:
            return tuple(index_by_name[name] for name in keys)
    return None


def check_head(names: Sequence[str] | None, labels: Sequence[str], where: str) -> tuple[int, ...]:
    """Return the output index of each label of the data.

    Raises:
        ModelError: the model has no head, only generic names, or other labels than the data.
    """
    if names is None:
        raise ModelError(
            "this model has no classification head",
            where=where,
            hint="Add `teacher.finetune` to train one on the data.",
        )
    order = match_labels(names, labels)
    if order is not None:
        return order
    if all(_GENERIC.fullmatch(name) for name in names):
        raise ModelError(
            f"this model names its {len(names)} outputs {_format_names(names)}, which does not tell what they mean",
            where=where,
            hint=f"Set `teacher.labels` to their names in order, from {_format_names(labels)}; "
            "or add `teacher.finetune` to train a new head.",
        )
    known, wanted = {_normalized(name) for name in names}, {_normalized(label) for label in labels}
    lacking = [label for label in labels if _normalized(label) not in known]
    foreign = [name for name in names if _normalized(name) not in wanted]
    parts = ([f"it lacks {_format_names(lacking)}"] if lacking else []) + (
        [f"the data lacks its {_format_names(foreign)}"] if foreign else []
    )
    raise ModelError(
        "the model's labels are not those of the data: " + ("; ".join(parts) or "a name occurs twice"),
        where=where,
        hint="Add `teacher.finetune` to train a new head, or name the outputs in `teacher.labels`.",
    )


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())


def _format_names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MAX_SHOWN])
    return shown if len(names) <= _MAX_SHOWN else f"{shown} and {len(names) - _MAX_SHOWN} more"
