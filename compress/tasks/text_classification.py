"""Text classification: one text, one label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK, TOKENIZER
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs, encode_texts
from compress.profile.schema import DataSpec
from compress.tasks.base import Score, Truth
from compress.tasks.classification import accuracy, predicted_classes


@dataclass(frozen=True)
class TextClassification:
    """Texts cut to `max_length` tokens; scored by accuracy.

    `data.max_length` is what the profile asks for; an artifact holds it in its `task.json`, and that is what
    `encode` reads, so that a model is always given what its bundle will give it.
    """

    name: ClassVar[str] = "text-classification"
    metric: ClassVar[str] = "accuracy"
    labelled: ClassVar[bool] = True
    data: DataSpec

    @classmethod
    def from_spec(cls, data: DataSpec) -> TextClassification:
        """The task of a profile's data."""
        return cls(data)

    def encode(self, examples: Examples, model: Path) -> TokenInputs:
        """Encode examples with the tokenizer of the artifact directory `model`."""
        return encode_texts(examples.texts, model / TOKENIZER, model / TASK)

    def needs_reference(self, examples: Examples) -> bool:
        """Never: labels say what is right."""
        return False

    def score(self, outputs: NDArray[np.float32], truth: Truth) -> Score:
        """The accuracy of outputs (n, labels)."""
        return Score(self.metric, accuracy(predicted_classes(outputs), truth.labels))

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Outputs (n, labels) -> predicted label indices (n,)."""
        return predicted_classes(outputs)
