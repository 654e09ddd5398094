"""What recovery minimises: the loss of its one step, whose batch holds every example, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.artifacts import Artifact
from compress.core.errors import ModelError, PassError
from compress.data.splits import UNLABELLED, Examples
from compress.models.anatomy.factors import insert_factors
from compress.models.io.checkpoints import load_model
from compress.models.io.outputs import outputs_of
from compress.profile.schema import DataSpec
from compress.profile.specs.recovery import RecoverySpec
from compress.tasks.base import Task, TrainingData
from compress.tasks.sentence_embedding.task import SentenceEmbedding
from compress.training.batches import to_tensors
from compress.training.recovery import recover
from compress.training.signals.capture import anatomy_of, capture
from compress.training.validation import Validation
from tests.steps import context
from tests.tiny import WORDS, text_task, tiny_bert, tiny_tokenizer, write_torch_artifact
from tests.tiny_sentences import encoder, write_sentence_artifact
from tests.tiny_vision import image_task, images, tiny_vit, write_image_artifact

COUNT = 24
Floats = NDArray[np.float64]


def texts(labelled: bool = True, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    items = tuple(" ".join(random.choice(WORDS[:9], random.integers(1, 8))) for _ in range(COUNT))
    return Examples(items, random.integers(0, 3, COUNT) if labelled else np.full(COUNT, UNLABELLED))


def first_loss(
    folder: Path,
    model: Artifact,
    teacher: Artifact | None,
    task: Task,
    examples: Examples,
    asked: dict[str, Any] | None = None,
    epochs: int = 1,
) -> list[float]:
    """The loss of each step of a recovery on all examples; the first is that of the model as it was."""
    inputs = {"model": model} if teacher is None else {"model": model, "teacher": teacher}
    spec = RecoverySpec.model_validate({"epochs": epochs, "batch_size": COUNT, "warmup": 0, **(asked or {})})
    ctx = context(folder, spec, inputs, task, TrainingData(examples, examples, ("a", "b", "c")))
    validation = Validation.of(ctx, model.path, teacher or model)
    loaded = load_model(model.path)
    curve = recover(ctx, loaded, spec, model.path, validation)
    return [point.train_loss for point in curve.points if point.train_loss is not None]


def outputs(task: Task, examples: Examples, artifact: Artifact, head: str | None = None) -> Floats:
    inputs = task.encode(examples, artifact.path)
    with torch.inference_mode():
        given = load_model(artifact.path)(**to_tensors(inputs.batch(range(COUNT)), "cpu"))
        found = outputs_of(given) if head is None else getattr(given, head)
    return found.numpy().astype(np.float64)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def divergence(student: Floats, teacher: Floats, temperature: float) -> float:
    goal, guess = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return float(temperature**2 * (np.exp(goal) * (goal - guess)).sum(1).mean())


def cross_entropy(logits: Floats, labels: Sequence[int]) -> float:
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def hidden(task: Task, examples: Examples, artifact: Artifact, layer: int) -> tuple[Floats, Any]:
    batch = to_tensors(task.encode(examples, artifact.path).batch(range(COUNT)), "cpu")
    with torch.inference_mode():
        signal = capture(load_model(artifact.path), batch, {f"hidden.{layer}"})[f"hidden.{layer}"]
    return signal.numpy().astype(np.float64), batch["attention_mask"].bool().numpy()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Narrower than the teacher, and its own ids for the same words."""
    made = tiny_bert(hidden=16, layers=1, heads=2, ffn=16)
    return write_torch_artifact(tmp_path_factory.mktemp("student"), made, tiny_tokenizer(WORDS[::-1]))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_torch_artifact(tmp_path_factory.mktemp("teacher"), tiny_bert(seed=1))


@pytest.mark.parametrize(("asked", "temperature"), [({}, 2.0), ({"temperature": 3}, 3.0)])
def test_classifiers_follow_the_teachers_logits(
    student: Artifact, teacher: Artifact, tmp_path: Path, asked: dict[str, Any], temperature: float
) -> None:
    task, examples = text_task(16), texts()
    (loss,) = first_loss(tmp_path, student, teacher, task, examples, asked)
    mine, theirs = (outputs(task, examples, one) for one in (student, teacher))
    assert loss == pytest.approx(divergence(mine, theirs, temperature), rel=1e-5)


def test_classifiers_without_a_teacher_follow_the_labels(student: Artifact, tmp_path: Path) -> None:
    task, examples = text_task(16), texts()
    (loss,) = first_loss(tmp_path, student, None, task, examples)
    assert loss == pytest.approx(
        cross_entropy(outputs(task, examples, student), examples.labels.tolist()), rel=1e-5
    )


