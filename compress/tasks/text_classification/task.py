"""Text classification: one text, one label."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.task_kind import TaskKind
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs, encode_texts
from compress.tasks.labels import LabelTask
from compress.tasks.text_classification.kind import KIND


class TextClassification(LabelTask):
    """Task on texts truncated to `max_length` tokens; scored by accuracy.

    `data.max_length` is the profile's setting; an artifact stores it in its `task.json`, which `encode` reads, so that
    a model always gets the same inputs as in its bundle.
    """

    kind: ClassVar[TaskKind] = KIND

    def encode(self, examples: Examples, model: Path) -> TokenInputs:
        """Encode examples with the tokenizer of the artifact directory `model`."""
        return encode_texts(examples.texts, model / TOKENIZER, model / TASK)
