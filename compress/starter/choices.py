"""Choose profile settings from what was detected of model and data, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.core.artifacts import TOKENIZER
from compress.core.errors import ModelError
from compress.models.teacher.labels import match_labels
from compress.models.text.tokenizer_files import open_without_truncation
from compress.starter.models import ModelInfo

USUAL_LENGTH = 128
"""Default `max_length` in tokens, if neither data nor model determine one."""


_SHARE = 95
_SHORTEST = 16
_STEP = 8
_TEXTS_LOOKED_AT = 2000
_WORDS_TO_TOKENS = 1.5


@dataclass(frozen=True)
class Student:
    """Shape of a student; None for what the profile leaves to the teacher."""

    layers: int
    hidden: int | None


def choose_student(model: ModelInfo, usual: Student) -> Student:
    """Return the task's usual student, but no wider than the teacher and at least one layer shallower if possible."""
    layers, hidden = usual.layers, usual.hidden
    if model.sizes is None:
        return usual
    wide = hidden is not None and hidden < model.sizes.hidden
    return Student(min(layers, max(1, model.sizes.layers - 1)), hidden if wide else None)


def choose_length(texts: Sequence[str], model: ModelInfo) -> tuple[int, str]:
    """Return `max_length` and its reason: 95 % of the texts are not truncated, within the limit of the model."""
    if not texts:
        length, why = USUAL_LENGTH, "longer texts are cut to this many tokens"
    else:
        longest = math.ceil(np.percentile(_lengths(texts[:_TEXTS_LOOKED_AT], model), _SHARE))
        length = max(_SHORTEST, _STEP * math.ceil(longest / _STEP))
        why = f"{_SHARE} % of the texts have {longest} tokens at most; longer ones are cut"
    if model.longest is not None and length > model.longest:
        length, why = max(2, model.longest), f"{why}; the model takes {model.longest}"
    return min(length, 8192), why


def _lengths(texts: Sequence[str], model: ModelInfo) -> list[int]:
    """Return the tokens of each text, with special ones; estimated from words if there is no `tokenizer.json`."""
    file = None if model.folder is None else model.folder / TOKENIZER
    try:
        if file is not None and file.is_file():
            return [len(one.ids) for one in open_without_truncation(file).encode_batch_fast(list(texts))]
    except ModelError:
        # Tokenizer faults are reported by `validate`.
        pass
    return [round(_WORDS_TO_TOKENS * len(text.split())) + 2 for text in texts]


@dataclass(frozen=True)
class LabelChoice:
    """Labels in the profile: names for integer labels, and whether to fine-tune the teacher first."""

    names: tuple[str, ...] | None
    finetune: bool
    why: str


def choose_labelling(model: ModelInfo, labels: Sequence[str]) -> LabelChoice:
    """Determine whether the model's head classifies these labels, by its own names or by their order."""
    names = model.labels
    if names is None or not labels:
        return LabelChoice(None, True, "")
    if match_labels(names, labels) is not None:
        return LabelChoice(None, False, "the model already classifies these labels")
    numbers = all(label.isdecimal() for label in labels)
    if numbers and max(map(int, labels)) < len(names) == len(labels):
        return LabelChoice(names, False, "the data has numbers, and the model has these names for them")
    return LabelChoice(None, True, "")