def test_embeddings_follow_the_teachers_cosines(tmp_path: Path) -> None:
    task, examples = SentenceEmbedding(DataSpec(path="unused", max_length=16)), texts(labelled=False)
    made = [write_sentence_artifact(tmp_path / str(seed), encoder("mean", seed)) for seed in range(2)]
    (loss,) = first_loss(tmp_path / "run", made[0], made[1], task, examples)
    cosines = []
    for artifact in made:
        rows = outputs(task, examples, artifact)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        matrix = rows @ rows.T
        cosines.append(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    assert loss == pytest.approx(((cosines[0] - cosines[1]) ** 2).sum(1).mean(), rel=1e-4)


def test_embeddings_without_a_teacher_cannot_recover(tmp_path: Path) -> None:
    task, examples = SentenceEmbedding(DataSpec(path="unused", max_length=16)), texts(labelled=False)
    model = write_sentence_artifact(tmp_path / "model", encoder("mean"))
    with pytest.raises(PassError, match="without labels a model can only recover from a teacher"):
        first_loss(tmp_path / "run", model, None, task, examples)


def test_losses_are_a_weighted_sum_of_what_they_name(
    student: Artifact, teacher: Artifact, tmp_path: Path
) -> None:
    task, examples = text_task(16), texts()
    wide = write_torch_artifact(tmp_path / "wide", tiny_bert(layers=1), tiny_tokenizer(WORDS[::-1]))
    losses = [
        {"logits": {"temperature": 4, "weight": 0.5}},
        {"labels": {"weight": 0.25, "smoothing": 0}},
        {"hidden": {"weight": 3, "layers": "last"}},
    ]
    (loss,) = first_loss(tmp_path / "run", wide, teacher, task, examples, {"losses": losses})
    mine, theirs = (outputs(task, examples, one) for one in (wide, teacher))
    (inside, real), (goal, _) = hidden(task, examples, wide, 0), hidden(task, examples, teacher, 1)
    expected = (
        0.5 * divergence(mine, theirs, 4)
        + 0.25 * cross_entropy(mine, examples.labels.tolist())
        + 3 * ((inside - goal)[real] ** 2).mean()
    )
    # Inner signals are kept in 16 bits.
    assert loss == pytest.approx(expected, rel=1e-3)


def test_a_narrower_model_learns_a_projection_beside_itself(
    student: Artifact, teacher: Artifact, tmp_path: Path
) -> None:
    asked = {"losses": [{"hidden": {}}, {"relation": {}}, {"masked_lm": {}}, {"logits": {}}]}
    runs = [
        first_loss(tmp_path / name, student, teacher, text_task(16), texts(), asked, epochs=6)
        for name in ("once", "again")
    ]
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0]


@pytest.mark.parametrize("both", [False, True], ids=["teacher alone", "teacher and labels"])
def test_two_heads_learn_apart_only_where_labels_teach_too(tmp_path: Path, both: bool) -> None:
    task, examples = image_task(), images(COUNT)
    made = [
        write_image_artifact(tmp_path / str(seed), tiny_vit(distilled=True, seed=seed)) for seed in range(2)
    ]
    asked = {"losses": [{"logits": {}}, {"labels": {}}]} if both else {}
    (loss,) = first_loss(tmp_path / "run", made[0], made[1], task, examples, asked)
    goal = outputs(task, examples, made[1])
    if both:
        expected = divergence(outputs(task, examples, made[0], "distillation_logits"), goal, 2)
        expected += cross_entropy(outputs(task, examples, made[0], "cls_logits"), examples.labels.tolist())
    else:
        expected = divergence(outputs(task, examples, made[0]), goal, 2)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_tokens_of_other_pieces_are_not_compared(teacher: Artifact, tmp_path: Path) -> None:
    words = tuple(word for word in WORDS if word != "green")
    halves = tiny_tokenizer((*words, "gre", "##en"))
    model = write_torch_artifact(tmp_path / "model", tiny_bert(vocab=20), halves)
    asked = {"losses": [{"hidden": {}}, {"logits": {}}]}
    with pytest.raises(ModelError, match="student and teacher tokenize texts differently, so hidden"):
        first_loss(tmp_path / "run", model, teacher, text_task(16), texts(), asked)
    # What the models put out is compared whatever they read.
    assert len(first_loss(tmp_path / "out", model, teacher, text_task(16), texts())) == 1


def test_the_teacher_is_asked_once(student: Artifact, teacher: Artifact, tmp_path: Path) -> None:
    asked = {"losses": [{"hidden": {}}, {"logits": {}}]}
    first_loss(tmp_path, student, teacher, text_task(16), texts(), asked)
    kept = sorted(path.name for path in (tmp_path / "shared").glob("*/*.bin"))
    assert kept == ["hidden.1.bin", "outputs.bin"]


def test_a_loss_that_the_model_has_nothing_for_is_refused(tmp_path: Path) -> None:
    made = write_image_artifact(tmp_path / "model", tiny_vit())
    asked = {"losses": [{"attention": "spatial"}, {"logits": {}}]}
    with pytest.raises(ModelError, match="of: spatial compares feature maps of convolutions") as caught:
        first_loss(tmp_path / "run", made, made, image_task(), images(COUNT), asked)
    assert caught.value.where == "losses.attention"


def test_both_factors_of_a_map_can_be_looked_into(teacher: Artifact, tmp_path: Path) -> None:
    """Attention of a factored model is captured as of a whole one."""
    model = tiny_bert()
    insert_factors(
        model, [f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value")], 8
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = {"input_ids": torch.tensor([[2, 6, 7, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    found = anatomy_of(model, batch)
    assert (found.num_layers, found.hidden_size, found.head_counts) == (2, 32, (4, 4))
    assert capture(model, batch, {"query.0"})["query.0"].shape == (1, 4, 32)
