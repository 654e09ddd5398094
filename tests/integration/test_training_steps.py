"""finetune and distill on tiny models: what they write, what they promise, and going on after a kill."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from compress.core.artifacts import TASK, TOKENIZER, Artifact, open_artifact, seal
from compress.core.errors import ModelError
from compress.core.spec import Spec
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.models.io.checkpoints import count_parameters, load_model
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.passes.finetune import step as finetune
from compress.profile.schema import TargetSpec
from compress.profile.specs.training import FinetuneSpec
from compress.step import StepContext, StepResult
from compress.targets.local import resolve
from compress.tasks.base import TrainingData, Truth
from compress.training import loop
from compress.training.prediction import score
from tests.processes import start
from tests.tiny import LABELS, WORDS, text_task, tiny_bert, write_torch_artifact

KINDS = (WORDS[:3], WORDS[3:6], WORDS[6:9])


def examples(count: int, seed: int) -> Examples:
    """Texts of one kind of words among others; the kind is the label."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    texts = []
    for label in labels:
        words = [str(random.choice(KINDS[label])), "the", "and", "a"]
        texts.append(" ".join(random.permutation(words)[: random.integers(3, 5)].tolist() + words[:1]))
    return Examples(tuple(texts), labels)


def context(folder: Path, spec: Spec, inputs: dict[str, Artifact], **changes: Any) -> StepContext:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(parents=True, exist_ok=True)
    data = TrainingData(examples(120, 0), examples(60, 1), LABELS)
    settings: dict[str, Any] = {
        "precision": "fp32",
        "device": "cpu",
        "timing_target": resolve(TargetSpec()),
        "progress": SilentProgress(),
        "seed": 0,
    }
    return StepContext(
        spec=spec,
        inputs=inputs,
        task=text_task(32),
        data=data,
        out=folder / "out",
        work=folder / "work",
        shared=folder / "shared",
        **{**settings, **changes},
    )


def finish(ctx: StepContext, result: StepResult) -> Artifact:
    return seal(ctx.out, result.form, result.facts)


