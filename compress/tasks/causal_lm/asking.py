"""Prompts of the test split for generated answers, with the expected answers from the data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.generation.prompts import PromptCodec
from compress.generation.writing import BATCH_SIZE
from compress.measuring.timing.feeds import sample_indices
from compress.tasks.base import GenerationPrompts, Task
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.documents import prompt_and_answer


def generation_prompts(task: Task, test: Examples, model: Path, seed: int) -> GenerationPrompts | None:
    """Return prompts tokenized for the artifact directory `model`; None if the data requests no answers.

    Raises:
        DataError: no prompt leaves room for an answer.
    """
    data = task.data
    assert isinstance(data, LanguageData)
    if data.answers is None:
        return None
    codec = PromptCodec(model)
    max_prompt_tokens = data.max_length - data.answers.most
    prompts, expected, tokens, indices = list[str](), list[str](), [], list[int]()
    for index in sorted(sample_indices(len(test), data.answers.examples, seed).tolist()):
        prompt, answer = prompt_and_answer(test.texts[index])
        rendered = codec.render_prompt(prompt)
        ids = codec.encode(rendered, add_bos=isinstance(prompt, str))
        if 0 < len(ids) <= max_prompt_tokens:
            prompts.append(rendered)
            expected.append(answer)
            tokens.append(np.array(ids, np.int32))
            indices.append(index)
    if not indices:
        raise DataError(
            f"no prompt of the test split has at most {max_prompt_tokens} tokens, which would leave "
            f"{data.answers.most} more in "
            f"`max_length`, {data.max_length}",
            where="data.answers.most",
            code="no-room",
        )
    stops = data.answers.stop
    end_ids = sorted(codec.stop_ids(stops))
    settings = {"most": data.answers.most, "ends": end_ids, "together": BATCH_SIZE}
    inputs = TokenInputs(tokens, ("input_ids", "attention_mask"), codec.format.pad_id)
    return GenerationPrompts(
        inputs,
        settings,
        tuple(indices),
        tuple(prompts),
        tuple(expected),
        partial(codec.decode_answer, stops=stops),
    )
