"""How well a model does on the validation split, which is never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from compress.core.artifacts import Artifact
from compress.encoding.inputs import Inputs
from compress.step import StepContext
from compress.tasks.base import Truth
from compress.training.prediction import score
from compress.training.signals.teachers import signals_in


@dataclass(frozen=True)
class Validation:
    """The validation examples as a model reads them, and what its outputs are scored against."""

    ctx: StepContext
    inputs: Inputs
    truth: Truth

    @classmethod
    def of(cls, ctx: StepContext, interface: Path, reference: Artifact) -> Validation:
        """The validation split of a step.

        Args:
            interface: the folder that says how the model reads its inputs.
            reference: the model whose outputs are the truth, where the task has no other.
        """
        examples, outputs = ctx.data.validation, None
        if ctx.task.needs_reference(examples):
            outputs = np.asarray(
                signals_in(ctx, reference, ctx.task.encode(examples, reference.path)).outputs
            )
        return cls(ctx, ctx.task.encode(examples, interface), Truth.of(examples, outputs))

    def read_by(self, interface: Path) -> Validation:
        """The same for a model that reads its inputs otherwise."""
        return Validation(self.ctx, self.ctx.task.encode(self.ctx.data.validation, interface), self.truth)

    def score(self, model: nn.Module) -> float:
        """The task's metric of a model, a fraction."""
        ctx = self.ctx
        return score(
            model.to(ctx.device),
            self.inputs,
            self.truth,
            ctx.task,
            precision=ctx.precision,
            device=ctx.device,
        )
