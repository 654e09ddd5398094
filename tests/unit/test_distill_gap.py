"""The warning of a student that is far smaller than its teacher: when it comes, and of which teacher it speaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.artifacts import Artifact
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.passes.distill import data_free, step
from compress.passes.distill.examples import TeacherRef
from compress.passes.distill.gap import WARN_RATIO, gap_warnings
from compress.passes.distill.spec import DistillSpec
from compress.step import StepContext
from compress.tasks.base import TrainingData
from tests.steps import context
from tests.tiny import LABELS, text_task, write_torch_artifact

WARNING = (
    "warning: the student has 60 times fewer parameters than its teacher; a gap above 50 often costs accuracy: "
    "`assistants` of intermediate size may help (Mirzadeh et al. 2020)"
)


class Trains(Exception):
    """The training would begin."""


class Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_torch_artifact(tmp_path_factory.mktemp("source") / "model")


def of_size(artifact: Artifact, parameters: float) -> Artifact:
    return replace(artifact, facts={"parameters": parameters})


def said_before_training(
    folder: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, spec: DistillSpec, times: float
) -> list[str]:
    """What a step says until its training would begin, taught by a model of so many times the student's size."""

    def begin(*given: Any, **further: Any) -> None:
        raise Trains

    monkeypatch.setattr(step, "teach", begin)
    monkeypatch.setattr(data_free, "teach", begin)
    # The student keeps the shape of the model that it is made from.
    teacher = of_size(artifact, times * artifact.facts["parameters"])
    inputs = {"model": artifact, "original": teacher, "teacher": teacher}
    inputs |= {f"teacher.{number}": artifact for number, _ in enumerate(spec.teachers, start=1)}
    few = Examples(("the red cat", "a bird sings", "the dog runs"), np.arange(3))
    data = TrainingData(few, few, LABELS)
    notes = Notes()
    ctx: StepContext = replace(context(folder, spec, inputs, text_task(16), data), progress=notes)
    with pytest.raises(Trains):
        (step.run_control if spec.control else step.run)(ctx)
    return notes.said


LOGITS: list[dict[str, Any]] = [{"logits": {}}]
FREE = {"examples": 4, "length": (2, 4), "rounds": 0}
SAME: dict[str, Any] = {"student": {"layers": 2}}


@pytest.mark.parametrize(
    ("changes", "times", "expected"),
    [
        ({"losses": LOGITS}, 60, [WARNING]),
        ({"losses": LOGITS, "data_free": FREE}, 60, [WARNING]),
        ({"losses": LOGITS}, WARN_RATIO - 1, []),
        ({"losses": [{"labels": {}}]}, 60, []),
        ({"ema": {}}, 60, []),
        ({"control": True}, 60, []),
        ({"teachers": [{"model": "as/small"}], "losses": LOGITS}, 60, []),
    ],
    ids=["far smaller", "data_free", "near", "labels alone", "ema", "control", "another teacher"],
)
def test_it_is_said_before_training(
    source: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    times: float,
    expected: list[str],
) -> None:
    spec = DistillSpec.model_validate({**SAME, **changes})
    assert said_before_training(tmp_path, source, monkeypatch, spec, times) == expected


def test_of_several_teachers_the_largest_counts(source: Artifact) -> None:
    teachers = [TeacherRef(str(size), of_size(source, size)) for size in (10, 5000, 20)]
    (warning,) = gap_warnings(teachers, 100)
    assert warning.startswith("the student has 50 times fewer parameters")
    assert gap_warnings(teachers, 101) == []
    assert gap_warnings([], 1) == []
