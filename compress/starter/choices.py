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

DEFAULT_MAX_LENGTH = 128
"""Default `max_length` in tokens, if neither data nor model determine one."""


_COVERED_PERCENT = 95
_MIN_LENGTH = 16
_LENGTH_STEP = 8
_SAMPLED_TEXTS = 2000
_TOKENS_PER_WORD = 1.5


@dataclass(frozen=True)
class StudentShape:
    """Shape of a student; None for what the profile leaves to the teacher."""

    layers: int
    hidden: int | None


def choose_student(model: ModelInfo, default: StudentShape) -> StudentShape:
    """Return the task's usual student, but no wider than the teacher and at least one layer shallower if possible."""
    layers, hidden = default.layers, default.hidden
    if model.sizes is None:
        return default
    narrower = hidden is not None and hidden < model.sizes.hidden
    return StudentShape(min(layers, max(1, model.sizes.layers - 1)), hidden if narrower else None)


def choose_max_length(texts: Sequence[str], model: ModelInfo) -> tuple[int, str]:
    """Return `max_length` and its reason: 95 % of the texts are not truncated, within the limit of the model."""
    if not texts:
        length, reason = DEFAULT_MAX_LENGTH, "longer texts are cut to this many tokens"
    else:
        percentile = math.ceil(np.percentile(_token_counts(texts[:_SAMPLED_TEXTS], model), _COVERED_PERCENT))
        length = max(_MIN_LENGTH, _LENGTH_STEP * math.ceil(percentile / _LENGTH_STEP))
        reason = f"{_COVERED_PERCENT} % of the texts have {percentile} tokens at most; longer ones are cut"
    if model.max_tokens is not None and length > model.max_tokens:
        length, reason = max(2, model.max_tokens), f"{reason}; the model takes {model.max_tokens}"
    return min(length, 8192), reason


def _token_counts(texts: Sequence[str], model: ModelInfo) -> list[int]:
    """Return the tokens of each text, with special ones; estimated from words if there is no `tokenizer.json`."""
    tokenizer_file = None if model.folder is None else model.folder / TOKENIZER
    try:
        if tokenizer_file is not None and tokenizer_file.is_file():
            return [
                len(encoding.ids)
                for encoding in open_without_truncation(tokenizer_file).encode_batch_fast(list(texts))
            ]
    except ModelError:
        # Tokenizer faults are reported by `validate`.
        pass
    return [round(_TOKENS_PER_WORD * len(text.split())) + 2 for text in texts]


@dataclass(frozen=True)
class LabelChoice:
    """Labels in the profile: names for integer labels, and whether to fine-tune the teacher first."""

    names: tuple[str, ...] | None
    finetune: bool
    reason: str


def choose_labels(model: ModelInfo, labels: Sequence[str]) -> LabelChoice:
    """Determine whether the model's head classifies these labels, by its own names or by their order."""
    names = model.labels
    if names is None or not labels:
        return LabelChoice(None, True, "")
    if match_labels(names, labels) is not None:
        return LabelChoice(None, False, "the model already classifies these labels")
    numeric = all(label.isdecimal() for label in labels)
    if numeric and max(map(int, labels)) < len(names) == len(labels):
        return LabelChoice(names, False, "the data has numbers, and the model has these names for them")
    return LabelChoice(None, True, "")
