"""The first step of every plan: the model that the profile names, in torch form."""

from __future__ import annotations

from compress.forms import TORCH_FLOAT, Structure
from compress.models.materialise import materialise
from compress.profile.schema import TeacherSpec
from compress.step import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Fetch and check the model of a `TeacherSpec` and write it to `ctx.out`.

    Raises:
        ModelError: it cannot be had or used.
    """
    assert isinstance(ctx.spec, TeacherSpec)
    facts = materialise(
        ctx.spec,
        ctx.data.labels,
        ctx.base,
        ctx.out,
        max_length=ctx.task.max_length,
        allow_code=ctx.allow_code,
    )
    pruned = (ctx.out / "structure.json").exists()
    return StepResult(TORCH_FLOAT.with_(structure=Structure.PRUNED) if pruned else TORCH_FLOAT, facts)
