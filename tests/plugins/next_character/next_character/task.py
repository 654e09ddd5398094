"""How documents become inputs, and what a model's answers to them are worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK
from compress.core.disk.reading import read_mapping
from compress.core.task_kind import TaskKind
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.profile.schema import DataSpec
from compress.tasks.base import Answers, Score, Truth, not_finite, wrong_shape
from next_character import scorer as bits_scorer
from next_character.alphabet import PAD, numbers_of, size_of
from next_character.kind import KIND


class NextCharacter:
    """One document, and for each of its characters the logits of the one that follows."""

    kind: ClassVar[TaskKind] = KIND
    scorer: ClassVar[Any] = bits_scorer

    def __init__(self, data: DataSpec) -> None:
        self.data = data

    def encode(self, examples: Examples, model: Path) -> TokenInputs:
        """Numbers of characters, by the alphabet of the model."""
        said = read_mapping(model / TASK)
        numbers = [
            np.array(numbers_of(text, said["alphabet"], said["max_length"]), np.int32)
            for text in examples.texts
        ]
        return TokenInputs(numbers, tuple(said["input_names"]), PAD)

    def scorable(self, examples: Examples) -> Examples:
        """All of them: each document says itself what follows."""
        return examples

    def needs_reference(self, examples: Examples) -> bool:
        """Never."""
        return False

    def settings(self, task_json: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing that the scorer must be told."""
        return {}

    def check_outputs(self, shape: tuple[int, ...], task_json: Mapping[str, Any], where: str) -> None:
        """Outputs must be (documents, characters, alphabet)."""
        size = size_of(task_json["alphabet"])
        if len(shape) != 3 or shape[2] != size:
            raise wrong_shape(shape, f"(characters, {size})", where)

    def score(self, answers: Answers, truth: Truth) -> Score:
        """Bits a character, over the characters of all documents."""
        if not np.isfinite(answers["nats"]).all():
            raise not_finite()
        return Score(KIND.metric, float(answers["nats"].sum() / answers["characters"].sum() / np.log(2)))

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """KL(reference || outputs), nats: the mean over the characters."""
        sure, guess = (_log_softmax(each.astype(np.float64)) for each in (reference, outputs))
        return float((np.exp(sure) * (sure - guess)).sum(axis=-1).mean())


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised
