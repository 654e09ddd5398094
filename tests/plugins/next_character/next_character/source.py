"""The first step: the module that the profile names, with what says how it reads documents."""

from __future__ import annotations

from typing import Any

import torch

from compress.core.artifacts import TASK
from compress.core.disk.files import write_json
from compress.core.errors import ModelError
from compress.models.io.checkpoints import count_parameters, save_model
from compress.models.io.plain import Origin, UserModule, make_module
from compress.profile.schema import TeacherSpec
from compress.step import StepContext
from next_character.alphabet import PAD, size_of
from next_character.keys import CharacterData


def write_model(ctx: StepContext, spec: TeacherSpec) -> dict[str, Any]:
    """Write the module's weights and its `task.json`; the facts.

    Raises:
        ModelError: it gives something else than logits of each character.
    """
    data = ctx.task.data
    assert isinstance(data, CharacterData)
    origin = Origin.of(spec.model, ctx.base)
    module, _ = make_module(origin, ctx.seed, allow_code=ctx.allow_code)
    model = UserModule(module, origin).eval()
    letters = torch.ones((2, 5), dtype=torch.int64)
    with torch.no_grad():
        shape = tuple(model(input_ids=letters, attention_mask=letters).shape)
    if shape != (2, 5, size_of(data.alphabet)):
        raise ModelError(
            f"this model gives {shape} for 2 documents of 5 characters and an alphabet of {size_of(data.alphabet)}",
            where=spec.model,
        )
    save_model(model, ctx.out)
    write_json(
        ctx.out / TASK,
        {
            "task": ctx.task.kind.name,
            "labels": [],
            "input_names": ["input_ids", "attention_mask"],
            "output_names": ["logits"],
            "max_length": data.max_length,
            "pad_id": PAD,
            "alphabet": data.alphabet,
        },
    )
    return {
        "parameters": count_parameters(model),
        "source": spec.model,
        "architecture": type(module).__name__,
    }