def accuracy(artifact: Artifact, data: Examples) -> float:
    task = text_task(32)
    inputs = task.encode(data, artifact.path)
    return score(load_model(artifact.path), inputs, Truth.of(data), task, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return finetuned(tmp_path_factory.mktemp("teacher"))


def finetuned(folder: Path) -> Artifact:
    source = write_torch_artifact(folder / "source", tiny_bert(labels=("x", "y")))
    spec = FinetuneSpec(epochs=12, learning_rate=3e-3, batch_size=16)
    ctx = context(folder, spec, {"model": source})
    return finish(ctx, finetune.run(ctx))


def test_finetune_makes_a_classifier_of_the_datas_labels(teacher: Artifact) -> None:
    assert load_model(teacher.path).config.id2label == dict(enumerate(LABELS))
    assert accuracy(teacher, examples(60, 1)) == teacher.facts["validation_score"] > 0.9
    assert teacher.facts["parameters"] == count_parameters(load_model(teacher.path))
    assert (teacher.path / TOKENIZER).exists()


def test_finetune_keeps_a_head_of_the_same_labels_in_another_order(teacher: Artifact, tmp_path: Path) -> None:
    spec = FinetuneSpec(epochs=0.01, learning_rate=1e-12)
    ctx = context(tmp_path, spec, {"model": teacher})
    order = [2, 0, 1]
    data = TrainingData(
        replace(ctx.data.train, labels=np.argsort(order)[ctx.data.train.labels]),
        replace(ctx.data.validation, labels=np.argsort(order)[ctx.data.validation.labels]),
        tuple(LABELS[index] for index in order),
    )
    again = finish(ctx, finetune.run(replace(ctx, data=data)))
    assert accuracy(again, data.validation) == accuracy(teacher, examples(60, 1))


DISTIL: dict[str, Any] = {
    "student": {"layers": 1, "hidden_size": 16},
    "vocabulary": {"margin": 1},
    "augment": {"copies": 2},
    "epochs": 8,
    "learning_rate": 5e-3,
    "batch_size": 16,
}


def taught_by(teacher: Artifact) -> dict[str, Artifact]:
    """The inputs of a distillation whose student is made from its teacher."""
    return {"model": teacher, "teacher": teacher, "original": teacher}


def distilled(folder: Path, teacher: Artifact, **changes: Any) -> Artifact:
    ctx = context(folder, DistillSpec(**{**DISTIL, **changes}), taught_by(teacher))
    return finish(ctx, distill.run(ctx))


def test_distill(teacher: Artifact, tmp_path: Path) -> None:
    student = distilled(tmp_path, teacher)
    model = load_model(student.path)
    assert accuracy(student, examples(60, 1)) == pytest.approx(student.facts["validation_score"])
    assert accuracy(student, examples(200, 5)) > 0.9
    assert student.facts["parameters"] == count_parameters(model) < teacher.facts["parameters"]
    assert student.facts["shown"] == {"train": 120, "augmented": 240}
    (taught,) = student.facts["teachers"]
    assert taught["name"] == "teacher"
    assert taught["train_score"] > 0.9
    used = {token for text in examples(120, 0).texts for token in text.split()}
    assert student.facts["vocabulary"] == model.config.vocab_size == 5 + len(used) + 1
    assert student.read_json(TASK)["labels"] == list(LABELS)
    assert student.read_json(TASK)["unk_id"] == 1


def test_equal_runs_give_equal_artifacts(teacher: Artifact, tmp_path: Path) -> None:
    assert distilled(tmp_path / "a", teacher).digest == distilled(tmp_path / "b", teacher).digest


def test_the_vocabulary_is_kept_unless_asked(teacher: Artifact, tmp_path: Path) -> None:
    student = distilled(tmp_path, teacher, vocabulary="keep", augment=None, epochs=1)
    assert (student.path / TOKENIZER).read_bytes() == (teacher.path / TOKENIZER).read_bytes()
    assert student.facts["vocabulary"] == 19
    assert student.facts["shown"] == {"train": 120}


def test_a_student_of_a_trimmed_student(teacher: Artifact, tmp_path: Path) -> None:
    """Teacher and model have unlike ids for the same pieces."""
    middle = distilled(tmp_path / "middle", teacher, student={"layers": 1}, epochs=2)
    ctx = context(tmp_path / "last", DistillSpec(**DISTIL), {**taught_by(teacher), "model": middle})
    last = finish(ctx, distill.run(ctx))
    assert accuracy(last, examples(200, 5)) > 0.9


def test_the_control_knows_the_labels_alone(teacher: Artifact, tmp_path: Path) -> None:
    spec = DistillSpec(**DISTIL)
    run = context(tmp_path / "run", spec, taught_by(teacher))
    control = context(tmp_path / "control", spec, taught_by(teacher))
    student, other = finish(run, distill.run(run)), finish(control, distill.run_control(control))
    assert other.facts["parameters"] == student.facts["parameters"]
    assert other.facts["steps"] == student.facts["steps"]
    assert other.facts["shown"] == {"train": 120}
    assert other.facts["teachers"] == []
    assert not control.shared.exists()


def test_a_vocabulary_that_cannot_be_trimmed_is_refused_before_training(
    teacher: Artifact, tmp_path: Path
) -> None:
    from tests.unit.test_models_vocabulary import unigram

    tokenizer = unigram()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    model = write_torch_artifact(tmp_path / "model", tokenizer=tokenizer)
    ctx = context(tmp_path, DistillSpec(**DISTIL), {**taught_by(teacher), "model": model})
    with pytest.raises(ModelError, match="Unigram"):
        distill.run(ctx)


def distil_alone(folder: Path, teacher: Path) -> None:
    """Distil in a process of its own, with a checkpoint every moment; `digest` tells how it ended."""
    torch.set_num_threads(1)
    loop.train.__kwdefaults__["checkpoint_seconds"] = 0.05
    folder.mkdir(exist_ok=True)
    (folder / "ready").touch()
    (folder / "digest").write_text(distilled(folder, open_artifact(teacher), epochs=20).digest)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_artifact(teacher: Artifact, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    began = time.monotonic()
    start(distil_alone, straight, teacher.path).join(300)
    seconds = time.monotonic() - began
    expected = (straight / "digest").read_text()
    random = np.random.default_rng(0)
    for _ in range(3):
        process = start(distil_alone, killed, teacher.path)
        while process.is_alive() and not (killed / "ready").exists():
            time.sleep(0.01)
        time.sleep(random.uniform(0.05, 0.25) * seconds)
        process.kill()
        process.join()
        (killed / "ready").unlink()
    start(distil_alone, killed, teacher.path).join(300)
    assert (killed / "digest").read_text() == expected
    weights = load_file(open_artifact(killed / "out").path / "model.safetensors")
    assert all(np.isfinite(array).all() for array in weights.values())
