"""Every family of the table: what is loaded, written and lowered says the same as transformers' own class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from compress.core.artifacts import TASK
from compress.lowering.files import save_onnx
from compress.lowering.step import lower
from compress.models.anatomy.table.families import FAMILIES, families_supporting
from compress.models.io.checkpoints import load_model, save_model
from compress.models.io.outputs import outputs_of
from compress.models.teacher.images import open_image_teacher
from compress.models.teacher.materialise import materialise
from compress.models.text.sentence import SentenceEncoder
from compress.profile.schema import TeacherSpec
from compress.runtimes.runner import open_session
from tests.tiny_families import (
    IMAGE_SIZE,
    LABELS,
    image_batch,
    text_batch,
    tiny_model,
    write_tokenizer,
)

TEXTS = families_supporting("lower", "texts")
IMAGES = families_supporting("lower", "images")
FEW = ("beit", "clip", "convnext", "deit", "levit", "resnet", "swin", "vit")
"""Of images, one of each kind; the others are slow tests."""
SORTED = tuple(sorted(LABELS))
LIMIT = 1e-4
SHAPES = ((1, 1), (1, 40), (8, 23))


def agree(got: Any, expected: Any) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert float(np.abs(got - expected).max()) <= LIMIT * max(1.0, float(np.abs(expected).max()))


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        return outputs_of(model(**batch)).numpy()


def carried(
    tmp_path: Path, model: Any, task: Any = "text-classification", labels: Any = SORTED
) -> tuple[Any, Any]:
    """The model after a source step, and its task.json."""
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    write_tokenizer(folder)
    spec = TeacherSpec(model=str(folder))
    materialise(spec, labels, tmp_path, tmp_path / "out", max_length=40, allow_code=False, task=task)
    return load_model(tmp_path / "out"), json.loads((tmp_path / "out" / TASK).read_text())


# What a config may say beside its sizes, of the families that have it; each changes what comes out.
VARIANTS = [
    *((kind, {}) for kind in TEXTS),
    ("bert", {"hidden_act": "relu"}),
    ("bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2}),
    ("bert", {"type_vocab_size": 1}),
    ("bert", {"classifier_dropout": 0.5, "hidden_dropout_prob": 0.5, "use_cache": False}),
    ("bert", {"pad_token_id": 3}),
    ("bert", {"chunk_size_feed_forward": 1}),
    ("roberta", {"type_vocab_size": 2, "hidden_act": "silu"}),
    ("roberta", {"pad_token_id": 0, "max_position_embeddings": 90}),
    ("distilbert", {"sinusoidal_pos_embds": True, "activation": "relu"}),
    ("distilbert", {"seq_classif_dropout": 0.9, "tie_weights_": True}),
    ("electra", {"summary_type": "mean", "summary_last_dropout": 0.7, "hidden_act": "relu"}),
    (
        "mobilebert",
        {"use_bottleneck": False, "num_feedforward_networks": 1, "normalization_type": "layer_norm"},
    ),
    ("mobilebert", {"trigram_input": False, "classifier_activation": False, "embedding_size": 32}),
    ("roformer", {"rotary_value": True, "embedding_size": 16}),
    ("squeezebert", {"q_groups": 1, "k_groups": 1, "v_groups": 1}),
    ("convbert", {"head_ratio": 1, "conv_kernel_size": 5, "num_groups": 2}),
    ("mpnet", {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
]


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=str)
def test_a_classifier_is_carried(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    ours, task = carried(tmp_path, tiny_model(kind, **changes))
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", dtype=torch.float32
    ).eval()
    order = [LABELS.index(label) for label in SORTED]
    assert [ours.config.id2label[place] for place in range(3)] == list(SORTED)
    for rows, length in SHAPES:
        batch = text_batch(kind, rows, length, tuple(task["input_names"]))
        agree(outputs(ours, batch), outputs(theirs, batch)[:, order])
    # Alone and among others, a text gives the same; but a convolution over tokens sees the padding.
    if kind not in ("convbert", "mobilebert"):
        many = text_batch(kind, 8, 23, tuple(task["input_names"]))
        alone = {name: values[:1, :3] for name, values in many.items()}
        agree(outputs(ours, alone), outputs(ours, many)[:1])


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if "embed" not in FAMILIES[kind].cannot])
def test_an_encoder_is_carried(tmp_path: Path, kind: str) -> None:
    ours, task = carried(tmp_path, tiny_model(kind, head=False), "sentence-embedding", ())
    theirs = AutoModel.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    batch = text_batch(kind, 8, 23, tuple(task["input_names"]))
    with torch.no_grad():
        hidden, mask = theirs(**batch).last_hidden_state, batch["attention_mask"][..., None].float()
        expected = (hidden * mask).sum(1) / mask.sum(1)
        agree(ours(**batch), expected)


@pytest.mark.parametrize(
    "kind", [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in IMAGES]
)
def test_an_image_classifier_is_carried(tmp_path: Path, kind: str) -> None:
    model = tiny_model(kind)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}})
    )
    found = open_image_teacher(
        "image-classification", TeacherSpec(model=str(folder)), SORTED, tmp_path, allow_code=False, seed=0
    )
    save_model(found.model, tmp_path / "out")
    theirs = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    order = [LABELS.index(label) for label in SORTED]
    batch = image_batch(3)
    agree(outputs(load_model(tmp_path / "out"), batch), outputs(theirs, batch)[:, order])


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("head", [True, False], ids=["classifier", "encoder"])
def test_texts_are_lowered_exactly(tmp_path: Path, kind: str, head: bool) -> None:
    if not head and "embed" in FAMILIES[kind].cannot:
        pytest.skip("it does not run without its pooler")
    task = "text-classification" if head else "sentence-embedding"
    carried(tmp_path, tiny_model(kind, head=head), task, SORTED if head else ())
    model = load_model(tmp_path / "out", attention="eager")
    assert isinstance(model, SentenceEncoder) is not head
    described = json.loads((tmp_path / "out" / TASK).read_text())
    graph, _ = lower(model, described)
    session = open_session(str(save_onnx(graph, tmp_path)))
    for rows, length in SHAPES:
        batch = text_batch(kind, rows, length, tuple(described["input_names"]))
        got = session.run(None, {name: values.numpy() for name, values in batch.items()})[0]
        agree(got, outputs(model, batch))


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES)
def test_images_are_lowered_exactly(tmp_path: Path, kind: str) -> None:
    model = tiny_model(kind)
    save_model(model, tmp_path / "out")
    lowered = load_model(tmp_path / "out", attention="eager")
    size = {"size": [IMAGE_SIZE, IMAGE_SIZE], "channels": 3}
    graph, _ = lower(lowered, {"input_names": ["pixel_values"], "output_names": ["logits"], "image": size})
    session = open_session(str(save_onnx(graph, tmp_path)))
    for rows in (1, 3):
        batch = image_batch(rows)
        got = session.run(None, {"pixel_values": batch["pixel_values"].numpy()})[0]
        agree(got, outputs(model, batch))
