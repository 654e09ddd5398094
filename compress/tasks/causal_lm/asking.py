"""What a model is asked to answer in words: prompts of the test split, and what their data says is the answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.errors import DataError
from compress.core.reading import read_mapping
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.measuring.feeds import sample_indices
from compress.models.text.chat import Format, Render
from compress.models.text.tokenizer_files import open_tokenizer
from compress.tasks.base import Asked, Task
from compress.tasks.causal_lm.keys import LanguageData

TOGETHER = 16
"""Answers that are written at once."""


def asked(task: Task, test: Examples, model: Path, seed: int) -> Asked | None:
    """Prompts as tokens of the artifact directory `model`; None where the data asks for no answers.

    Raises:
        DataError: no prompt leaves room for an answer.
    """
    data = task.data
    assert isinstance(data, LanguageData)
    if data.answers is None:
        return None
    form = Format.of(read_mapping(model / TASK))
    tokenizer = open_tokenizer(model / TOKENIZER)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    render = form.render(str(model))
    begin = [] if form.begin is None or data.written == "messages" else [form.begin]
    room = data.max_length - data.answers.most
    prompts, expected, tokens, places = list[str](), list[str](), [], list[int]()
    for place in sorted(sample_indices(len(test), data.answers.examples, seed).tolist()):
        prompt, answer = question_of(test.texts[place], render)
        ids = [*begin, *tokenizer.encode(prompt, add_special_tokens=False).ids]
        if 0 < len(ids) <= room:
            prompts.append(prompt)
            expected.append(answer)
            tokens.append(np.array(ids, np.int32))
            places.append(place)
    if not places:
        raise DataError(
            f"no prompt of the test split has at most {room} tokens, so that {data.answers.most} more fit into "
            f"`max_length`, {data.max_length}",
            where="data.answers.most",
            code="no-room",
        )
    stops = data.answers.stop

    def text(written: list[int]) -> str:
        said: str = tokenizer.decode([one for one in written if one != form.end])
        return min((said.split(stop, 1)[0] for stop in stops), key=len, default=said)

    ends = [] if form.end is None else [form.end]
    settings = {"most": data.answers.most, "ends": ends, "together": TOGETHER}
    inputs = TokenInputs(tokens, ("input_ids", "attention_mask"), form.pad)
    return Asked(inputs, settings, tuple(places), tuple(prompts), tuple(expected), text)


def question_of(item: str, render: Render | None) -> tuple[str, str]:
    """Of an example the text that is answered, and the answer: of a conversation what the assistant says last."""
    said = json.loads(item)
    if isinstance(said, dict):
        return said["prompt"], said["completion"]
    last = max(place for place, message in enumerate(said) if message["role"] == "assistant")
    assert render is not None  # else the conversations could not have been scored
    return render(said[:last], True), said[last]["content"]
