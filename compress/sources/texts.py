"""The source of a model of texts: one of transformers with its tokenizer."""

from __future__ import annotations

from typing import Any

from compress.models.teacher.materialise import materialise
from compress.profile.schema import TeacherSpec
from compress.step import StepContext


def write_text_model(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the model of a `TeacherSpec` with its tokenizer and `task.json` to `ctx.out`; its facts.

    Raises:
        ModelError: it cannot be had or used.
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
