"""A model that is asked for texts: what it wrote before to such a prompt in such a way is not asked again, in whatever
run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from compress.core.artifacts import Artifact
from compress.core.disk.files import digest_of, make_folder, write_sealed
from compress.generation.answers import Answer, known_answers, read_answers
from compress.generation.writing import TOGETHER, How, answers_file, key_of, write_answers
from compress.models.text.chat import Prompt
from compress.profile.specs.server import ServerSpec
from compress.step import StepContext
from compress.store.cache import SIGNALS_NOTE
from compress.store.locks import held

Answers = dict[str, Answer]
"""By `key_of` their prompts and samples."""


def answers_to(
    ctx: StepContext,
    model: Artifact | ServerSpec,
    prompts: Sequence[Prompt],
    how: How,
    title: str,
    together: int = TOGETHER,
    spent: int = 0,
) -> tuple[Answers, dict[str, Any]]:
    """Let a model answer prompts; what that took here and now.

    Args:
        title: of the bar.
        together: answers that a model on this machine writes at once.
        spent: of the tokens that a server may be asked for, those that were used elsewhere.

    Raises:
        DataError, ModelError, ResourceError: it cannot.
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
