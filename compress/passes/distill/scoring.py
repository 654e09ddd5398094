"""How far a student has come: its score on the validation split, which is never trained on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from compress.step import StepContext
from compress.tasks.base import Inputs, Truth
from compress.training.prediction import score
from compress.training.references import truth_beside


@dataclass(frozen=True)
class Scoring:
    """The validation examples as the student in `ctx.out` reads them, and what its outputs are scored against."""

    ctx: StepContext
    inputs: Inputs
    truth: Truth

    @classmethod
    def of(cls, ctx: StepContext) -> Scoring:
        """The scoring of a step; the reference, where the task has one, is the profile's own teacher."""
        examples = ctx.data.validation
        truth = truth_beside(
            ctx.inputs["original"],
            ctx.task,
            examples,
            shared=ctx.shared,
            precision=ctx.precision,
            device=ctx.device,
            progress=ctx.progress,
        )
        return cls(ctx, ctx.task.encode(examples, ctx.out), truth)

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
