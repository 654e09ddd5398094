"""The first step of every plan: the model that the profile names, in torch form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from compress.core.artifacts import STRUCTURE
from compress.core.forms import TORCH_FLOAT, Structure
from compress.core.reading import read_mapping
from compress.models.io.materialise import materialise
from compress.passes.source.images import materialise_images
from compress.profile.schema import TeacherSpec
from compress.step import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Fetch and check the model of a `TeacherSpec` and write it to `ctx.out`.

    Raises:
        ModelError: it cannot be had or used.
    """
    assert isinstance(ctx.spec, TeacherSpec)
    if ctx.task.kind.items == "image":
        facts = materialise_images(ctx, ctx.spec)
    else:
        facts = materialise(
            ctx.spec,
            ctx.data.labels,
            ctx.base,
            ctx.out,
            max_length=ctx.task.data.max_length,
            allow_code=ctx.allow_code,
            task=ctx.task.kind.name,
            seed=ctx.seed,
            texts=cast(Sequence[str], ctx.data.train.items),
        )
    return StepResult(TORCH_FLOAT.with_(structure=_structure(ctx.out)), facts)


def _structure(folder: Path) -> Structure:
    """What the files of a model say of its structure."""
    if not (folder / STRUCTURE).exists():
        return Structure.REGULAR
    described = read_mapping(folder / STRUCTURE)
    return Structure.FACTORED if "factors" in described else Structure.PRUNED
