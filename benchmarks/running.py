"""Run a profile with overrides in this process: to its report, or its training alone, scored without timing anything.

Both make their steps through the engine, so what stands in the cache is not made again: a benchmark that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from compress.core.artifacts import Artifact
from compress.core.errors import ProfileError
from compress.core.records import RunRecord
from compress.core.terminal.console import TerminalProgress
from compress.core.terminal.progress import Progress
from compress.data.splits import Examples
from compress.engine.making import make_step
from compress.engine.resolve import Job, resolve_job
from compress.engine.running import run_job
from compress.models.io.checkpoints import load_model
from compress.planning.steps import BASELINE
from compress.profile.load import load_profile
from compress.reporting.data.frame import contract
from compress.store.cache import Cache, FinishedStep
from compress.tasks.base import Truth, answers_of, score_of
from compress.training.prediction import predict

ROOT = Path(__file__).parents[1]
Overrides = Mapping[str, Any]
"""Values by their dotted path: `{"passes.0.distill.epochs": 2}`."""
_CONVERSIONS = ("lower", "quantize", "export")


def terminal() -> Progress:
    """Progress on stderr."""
    return TerminalProgress(Console(stderr=True))


def run_profile(
    profile: Path, overrides: Overrides | None = None, *, allow_code: bool = False
) -> dict[str, Any]:
    """The report of a profile, as `compress report --json` prints it: every row measured on the profile's targets."""
    job = resolve(profile, overrides, allow_code=allow_code)
    finished, _ = run_job(job, Cache.default(), Path.cwd(), terminal(), _say_row)
    return contract(finished)


def resolve(profile: Path, overrides: Overrides | None = None, *, allow_code: bool = False) -> Job:
    """A profile with overrides, ready to run."""
    assignments = tuple(f"{path}={json.dumps(value)}" for path, value in (overrides or {}).items())
    return resolve_job(load_profile(profile, assignments), allow_code=allow_code)


def missing(profile: Path) -> str | None:
    """Why a profile cannot run here: its data or its model is not on this machine; None where it can."""
    try:
        load_profile(profile)
    except ProfileError as error:
        return str(error)
    return None


def make(job: Job, wanted: str) -> dict[str, Artifact]:
    """The artifacts of a step and of all that it is made from, by the step's name, made through the engine."""
    cache, progress = Cache.default(), terminal()
    cache.prepare()
    needed = {wanted}
    for step in reversed(job.plan.steps):
        if step.name in needed:
            needed |= set(step.inputs.values())
    made: dict[str, Artifact] = {}
    for step in job.plan.steps:
        if step.name in needed:
            inputs = {role: made[name] for role, name in step.inputs.items()}
            made[step.name] = make_step(step, job, inputs, cache, progress)[0].artifact
    return made


@dataclass(frozen=True)
class Trained:
    """The torch models of a profile's steps, by the step's name."""

    job: Job
    made: dict[str, FinishedStep]

    @property
    def teacher(self) -> str:
        """The step that every row of the report is compared with."""
        return next(row.step for row in self.job.plan.rows if row.name == BASELINE)

    @property
    def distillations(self) -> list[Mapping[str, Any]]:
        """The facts of every distillation, those of assistants first."""
        return [self.facts(step) for step in self.made if self.job.plan.step(step).kind == "distill"]

    def facts(self, step: str) -> Mapping[str, Any]:
        """What the making of a step found out."""
        return self.made[step].artifact.facts

    def outputs(self, step: str, split: Literal["validation", "test"]) -> NDArray[np.float32]:
        """The FP32 outputs of a sealed artifact, loaded from disk, on a split."""
        return _outputs(self.job, self.made[step].artifact, self.examples(split))

    def examples(self, split: Literal["validation", "test"]) -> Examples:
        """The examples of a split."""
        return self.job.splits.validation if split == "validation" else self.job.splits.test

    def score(self, step: str, split: Literal["validation", "test"]) -> float:
        """The task's metric of a step's model on a split."""
        examples = self.examples(split)
        reference = self.outputs(self.teacher, split) if self.job.task.needs_reference(examples) else None
        return score_of(self.job.task, self.outputs(step, split), Truth.of(examples, reference)).value

    def right(self, step: str, split: Literal["validation", "test"]) -> NDArray[np.bool_]:
        """Which examples of a split the model gets right, (n,)."""
        predicted = answers_of(self.job.task, self.outputs(step, split))["label"]
        return predicted == self.examples(split).labels


def train_profile(profile: Path, overrides: Overrides | None = None, *, allow_code: bool = False) -> Trained:
    """Make the steps of a profile that leave a torch model, teacher and all; nothing is converted, nothing is timed.

    Scores of these models are those of the sealed artifacts in FP32 arithmetic, on the examples that a report would
    score them on.
    """
    job = resolve(profile, overrides, allow_code=allow_code)
    cache, progress = Cache.default(), terminal()
    cache.prepare()
    made: dict[str, FinishedStep] = {}
    for step in job.plan.steps:
        if step.kind in _CONVERSIONS or any(name not in made for name in step.inputs.values()):
            continue
        inputs = {role: made[name].artifact for role, name in step.inputs.items()}
        made[step.name] = make_step(step, job, inputs, cache, progress)[0]
    return Trained(job, made)


def make_one(job: Job, wanted: str) -> Artifact:
    """The artifact of one step of a job; only what it is made from is made."""
    return make(job, wanted)[wanted]


def teacher_of(job: Job, runtime: Literal["torch", "onnxruntime"]) -> Artifact:
    """The teacher that every row is compared with: the torch model, or its FP32 ONNX file."""
    row = next(row for row in job.plan.rows if row.name == BASELINE)
    return make_one(job, row.step if runtime == "torch" else row.measured["onnxruntime"])


def _outputs(job: Job, artifact: Artifact, examples: Examples) -> NDArray[np.float32]:
    inputs = job.task.encode(examples, artifact.path)
    return predict(load_model(artifact.path), inputs, precision="fp32", device="cpu")


def _say_row(run: RunRecord, row: Any) -> None:
    score = row.measurements[0].accuracy.metrics[0].value
    print(f"{run.profile}: {row.step} {score:.4f}", flush=True)
