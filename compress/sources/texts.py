"""Source step of a text model: a transformers model with its tokenizer."""

from __future__ import annotations

from typing import Any

from compress.models.teacher.materialise import materialise
from compress.profile.schema import TeacherSpec
from compress.step import StepContext


def write_text_model(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the model of a `TeacherSpec` with its tokenizer and `task.json` to `ctx.out`; return its facts.

    Raises:
        ModelError: the model is not available or not usable.
    """
    return materialise(
        spec,
        ctx.data.labels,
        ctx.base,
        ctx.out,
        max_length=ctx.task.data.max_length,
        allow_code=ctx.allow_code,
        task=ctx.task.kind.name,
        seed=ctx.seed,
        texts=ctx.data.train.texts,
    )
