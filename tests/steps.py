"""Running one step on its own, as the engine would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.core.artifacts import Artifact, seal
from compress.core.spec import Spec
from compress.core.terminal.progress import SilentProgress
from compress.profile.schema import TargetSpec
from compress.step import StepContext, StepResult
from compress.targets.local import resolve
from compress.tasks.base import Task, TrainingData


def context(
    folder: Path,
    spec: Spec,
    inputs: Mapping[str, Artifact],
    task: Task,
    data: TrainingData,
    base: Path = Path(),
) -> StepContext:
    """What a step may look at; it writes into `folder/out`, which is made. `base`: where its paths start."""
    out, work = folder / "out", folder / "work"
    out.mkdir(parents=True)
    work.mkdir()
    return StepContext(
        spec=spec,
        inputs=dict(inputs),
        task=task,
        data=data,
        out=out,
        work=work,
        shared=folder / "shared",
        seed=0,
        precision="fp32",
        device="cpu",
        timing_target=resolve(TargetSpec()),
        progress=SilentProgress(),
        base=base,
        allow_code=True,
    )


def run(step: Any, ctx: StepContext) -> tuple[Artifact, StepResult]:
    """The sealed result of a step module."""
    result = step.run(ctx)
    return seal(ctx.out, result.form, result.facts), result
