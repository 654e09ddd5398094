"""A model that a pass has altered: recovered by training, saved and read back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress.core.errors import PassError
from compress.core.records import Curve
from compress.encoding.inputs import Inputs
from compress.models.io.checkpoints import load_model
from compress.models.io.outputs import outputs_of
from compress.profile.training_spec import RecoverySpec
from compress.step import StepContext
from compress.training.batches import to_tensors
from compress.training.heal import recover


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
        allow_code=ctx.allow_code,
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
    # The model is in memory, so its code was allowed and has run.
    saved = load_model(out, allow_code=True)
    batch = to_tensors(inputs.batch(range(min(len(inputs), 4))), "cpu")
    with torch.inference_mode():
        expected, found = outputs_of(model.eval()(**batch)), outputs_of(saved(**batch))
    if not torch.equal(expected, found):
        difference = float((expected - found).abs().max())
        raise PassError(f"the saved model gives other outputs: they differ by {difference:.2g}", where=where)
