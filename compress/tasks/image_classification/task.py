"""Image classification: one image, one label."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from compress.core.artifacts import TASK
from compress.core.task_kind import TaskKind
from compress.data.splits import Examples
from compress.encoding.images import ImageFormat, ImageInputs
from compress.tasks.image_classification.kind import KIND
from compress.tasks.labels import LabelTask


class ImageClassification(LabelTask):
    """Images scaled and normalised as the `task.json` of an artifact says; scored by accuracy."""

    kind: ClassVar[TaskKind] = KIND

    def encode(self, examples: Examples, model: Path) -> ImageInputs:
        """The images as the artifact directory `model` declares them; none is read yet."""
        return ImageInputs(examples.items, ImageFormat.read(model / TASK))
