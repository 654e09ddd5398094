"""The score of a model on the validation split, which is never trained on."""

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
from compress.training.signals.teachers import step_signals


@dataclass(frozen=True)
class Validation:
    """The validation examples encoded for a model, and the ground truth that its outputs are scored against."""

    ctx: StepContext
    inputs: Inputs
    truth: Truth

    @classmethod
    def of(cls, ctx: StepContext, interface: Path, reference: Artifact) -> Validation:
        """Encode the validation split of a step.

        Args:
            interface: folder with the model's task and tokenizer files.
            reference: the model whose outputs serve as the truth if the task needs a reference.
        """
        examples, outputs = ctx.data.validation, None
        if ctx.task.needs_reference(examples):
            outputs = np.asarray(
                step_signals(ctx, reference, ctx.task.encode(examples, reference.path)).outputs
            )
        return cls(ctx, ctx.task.encode(examples, interface), Truth.of(examples, outputs))

    def for_interface(self, interface: Path) -> Validation:
        """Return the same validation encoded for a model with another interface."""
        return Validation(self.ctx, self.ctx.task.encode(self.ctx.data.validation, interface), self.truth)

    def score(self, model: nn.Module) -> float:
        """Return the score of a model: the task's metric as passes compare it, larger is better."""
        ctx = self.ctx
        return score(
            model.to(ctx.device),
            self.inputs,
            self.truth,
            ctx.task,
            precision=ctx.precision,
            device=ctx.device,
        )
