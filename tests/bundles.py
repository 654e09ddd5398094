"""Tiny bundles of each task, made by the steps that a run makes: lower, quantize, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from compress.artifacts import TASK, TOKENIZER, Artifact, seal, write_json, write_text
from compress.data.splits import UNLABELLED, Examples
from compress.forms import TORCH_FLOAT
from compress.lowering import step as lower
from compress.models.checkpoints import count_parameters, save_model
from compress.models.sentence import SentenceEncoder
from compress.passes.export import step as export
from compress.passes.quantize import step as quantize
from compress.profile.base import Spec
from compress.profile.pass_specs import ExportSpec, QuantizeSpec
from compress.profile.schema import DataSpec
from compress.progress import Silent
from compress.step import StepContext
from compress.tasks.base import Task, TrainingData
from compress.tasks.sentence_embedding import SentenceEmbedding
from tests.tiny import LABELS, SPECIAL, WORDS, text_task, tiny_bert, tiny_tokenizer, write_torch_artifact
from tests.tiny_vision import LABELS as SIDES
from tests.tiny_vision import image_task, images, tiny_network, write_image_artifact

FILLED = (*WORDS, *(f"w{index}" for index in range(600 - len(WORDS) - len(SPECIAL))))
"""So many tokens that a table of embeddings is worth quantizing."""


def text_bundle(folder: Path, spec: QuantizeSpec | None = None) -> Path:
    """A text classifier, in 8 bits where nothing else is asked."""
    model = tiny_bert(vocab=len(SPECIAL) + len(FILLED))
    source = write_torch_artifact(folder / "torch", model, tiny_tokenizer(FILLED))
    data = TrainingData(_texts(60), _texts(20, seed=1), LABELS)
    return _bundle(folder, source, text_task(32), data, spec or QuantizeSpec(scheme="dynamic"))


def image_bundle(folder: Path) -> Path:
    """A convolutional classifier of 8x8 grey images, in 8 bits."""
    source = write_image_artifact(folder / "torch", tiny_network(folder / "code"))
    data = TrainingData(images(120), images(20, seed=1), SIDES)
    return _bundle(folder, source, image_task(), data, QuantizeSpec())


def sentence_bundle(folder: Path) -> Path:
    """A sentence encoder of 32 numbers a text, in 8 bits."""
    source = _sentence_encoder(folder / "torch")
    data = TrainingData(_texts(60), _texts(20, seed=1), ())
    task = SentenceEmbedding(DataSpec(path="unused", max_length=16))
    return _bundle(folder, source, task, data, QuantizeSpec(scheme="dynamic"))


def _bundle(folder: Path, source: Artifact, task: Task, data: TrainingData, spec: QuantizeSpec) -> Path:
    steps: Sequence[tuple[str, Any, Spec]] = (
        ("lower", lower, ExportSpec()),
        ("quantize", quantize, spec),
        ("export", export, ExportSpec(formats=("onnx", "ort"), golden=4)),
    )
    model = source
    for name, step, asked in steps:
        out, work = folder / name, folder / f"{name}-work"
        out.mkdir(parents=True)
        work.mkdir()
        ctx = StepContext(
            spec=asked,
            inputs={"model": model, "teacher": model},
            task=task,
            data=data,
            out=out,
            work=work,
            shared=folder / "shared",
            seed=0,
            precision="fp32",
            device="cpu",
            threads=1,
            progress=Silent(),
        )
        result = step.run(ctx)
        model = seal(out, result.form, result.facts)
    return model.path


def _texts(count: int, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    items = tuple(" ".join(random.choice(WORDS[:9], random.integers(1, 12))) for _ in range(count))
    return Examples(items, np.full(count, UNLABELLED))


def _sentence_encoder(out: Path) -> Artifact:
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(FILLED),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inside = BertModel(config)
        for parameter in inside.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    model = SentenceEncoder(inside, "mean", normalize=True).eval()
    save_model(model, out)
    tokenizer = tiny_tokenizer(FILLED)
    write_text(out / TOKENIZER, tokenizer.to_str())
    body = {
        "task": "sentence-embedding",
        "max_length": 16,
        "labels": [],
        "input_names": ["input_ids", "attention_mask", "token_type_ids"],
        "output_names": ["embedding"],
        "width": 32,
        "pad_id": tokenizer.token_to_id("[PAD]"),
        "unk_id": tokenizer.token_to_id("[UNK]"),
        "mask_id": tokenizer.token_to_id("[MASK]"),
    }
    write_json(out / TASK, body)
    return seal(out, TORCH_FLOAT, {"parameters": count_parameters(model)})
