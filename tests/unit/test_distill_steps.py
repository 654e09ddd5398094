"""The steps of a distillation: those of its control, of equal stages, of generations after a kill; and who can read
what is drawn for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from compress.core.artifacts import Artifact
from compress.core.errors import ModelError
from compress.core.terminal.progress import Advance, SilentProgress
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.passes.distill import step as distill
from compress.passes.distill.material import augmented_inputs, translate
from compress.passes.distill.spec import DistillSpec
from compress.profile.specs.examples import AugmentSpec
from compress.step import StepContext
from compress.tasks.base import TrainingData
from tests.steps import context
from tests.tiny import LABELS, text_task, write_torch_artifact

TEXTS = (
    "the red cat",
    "a bird sings",
    "the dog runs",
    "a red dog",
    "the bird",
    "a cat runs",
    "the cat sings",
)


class Killed(Exception):
    """The process ended here."""


@dataclass
class Trainings(SilentProgress):
    """From which step to which each training went; `killed`: the one that does not begin."""

    killed: str = ""
    seen: list[tuple[str, int, int]] = field(default_factory=list)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        if title == self.killed:
            raise Killed
        begun: list[int] = []

        def advance(steps: int = 1, note: str | None = None) -> None:
            begun.append(steps)

        yield advance
        if title.startswith(("distill", "generation", "control")) and not title.endswith("outputs"):
            self.seen.append((title, begun[0], total))

    @property
    def steps(self) -> int:
        return sum(total for _, _, total in self.seen)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_torch_artifact(tmp_path_factory.mktemp("teacher") / "model")


def prepared(folder: Path, teacher: Artifact, *, unlabeled: int = 0, **changes: Any) -> StepContext:
    body = {"student": {"layers": 1}, "losses": [{"logits": {}}], "batch_size": 4, "epochs": 2, **changes}
    few = Examples(TEXTS, np.arange(len(TEXTS)) % len(LABELS))
    more = Examples.unlabelled(tuple(TEXTS[n % len(TEXTS)] for n in range(unlabeled))) if unlabeled else None
    inputs = {"model": teacher, "original": teacher, "teacher": teacher}
    data = TrainingData(few, few, LABELS, more)
    made = context(folder, DistillSpec.model_validate(body), inputs, text_task(16), data)
    return replace(made, progress=Trainings())


def trained(ctx: StepContext, step: Any) -> Trainings:
    assert isinstance(ctx.progress, Trainings)
    step(ctx)
    return ctx.progress


CONTROLS: dict[str, dict[str, Any]] = {
    "stages of their own": {
        "unlabeled": 30,
        "stages": [
            {"losses": [{"logits": {}}], "data": "train", "batch_size": 3, "epochs": 3},
            {"losses": [{"logits": {}}], "data": "unlabeled"},
            {"losses": [{"logits": {}}]},
        ],
    },
    "select and augment": {"augment": {"copies": 2}, "select": {"right": True}},
    "training data alone": {"unlabeled": 30, "data": "train"},
    "generations": {"unlabeled": 3, "generations": 2, "batch_size": 3},
    "data_free": {
        "unlabeled": 3,
        "data_free": {"examples": 9, "length": (2, 4), "rounds": 0},
        "stages": [{"losses": [{"logits": {}}], "batch_size": 2}, {"losses": [{"logits": {}}], "epochs": 1}],
    },
}


@pytest.mark.parametrize(
    "name",
    [
        name if place < 2 else pytest.param(name, marks=pytest.mark.slow)
        for place, name in enumerate(CONTROLS)
    ],
)
def test_a_control_takes_as_many_steps_as_the_student(teacher: Artifact, tmp_path: Path, name: str) -> None:
    student = trained(prepared(tmp_path / "student", teacher, **CONTROLS[name]), distill.run)
    control = trained(prepared(tmp_path / "control", teacher, **CONTROLS[name]), distill.run_control)
    assert control.steps == student.steps > 0


def test_a_stage_trains_though_another_is_its_equal(teacher: Artifact, tmp_path: Path) -> None:
    stage = {"name": "again", "losses": [{"logits": {}}]}
    found = trained(prepared(tmp_path, teacher, stages=[stage, stage]), distill.run)
    assert found.seen == [("distill, again", 0, 4)] * 2


def test_a_generation_that_has_finished_is_not_trained_again(teacher: Artifact, tmp_path: Path) -> None:
    ctx = prepared(tmp_path, teacher, generations=2)
    with pytest.raises(Killed):
        distill.run(replace(ctx, progress=Trainings(killed="generation 2")))
    assert trained(ctx, distill.run).seen == [("generation 1", 4, 4), ("generation 2", 0, 4)]


def read_by(folder: Path, *words: str) -> Path:
    """A folder with a tokenizer that has no unknown token."""
    folder.mkdir()
    Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[])).save(
        str(folder / "tokenizer.json")
    )
    return folder


def test_tokens_that_the_student_cannot_read_are_refused_before_it_is_trained(tmp_path: Path) -> None:
    old, new = read_by(tmp_path / "old", "a", "b", "z"), read_by(tmp_path / "new", "b", "a")
    own = TokenInputs([np.array([0])], ("input_ids",), 0)
    assert translate([np.array([0, 1])], old, new, own).ids[0].tolist() == [1, 0]
    with pytest.raises(ModelError, match="lacks 1 of the teacher's tokens, for example 'z'") as caught:
        translate([np.array([0, 2, 1])], old, new, own)
    assert caught.value.where == "data_free"


def test_new_texts_are_drawn_of_words_that_every_reader_has(tmp_path: Path) -> None:
    old, new = read_by(tmp_path / "old", "a", "b", "z"), read_by(tmp_path / "new", "b", "a")
    theirs, mine = (TokenInputs([np.array(ids)], ("input_ids",), 0) for ids in ([0, 1, 0], [1, 0, 1]))
    near = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.4]], np.float32)
    how = AugmentSpec(copies=20, replace=0.9, delete=0, splice=0, neighbours=1)
    new_texts = augmented_inputs(
        (old, theirs), [(old, theirs), (new, mine)], near, how, max_length=8, seed=0
    )[1]
    assert {int(token) for text in new_texts.ids for token in text} == {0, 1}
