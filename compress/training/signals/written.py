"""Generated answers of a model, cached across runs by prompt and generation settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from compress.core.artifacts import Artifact
from compress.core.disk.files import digest_of, make_folder, write_sealed
from compress.generation.answers import Answer, index_answers, read_answers
from compress.generation.writing import (
    BATCH_SIZE,
    GenerationSettings,
    answer_key,
    answers_file,
    write_answers,
)
from compress.models.text.chat import Prompt
from compress.profile.specs.server import ServerSpec
from compress.step import StepContext
from compress.store.cache import SIGNALS_NOTE
from compress.store.locks import hold_lock

Answers = dict[str, Answer]
"""Answers by the `answer_key` their prompt and sample."""


def cached_answers(
    ctx: StepContext,
    model: Artifact | ServerSpec,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    title: str,
    batch_size: int = BATCH_SIZE,
    spent: int = 0,
) -> tuple[Answers, dict[str, Any]]:
    """Return a model's answers to the prompts, and statistics of this call.

    Args:
        title: of the progress bar.
        batch_size: generation batch size on this machine.
        spent: tokens already used of the server's token limit.

    Raises:
        DataError, ModelError, ResourceError: generation fails.
    """
    keys = {answer_key(prompt, sample) for prompt in prompts for sample in range(settings.samples)}
    key = digest_of(["answers", model.digest])
    folder = ctx.shared / key
    make_folder(ctx.shared)
    started = time.monotonic()
    with hold_lock(
        ctx.shared / f"{key}.lock",
        lambda: ctx.progress.say("waiting for another run that generates with this model"),
    ):
        make_folder(folder)
        write_sealed(folder / SIGNALS_NOTE, {"title": "answers that a teacher wrote"})
        known = index_answers(answers_file(folder, model, settings))[0]
        num_known = sum(int(key_text, 16) in known for key_text in keys)
        with ctx.progress.bar(title, len(keys)) as advance:
            file = write_answers(
                model,
                prompts,
                settings,
                folder,
                threads=torch.get_num_threads(),
                device=ctx.device,
                batch_size=batch_size,
                allow_code=ctx.allow_code,
                advance=advance,
                tokens_spent=spent,
            )
    answers = {answer.key: answer for answer in read_answers(file) if answer.key in keys}
    return answers, {"written_before": num_known, "seconds": time.monotonic() - started}
