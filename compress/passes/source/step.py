"""source: the first step of every plan, which fetches the profile's model in torch form."""

from __future__ import annotations

from pathlib import Path

from compress.core.artifacts import STRUCTURE
from compress.core.disk.reading import read_mapping
from compress.core.forms import TORCH_FLOAT, Structure
from compress.core.plugins import call_named
from compress.profile.schema import TeacherSpec
from compress.step import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Fetch and check the model of a `TeacherSpec` and write it to `ctx.out`.

    Raises:
        ModelError: it cannot be fetched or used.
    """
    facts = call_named(ctx.task.kind.source, ctx, ctx.spec_as(TeacherSpec))
    return StepResult(TORCH_FLOAT.with_fields(structure=_structure(ctx.out)), facts)


def _structure(folder: Path) -> Structure:
    """Return the structure that a model's files declare."""
    if not (folder / STRUCTURE).exists():
        return Structure.REGULAR
    described = read_mapping(folder / STRUCTURE)
    return Structure.FACTORED if "factors" in described else Structure.PRUNED
