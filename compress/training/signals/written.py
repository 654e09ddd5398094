"""Generated answers of a model, cached across runs by prompt and generation settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from compress.core.artifacts import Artifact
from compress.core.disk.files import digest_of, make_folder, write_sealed
from compress.generation.answers import Answer, known_answers, read_answers
from compress.generation.writing import TOGETHER, GenerationSettings, answers_file, key_of, write_answers
from compress.models.text.chat import Prompt
from compress.profile.specs.server import ServerSpec
from compress.step import StepContext
from compress.store.cache import SIGNALS_NOTE
from compress.store.locks import held

Answers = dict[str, Answer]
"""Answers by the `key_of` their prompt and sample."""


def answers_to(
    ctx: StepContext,
    model: Artifact | ServerSpec,
    prompts: Sequence[Prompt],
    how: GenerationSettings,
    title: str,
    together: int = TOGETHER,
    spent: int = 0,
) -> tuple[Answers, dict[str, Any]]:
    """Return a model's answers to the prompts, and statistics of this call.

    Args:
        title: of the progress bar.
        together: generation batch size on this machine.
        spent: tokens already used of the server's token limit.

    Raises:
        DataError, ModelError, ResourceError: generation fails.
    """
    wanted = {key_of(prompt, sample) for prompt in prompts for sample in range(how.samples)}
    key = digest_of(["answers", model.digest])
    folder = ctx.shared / key
    make_folder(ctx.shared)
    started = time.monotonic()
    with held(
        ctx.shared / f"{key}.lock",
        lambda: ctx.progress.say("waiting for another run that generates with this model"),
    ):
        make_folder(folder)
        write_sealed(folder / SIGNALS_NOTE, {"title": "answers that a teacher wrote"})
        before = known_answers(answers_file(folder, model, how))[0]
        there = sum(int(one, 16) in before for one in wanted)
        with ctx.progress.bar(title, len(wanted)) as advance:
            file = write_answers(
                model,
                prompts,
                how,
                folder,
                threads=torch.get_num_threads(),
                device=ctx.device,
                together=together,
                allow_code=ctx.allow_code,
                advance=advance,
                spent=spent,
            )
    found = {answer.key: answer for answer in read_answers(file) if answer.key in wanted}
    return found, {"written_before": there, "seconds": time.monotonic() - started}
