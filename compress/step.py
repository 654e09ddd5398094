"""Inputs and results of a step: the contract between the engine and the passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from compress.core.artifacts import Artifact
from compress.core.forms import Form
from compress.core.records import Curve
from compress.core.spec import Spec
from compress.core.terminal.progress import Progress
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Task, TrainingData

AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True)
class StepContext:
    """Everything that a step may access.

    `inputs` are sealed artifacts by role: `model` (the model that the pass changes), `teacher` (the fine-tuned teacher,
    for distillation and recovery). `data` contains the training and validation splits only: the test split cannot be
    reached from a pass. `out` is an empty directory to fill; the engine seals it. `work` survives a kill: it contains
    checkpoints and cached logits, and files in it may be incomplete unless they were renamed into place.
    `timing_target` is the target on which a pass times the candidates that it chooses between. `shared` is the folder
    of the cache with teacher outputs for all steps and runs. `base` is the profile's folder, and `allow_code` says
    whether the user allows code that the profile names; both matter to model sources only.
    """

    spec: Spec
    inputs: Mapping[str, Artifact]
    task: Task
    data: TrainingData
    out: Path
    work: Path
    seed: int
    precision: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda"]
    timing_target: ResolvedTarget
    progress: Progress
    shared: Path
    base: Path = Path()
    allow_code: bool = False

    def spec_as(self, kind: type[AnySpec]) -> AnySpec:
        """Return the spec, typed as the spec class of the step's pass."""
        assert isinstance(self.spec, kind)
        return self.spec


@dataclass(frozen=True)
class StepResult:
    """Result of a step: the form of the model in `out`, recorded facts, and training curves.

    `facts` are JSON values and always contain `parameters`.
    """

    form: Form
    facts: Mapping[str, Any]
    curves: tuple[Curve, ...] = field(default=())
