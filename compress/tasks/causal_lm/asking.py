"""Prompts of the test split for generated answers, with the expected answers from the data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.generation.prompts import PromptCodec
from compress.generation.writing import TOGETHER
from compress.measuring.timing.feeds import sample_indices
from compress.tasks.base import GenerationPrompts, Task
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.documents import question_of


def asked(task: Task, test: Examples, model: Path, seed: int) -> GenerationPrompts | None:
    """Return prompts tokenized for the artifact directory `model`; None if the data requests no answers.

    Raises:
        DataError: no prompt leaves room for an answer.
    """
    data = task.data
    assert isinstance(data, LanguageData)
    if data.answers is None:
        return None
    writer = PromptCodec(model)
    room = data.max_length - data.answers.most
    prompts, expected, tokens, places = list[str](), list[str](), [], list[int]()
    for place in sorted(sample_indices(len(test), data.answers.examples, seed).tolist()):
        prompt, answer = question_of(test.texts[place])
        written = writer.render_prompt(prompt)
        ids = writer.encoded(written, begins=isinstance(prompt, str))
        if 0 < len(ids) <= room:
            prompts.append(written)
            expected.append(answer)
            tokens.append(np.array(ids, np.int32))
            places.append(place)
    if not places:
        raise DataError(
            f"no prompt of the test split has at most {room} tokens, which would leave {data.answers.most} more in "
            f"`max_length`, {data.max_length}",
            where="data.answers.most",
            code="no-room",
        )
    stops = data.answers.stop
    ends = sorted(writer.stopping(stops))
    settings = {"most": data.answers.most, "ends": ends, "together": TOGETHER}
    inputs = TokenInputs(tokens, ("input_ids", "attention_mask"), writer.format.pad)
    return GenerationPrompts(
        inputs,
        settings,
        tuple(places),
        tuple(prompts),
        tuple(expected),
        partial(writer.decode_answer, stops=stops),
    )
