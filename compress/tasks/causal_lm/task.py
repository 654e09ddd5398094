"""Causal language modelling: a text, and for each of its tokens the logits of the one that follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.task_kind import TaskKind
from compress.data.splits import Examples, Item
from compress.models.text.chat import Prompt
from compress.profile.schema import DataSpec
from compress.tasks.base import Answers, Score, Truth, not_finite, wrong_shape
from compress.tasks.causal_lm import scorer as token_scorer
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.kind import KIND
from compress.tasks.causal_lm.text.documents import answered_item, asked_in, question_of
from compress.tasks.causal_lm.text.windows import WindowInputs, encode_documents, encoding_key

KEPT = 4
"""Encoded splits: the three of one tokenizer, and one of another."""


class CausalLanguageModel:
    """Texts in windows of `max_length` tokens; scored by perplexity."""

    kind: ClassVar[TaskKind] = KIND
    scorer: ClassVar[Any] = token_scorer

    def __init__(self, data: DataSpec) -> None:
        self.data = cast(LanguageData, data)
        self._encoded: dict[str, WindowInputs] = {}

    def encode(self, examples: Examples, model: Path) -> WindowInputs:
        """Encode examples with the tokenizer and the chat template of the artifact directory `model`.

        What was encoded last is kept: the steps of a run, and its measurements, ask for the same splits again.
        """
        key = encoding_key(examples, self.data, model)
        inputs = self._encoded.pop(key, None) or encode_documents(examples, self.data, model)
        self._encoded[key] = inputs
        while len(self._encoded) > KEPT:
            del self._encoded[next(iter(self._encoded))]
        return inputs

    @property
    def answered(self) -> CausalLanguageModel:
        """The task of prompts and conversations to which something was answered."""
        if not self.data.goes_on:
            return self
        columns = {"prompt_column": "prompt", "completion_column": "completion"}
        return CausalLanguageModel(self.data.model_copy(update=columns))

    @property
    def conversing(self) -> CausalLanguageModel:
        """The task of conversations to which something was answered."""
        columns = {"prompt_column": None, "completion_column": None, "messages_column": "messages"}
        return CausalLanguageModel(self.data.model_copy(update=columns))

    def question(self, item: Item, beginning: Callable[[str], str]) -> tuple[Prompt, str]:
        """The prompt of an example, and its own answer; a plain text goes on behind its `beginning`."""
        text = str(item)
        if not self.data.goes_on:
            return question_of(text)
        prompt = beginning(text)
        return prompt, text[len(prompt) :]

    def prompt_of(self, text: str) -> Prompt:
        """A text as the prompt of an example: of conversations, what the user says first."""
        return [{"role": "user", "content": text}] if self.data.converses else text

    def asked_in(self, item: Item) -> Sequence[str]:
        """A plain text, a prompt, or what the user says in a conversation."""
        return [str(item)] if self.data.goes_on else asked_in(str(item))

    def answered_item(self, prompt: Prompt, answer: str, *, ends: bool) -> str:
        """A prompt with an answer, of which the answer alone is learnt."""
        return answered_item(prompt, answer, ends=ends)

    def scored(self, examples: Examples) -> Examples:
        """All of them: each text says itself what follows."""
        return examples

    def needs_reference(self, examples: Examples) -> bool:
        """Never: the truth is the text."""
        return False

    def settings(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """How many tokens a window has at most, as the likeliest words are kept, and how many words there are."""
        return {"length": int(described.get("max_length", 0)), "words": int(described.get("words", 0))}

    def check_outputs(self, shape: tuple[int, ...], described: Mapping[str, Any], where: str) -> None:
        """Refuse outputs that are not one row of logits a token.

        Raises:
            ModelError: they are of another shape.
        """
        if len(shape) != 3 or shape[2] != described["words"]:
            raise wrong_shape(shape, f"(tokens, {described['words']})", where)

    def score(self, answers: Answers, truth: Truth) -> Score:
        """Perplexity: e to the mean of minus the log-probability of a token.

        Raises:
            ModelError: an output is not a finite number.
        """
        if not np.isfinite(answers["nats"]).all():
            raise not_finite()
        return Score(KIND.metric, float(np.exp(answers["nats"].sum() / answers["tokens"].sum())))

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """KL(reference || outputs) in nats, the mean over the tokens of logits (n, tokens, words)."""
        total = 0.0
        for expected, found in zip(reference, outputs, strict=True):
            sure, guess = (token_scorer.log_softmax(each) for each in (expected, found))
            total += float((np.exp(sure) * (sure - guess)).sum(axis=-1).mean())
        return total / len(reference)
