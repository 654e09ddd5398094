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
    """Task on images scaled and normalized as in the `task.json` of an artifact; scored by accuracy."""

    kind: ClassVar[TaskKind] = KIND

    def encode(self, examples: Examples, model: Path) -> ImageInputs:
        """Return the images as inputs in the format of the artifact directory `model`; none is read yet."""
        return ImageInputs(examples.items, ImageFormat.read(model / TASK))
