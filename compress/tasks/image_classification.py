"""Image classification: one image, one label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK
from compress.data.splits import Examples
from compress.encoding.images import ImageFormat, ImageInputs
from compress.profile.schema import DataSpec
from compress.tasks.base import Score, Truth
from compress.tasks.classification import accuracy, predicted_classes


@dataclass(frozen=True)
class ImageClassification:
    """Images scaled and normalised as the `task.json` of an artifact says; scored by accuracy."""

    name: ClassVar[str] = "image-classification"
    metric: ClassVar[str] = "accuracy"
    labelled: ClassVar[bool] = True
    data: DataSpec

    @classmethod
    def from_spec(cls, data: DataSpec) -> ImageClassification:
        """The task of a profile's data."""
        return cls(data)

    def encode(self, examples: Examples, model: Path) -> ImageInputs:
        """The images as the artifact directory `model` declares them; none is read yet."""
        return ImageInputs(examples.items, ImageFormat.read(model / TASK))

    def needs_reference(self, examples: Examples) -> bool:
        """Never: labels say what is right."""
        return False

    def score(self, outputs: NDArray[np.float32], truth: Truth) -> Score:
        """The accuracy of outputs (n, labels)."""
        return Score(self.metric, accuracy(predicted_classes(outputs), truth.labels))

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Outputs (n, labels) -> predicted label indices (n,)."""
        return predicted_classes(outputs)
