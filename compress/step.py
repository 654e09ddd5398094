"""What a step is given and what it gives back: the contract between the engine and the passes."""

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
    """Everything a step may look at.

    `inputs` are sealed artifacts by role: `model` (what the pass changes), `teacher` (the fine-tuned teacher, for
    distillation and recovery). `data` holds the training and validation splits only: the test split cannot be
    reached from a pass. `out` is an empty directory to fill; the engine seals it. `work` survives a kill: it holds
    checkpoints and cached logits, and what stands in it may be half-written unless it was renamed into place.
    `timing_target` is where a pass times and compares what it chooses between. `shared` is a folder of the cache where
    what teachers say is kept for all steps and runs. `base` is the profile's folder, and `allow_code` says whether the
    user allows code that the profile names; both matter to model sources only.
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

    def asked(self, kind: type[AnySpec]) -> AnySpec:
        """The spec, which is of the class of the step's own pass."""
        assert isinstance(self.spec, kind)
        return self.spec


@dataclass(frozen=True)
class StepResult:
    """What a step made: the form of the model in `out`, what it found out, and its training curves.

    `facts` are plain JSON values and always hold `parameters`.
    """

    form: Form
    facts: Mapping[str, Any]
    curves: tuple[Curve, ...] = field(default=())
