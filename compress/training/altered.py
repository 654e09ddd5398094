"""A model that a pass has altered: scored, recovered by training, saved and read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compress.errors import PassError
from compress.models.checkpoints import load_model
from compress.models.outputs import outputs_of
from compress.profile.training_spec import RecoverySpec
from compress.records import Curve
from compress.step import StepContext
from compress.tasks.base import Inputs, Truth
from compress.training.batches import to_tensors
from compress.training.heal import recover
from compress.training.prediction import score
from compress.training.references import truth_beside


@dataclass(frozen=True)
class Validation:
    """What an altered model is scored on: the validation split as it reads it, and the truth."""

    ctx: StepContext
    inputs: Inputs
    truth: Truth

    @classmethod
    def of(cls, ctx: StepContext, interface: Path) -> Validation:
        """The validation split of a step.

        Args:
            interface: the folder that says how the model reads its inputs.
        """
        truth = truth_beside(
            ctx.inputs.get("teacher", ctx.inputs["model"]),
            ctx.task,
            ctx.data.validation,
            shared=ctx.shared,
            precision=ctx.precision,
            device=ctx.device,
            progress=ctx.progress,
        )
        return cls(ctx, ctx.task.encode(ctx.data.validation, interface), truth)

    def score(self, model: nn.Module) -> float:
        """The task's metric of a model, a fraction."""
        ctx = self.ctx
        return score(model, self.inputs, self.truth, ctx.task, precision=ctx.precision, device=ctx.device)


def recover_altered(
    ctx: StepContext, model: nn.Module, spec: RecoverySpec, interface: Path, name: str = "recover"
) -> Curve:
    """Train an altered model in place, from the step's teacher where there is one.

    Args:
        interface: the folder that says how the model reads its inputs.
        name: of the recovery, where a step has several.
    """
    result = recover(
        model,
        ctx.inputs.get("teacher"),
        ctx.task,
        ctx.data,
        spec,
        tokenizer=interface,
        work=ctx.work / name,
        shared=ctx.shared,
        seed=ctx.seed,
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
        name=name,
    )
    return result.curve


def check_saved(model: nn.Module, out: Path, inputs: Inputs, where: str) -> None:
    """What was saved gives the same outputs as the model, bit for bit.

    Raises:
        PassError: it does not.
    """
    batch = to_tensors(inputs.batch(range(min(len(inputs), 4))), "cpu")
    with torch.inference_mode():
        expected, found = outputs_of(model.eval()(**batch)), outputs_of(load_model(out)(**batch))
    if not torch.equal(expected, found):
        difference = float((expected - found).abs().max())
        raise PassError(f"the saved model gives other outputs: they differ by {difference:.2g}", where=where)
