"""Tiny bundles of each task, made by the steps that a run makes: lower, quantize, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.core.artifacts import Artifact
from compress.core.spec import Spec
from compress.data.splits import UNLABELLED, Examples
from compress.lowering import step as lower
from compress.passes.export import step as export
from compress.passes.export.spec import ExportSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.spec import QuantizeSpec
from compress.profile.schema import DataSpec
from compress.tasks.base import Task, TrainingData
from compress.tasks.sentence_embedding.task import SentenceEmbedding
from tests.steps import context, run
from tests.tiny import LABELS, SPECIAL, WORDS, text_task, tiny_bert, tiny_tokenizer, write_torch_artifact
from tests.tiny_sentences import encoder, write_sentence_artifact
from tests.tiny_vision import LABELS as SIDES
from tests.tiny_vision import image_task, images, tiny_network, write_image_artifact

FILLED = (*WORDS, *(f"w{index}" for index in range(600 - len(WORDS) - len(SPECIAL))))
"""So many tokens that a table of embeddings is worth quantizing."""


def text_bundle(folder: Path, spec: QuantizeSpec | None = None) -> Path:
    """A text classifier, in 8 bits where nothing else is asked."""
    model = tiny_bert(vocab=len(SPECIAL) + len(FILLED))
    source = write_torch_artifact(folder / "torch", model, tiny_tokenizer(FILLED))
    # Variants are scored, and any answers do.
    parts = (random_texts(60), random_texts(20, seed=1))
    given = (Examples(each.items, np.arange(len(each.items)) % len(LABELS)) for each in parts)
    data = TrainingData(*given, LABELS)
    return _bundle(folder, source, text_task(32), data, spec or Int8Spec(scheme="dynamic"))


def image_bundle(folder: Path) -> Path:
    """A convolutional classifier of 8x8 grey images, in 8 bits."""
    source = write_image_artifact(folder / "torch", tiny_network(folder / "code"))
    data = TrainingData(images(120), images(20, seed=1), SIDES)
    return _bundle(folder, source, image_task(), data, Int8Spec())


def sentence_bundle(folder: Path) -> Path:
    """A sentence encoder of 32 numbers a text, in 8 bits."""
    source = write_sentence_artifact(folder / "torch", encoder("mean", words=FILLED), FILLED)
    data = TrainingData(random_texts(60), random_texts(20, seed=1), ())
    task = SentenceEmbedding(DataSpec(path="unused", max_length=16))
    return _bundle(folder, source, task, data, Int8Spec(scheme="dynamic"))


def _bundle(folder: Path, source: Artifact, task: Task, data: TrainingData, spec: QuantizeSpec) -> Path:
    steps: Sequence[tuple[str, Any, Spec]] = (
        ("lower", lower, ExportSpec()),
        ("quantize", quantize, spec),
        ("export", export, ExportSpec(formats=("onnx", "ort"), golden=4)),
    )
    model = source
    for name, step, asked in steps:
        inputs = {"model": model, "teacher": model}
        model, _ = run(step, context(folder / name, asked, inputs, task, data))
    return model.path


def random_texts(count: int, seed: int = 0) -> Examples:
    """Texts of one to eleven known words, without labels."""
    random = np.random.default_rng(seed)
    items = tuple(" ".join(random.choice(WORDS[:9], random.integers(1, 12))) for _ in range(count))
    return Examples(items, np.full(count, UNLABELLED))
