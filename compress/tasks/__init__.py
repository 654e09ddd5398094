"""Kinds of problems: one file a task, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compress.profile.schema import DataSpec, TaskName
from compress.tasks.base import Task
from compress.tasks.image_classification import ImageClassification
from compress.tasks.sentence_embedding import SentenceEmbedding
from compress.tasks.text_classification import TextClassification

TASKS: Mapping[TaskName, Callable[[DataSpec], Task]] = {
    "text-classification": TextClassification.from_spec,
    "image-classification": ImageClassification.from_spec,
    "sentence-embedding": SentenceEmbedding.from_spec,
}


def task_of(name: TaskName, data: DataSpec) -> Task:
    """The task that a profile names."""
    return TASKS[name](data)
