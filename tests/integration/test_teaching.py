"""Every way of teaching on tiny models: who taught whom, what was kept, what was never shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.artifacts import Artifact, seal
from compress.core.errors import ModelError, PassError
from compress.core.forms import TORCH_FLOAT
from compress.data.splits import Examples
from compress.models.io.checkpoints import load_model, save_model
from compress.models.io.outputs import outputs_of
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.step import StepContext
from compress.tasks.base import TrainingData
from compress.training.batches import to_tensors
from tests.integration.test_training_steps import accuracy, context, examples, finetuned, finish, taught_by
from tests.tiny import LABELS, tiny_bert, write_torch_artifact

SMALL: dict[str, Any] = {
    "student": {"layers": 1, "hidden_size": 16},
    "epochs": 25,
    "learning_rate": 5e-3,
    "batch_size": 16,
}
GOOD = 0.66
"""Chance is a third; a hundred examples teach no more than this for sure."""
LOGITS: list[dict[str, Any]] = [{"logits": {}}]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return finetuned(tmp_path_factory.mktemp("teacher"))


def prepared(folder: Path, teacher: Artifact, **changes: Any) -> StepContext:
    return context(folder, DistillSpec(**{**SMALL, **changes}), taught_by(teacher))


def taught(ctx: StepContext) -> Artifact:
    return finish(ctx, distill.run(ctx))


def outputs(artifact: Artifact, data: Examples) -> torch.Tensor:
    """Logits of a model on disk, an example at a time."""
    from tests.tiny import text_task

    inputs = text_task(32).encode(data, artifact.path)
    model = load_model(artifact.path)
    with torch.no_grad():
        rows = [outputs_of(model(**to_tensors(inputs.batch([i]), "cpu"))) for i in range(len(inputs))]
    return torch.cat(rows)


def test_stages_follow_each_other_with_their_own_losses(teacher: Artifact, tmp_path: Path) -> None:
    stages = [
        {"name": "inner", "losses": [{"hidden": {"layers": "last"}}, {"embedding": {}}], "epochs": 2},
        {"name": "answers", "losses": LOGITS, "epochs": 20, "learning_rate": 3e-3},
    ]
    ctx = prepared(tmp_path, teacher, stages=stages)
    result = distill.run(ctx)
    first, second = result.facts["stages"]
    assert (first["losses"], first["epochs"]) == (["hidden", "embedding"], 2)
    assert (second["losses"], second["epochs"]) == (["logits"], 20)
    assert [curve.name for curve in result.curves] == ["distill, inner", "distill, answers"]
    assert accuracy(finish(ctx, result), examples(200, 5)) > GOOD


def test_a_stage_without_answers_leaves_the_head_as_it_was(teacher: Artifact, tmp_path: Path) -> None:
    """What trains nothing but the inside must not move the classifier: its gradient is none."""
    stages = [
        {"losses": [{"embedding": {}}], "epochs": 3},
        {"losses": LOGITS, "epochs": 1, "learning_rate": 1e-12},
    ]
    ctx = prepared(tmp_path, teacher, stages=stages, weight_decay=0.0)
    student = load_model(taught(ctx).path)
    alone = prepared(
        tmp_path / "alone", teacher, epochs=0.1, learning_rate=1e-12, weight_decay=0.0, losses=LOGITS
    )
    untouched = load_model(taught(alone).path)
    torch.testing.assert_close(student.classifier.weight, untouched.classifier.weight)
    moved = (
        student.bert.embeddings.word_embeddings.weight - untouched.bert.embeddings.word_embeddings.weight
    ).abs()
    assert moved.max() > 1e-3


def constant_teacher(folder: Path, teacher: Artifact, answer: int) -> Artifact:
    """The teacher with a head that always gives one answer."""
    model = load_model(teacher.path)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(8.0 * torch.eye(len(LABELS))[answer])
    return write_torch_artifact(folder, model)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_several_teachers_count_by_their_weight(teacher: Artifact, tmp_path: Path, combine: str) -> None:
    stubborn = constant_teacher(tmp_path / "stubborn", teacher, 2)
    found = {}
    for name, weights in {"right": (1.0, 1e-4), "stubborn": (1e-4, 1.0)}.items():
        entries = [{"weight": weights[0]}, {"model": "elsewhere", "weight": weights[1]}]
        ctx = prepared(tmp_path / name, teacher, losses=LOGITS, teachers=entries, combine=combine)
        roles = {**ctx.inputs, "teacher.1": teacher, "teacher.2": stubborn}
        found[name] = taught(replace(ctx, inputs=roles))
    data = examples(200, 5)
    assert accuracy(found["right"], data) > GOOD
    assert (outputs(found["stubborn"], data).argmax(1) == 2).float().mean() > GOOD
    assert [one["name"] for one in found["right"].facts["teachers"]] == ["teacher", "elsewhere"]


def test_select_keeps_the_examples_that_the_teacher_is_sure_of(teacher: Artifact, tmp_path: Path) -> None:
    data = examples(120, 0)
    sure = torch.softmax(outputs(teacher, data), 1).max(1).values
    # Between two examples, so that no rounding decides which side one is on.
    limit = float(sure.sort().values[59:61].mean())
    student = taught(prepared(tmp_path, teacher, select={"confidence": limit}))
    assert student.facts["kept"] == {"examples": int((sure >= limit).sum()), "of": 120}
    assert student.facts["stages"][0]["examples"] == student.facts["kept"]["examples"] < 120


def test_select_right_leaves_out_what_the_teacher_gets_wrong(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, teacher, select={"right": True})
    labels = ctx.data.train.labels.copy()
    labels[:30] = (labels[:30] + 1) % 3
    train = replace(ctx.data.train, labels=labels)
    right = outputs(teacher, train).argmax(1).numpy() == labels
    student = taught(replace(ctx, data=replace(ctx.data, train=train)))
    assert student.facts["kept"]["examples"] == right.sum() <= 90


def test_nothing_to_learn_from_is_an_error(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, constant_teacher(tmp_path / "flat", teacher, 0), select={"confidence": 0.99999})
    with pytest.raises(PassError, match=r"only 0 of 120 examples are selected"):
        distill.run(ctx)


def test_each_generation_is_taught_by_the_one_before(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, teacher, generations=3, losses=LOGITS, epochs=3)
    result = distill.run(ctx)
    assert len(result.facts["generations"]) == 3
    assert [curve.name for curve in result.curves] == ["generation 1", "generation 2", "generation 3"]
    assert result.facts["teachers"][0]["name"] == "generation 2"
    last = load_model(ctx.work / "generation-3").state_dict()
    torch.testing.assert_close(load_model(finish(ctx, result).path).state_dict(), dict(last))


def test_the_generation_kept_is_the_best_on_validation(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, teacher, generations=2, keep="best", losses=LOGITS, epochs=2)
    result = distill.run(ctx)
    scores = [one["validation_score"] for one in result.facts["generations"]]
    best = scores.index(max(scores)) + 1
    kept = load_model(finish(ctx, result).path).state_dict()
    torch.testing.assert_close(kept, dict(load_model(ctx.work / f"generation-{best}").state_dict()))
    assert result.facts["validation_score"] == max(scores)


def test_an_ensemble_of_generations_averages_their_probabilities(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, teacher, generations=2, keep="ensemble", losses=LOGITS, epochs=2)
    whole = finish(ctx, distill.run(ctx))
    data = examples(30, 5)
    members = [
        torch.softmax(outputs(Artifact(ctx.work / f"generation-{n}", TORCH_FLOAT, {}, {}), data), 1)
        for n in (1, 2)
    ]
    torch.testing.assert_close(torch.softmax(outputs(whole, data), 1), torch.stack(members).mean(0))
    assert whole.facts["parameters"] == 2 * sum(
        p.numel() for p in load_model(ctx.work / "generation-1").parameters()
    )


def test_online_trains_the_teacher_too_and_leaves_its_artifact_alone(
    teacher: Artifact, tmp_path: Path
) -> None:
    source = write_torch_artifact(tmp_path / "beginner", tiny_bert(labels=LABELS, seed=3))
    before = source.digest
    ctx = prepared(
        tmp_path, source, online={"learning_rate": 3e-3}, losses=[{"logits": {}}, {"labels": {}}], epochs=10
    )
    student = taught(ctx)
    data = ctx.data.validation
    beginner = float((outputs(source, data).argmax(1).numpy() == data.labels).mean())
    assert student.facts["stages"][0]["teacher_validation_score"] > max(GOOD, beginner)
    assert accuracy(student, examples(200, 5)) > GOOD
    assert seal(source.path, source.form, source.facts).digest == before


def test_ema_needs_no_other_teacher(teacher: Artifact, tmp_path: Path) -> None:
    """A teacher that knows nothing does no harm, because it is never asked."""
    fool = constant_teacher(tmp_path / "fool", teacher, 1)
    ctx = prepared(
        tmp_path,
        fool,
        student={"layers": 1, "hidden_size": 16, "from": "scratch"},
        ema={"decay": 0.9},
        losses=[{"logits": {"weight": 0.5}}, {"labels": {}}],
    )
    student = taught(ctx)
    assert student.facts["teachers"] == [{"name": "the student's moving average", "weight": 1.0}]
    assert accuracy(student, examples(200, 5)) > 0.5
    assert 0 < student.facts["stages"][0]["average_validation_score"] <= 1
    assert not ctx.shared.exists()


def test_unlabelled_examples_are_labelled_by_the_teacher(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, teacher, losses=LOGITS, data="unlabeled", epochs=30)
    more = replace(examples(150, 9), labels=np.full(150, -1, np.int64))
    # The labelled examples are few and all of one class: what the student knows it has from the others.
    one = np.flatnonzero(ctx.data.train.labels == 0)[:6]
    data = TrainingData(ctx.data.train.take(one), ctx.data.validation, LABELS, more)
    student = taught(replace(ctx, data=data))
    assert student.facts["shown"] == {"train": 6, "unlabeled": 150}
    assert student.facts["stages"][0]["examples"] == 150
    assert accuracy(student, examples(200, 5)) > GOOD


class Unreadable(tuple[str, ...]):
    """Items that nobody may look at."""

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("a training example was read")

    def __iter__(self) -> Any:
        raise AssertionError("the training examples were read")


def test_without_data_no_training_example_is_read(teacher: Artifact, tmp_path: Path) -> None:
    free = {"examples": 300, "length": (3, 8), "rounds": 2}
    ctx = prepared(tmp_path, teacher, losses=LOGITS, data_free=free, vocabulary="trim")
    hidden = replace(ctx.data.train, items=Unreadable(ctx.data.train.items))
    student = taught(replace(ctx, data=replace(ctx.data, train=hidden)))
    assert student.facts["shown"] == {"sampled": 300}
    assert student.facts["data_free"]["shown"] == "sampled token sequences"
    assert accuracy(student, examples(200, 5)) > GOOD


@pytest.mark.slow
def test_the_control_of_a_student_without_data_takes_as_many_steps_with_it(
    teacher: Artifact, tmp_path: Path
) -> None:
    free = {"examples": 300, "length": (3, 8), "rounds": 1}
    student, control = (
        finish(ctx, run(ctx))
        for name, run in (("without", distill.run), ("with", distill.run_control))
        for ctx in [prepared(tmp_path / name, teacher, losses=LOGITS, data_free=free)]
    )
    assert control.facts["shown"] == {"train": 120}
    assert control.facts["steps"] == student.facts["steps"]
    assert accuracy(control, examples(200, 5)) > GOOD


def test_token_losses_are_refused_where_student_and_teacher_cut_texts_otherwise(
    teacher: Artifact, tmp_path: Path
) -> None:
    from tests.tiny import WORDS, tiny_tokenizer

    words = tuple(word for word in WORDS if word != "green")
    other = write_torch_artifact(
        tmp_path / "other", tiny_bert(vocab=5 + len(words) + 1), tiny_tokenizer((*words, "gre"))
    )
    model = load_model(other.path)
    save_model(model, other.path)
    ctx = prepared(
        tmp_path, teacher, student={"model": "other"}, losses=[{"logits": {}}, {"hidden": "cosine"}]
    )
    # "green" is one piece for the teacher and unknown to the student, which is one piece too: cut it in two.
    tokenizer = tiny_tokenizer((*words, "gre", "##en"))
    (other.path / "tokenizer.json").write_text(tokenizer.to_str())
    wide = tiny_bert(vocab=5 + len(words) + 2)
    save_model(wide, other.path)
    with pytest.raises(ModelError, match="tokenize texts differently"):
        distill.run(replace(ctx, inputs={**ctx.inputs, "student": other}))


def test_a_student_that_stands_ready_keeps_its_own_tokenizer(teacher: Artifact, tmp_path: Path) -> None:
    other = write_torch_artifact(
        tmp_path / "other", tiny_bert(hidden=16, heads=2, layers=1, labels=("p", "q"), seed=5)
    )
    ctx = prepared(tmp_path, teacher, student={"model": "other"}, losses=LOGITS)
    student = taught(replace(ctx, inputs={**ctx.inputs, "student": other}))
    assert student.facts["initialised_from"] == "ready"
    assert load_model(student.path).config.id2label == dict(enumerate(LABELS))
    assert accuracy(student, examples(200, 5)) > GOOD


@pytest.mark.parametrize(
    "losses",
    [
        [{"logits": {"hard": True}}],
        [{"logits": {"standardize": True}}],
        [{"logits": {}}, {"hidden": "cosine"}, {"embedding": {}}],
        [{"logits": {}}, {"attention": {}}, {"relation": {}}],
        [{"logits": {}}, {"similarity": {}}, {"contrastive": {"negatives": 32}}],
        [{"logits": {}}, {"masked_lm": {}}],
    ],
    ids=["hard", "standardized", "hidden", "attention", "similarity", "masked_lm"],
)
def test_every_loss_teaches(teacher: Artifact, tmp_path: Path, losses: list[dict[str, Any]]) -> None:
    student = taught(prepared(tmp_path, teacher, losses=losses))
    assert accuracy(student, examples(200, 5)) > GOOD
