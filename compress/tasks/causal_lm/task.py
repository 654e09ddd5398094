"""Causal language modelling: texts, with the logits of the next token at each position."""

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
from compress.tasks.causal_lm.text.documents import answered_item, prompt_and_answer, questions_of
from compress.tasks.causal_lm.text.windows import WindowInputs, encode_documents, encoding_key

MAX_CACHED = 4
"""Number of encoded splits to cache: the three of one tokenizer, and one of another."""


class CausalLanguageModel:
    """Task on texts in windows of `max_length` tokens, scored by perplexity."""

    kind: ClassVar[TaskKind] = KIND
    scorer: ClassVar[Any] = token_scorer

    def __init__(self, data: DataSpec) -> None:
        self.data = cast(LanguageData, data)
        self._encoded: dict[str, WindowInputs] = {}

    def encode(self, examples: Examples, model: Path) -> WindowInputs:
        """Encode examples with the tokenizer and the chat template of the artifact directory `model`.

        The last encodings are cached: the steps of a run, and its measurements, encode the same splits again.
        """
        key = encoding_key(examples, self.data, model)
        inputs = self._encoded.pop(key, None) or encode_documents(examples, self.data, model)
        self._encoded[key] = inputs
        while len(self._encoded) > MAX_CACHED:
            del self._encoded[next(iter(self._encoded))]
        return inputs

    @property
    def answered_task(self) -> CausalLanguageModel:
        """Task of prompts or conversations with generated answers."""
        if not self.data.continues_texts:
            return self
        columns = {"prompt_column": "prompt", "completion_column": "completion"}
        return CausalLanguageModel(self.data.model_copy(update=columns))

    @property
    def conversation_task(self) -> CausalLanguageModel:
        """Task of conversations with generated answers."""
        columns = {"prompt_column": None, "completion_column": None, "messages_column": "messages"}
        return CausalLanguageModel(self.data.model_copy(update=columns))

    def split_prompt(self, item: Item, shorten: Callable[[str], str]) -> tuple[Prompt, str]:
        """Return the prompt of an example, and its own answer; a plain text is continued after its `shorten`."""
        text = str(item)
        if not self.data.continues_texts:
            return prompt_and_answer(text)
        prompt = shorten(text)
        return prompt, text[len(prompt) :]

    def prompt_of(self, text: str) -> Prompt:
        """Return a text as a prompt; for conversations, as the first user message."""
        return [{"role": "user", "content": text}] if self.data.is_chat else text

    def questions_of(self, item: Item) -> Sequence[str]:
        """Return a plain text, a prompt, or the user's messages in a conversation."""
        return [str(item)] if self.data.continues_texts else questions_of(str(item))

    def answered_item(self, prompt: Prompt, answer: str, *, ends: bool) -> str:
        """Combine a prompt with an answer, where only the answer is trained on."""
        return answered_item(prompt, answer, ends=ends)

    def scorable(self, examples: Examples) -> Examples:
        """Return all examples: each text is its own target."""
        return examples

    def needs_reference(self, examples: Examples) -> bool:
        """Return False: the ground truth is the text."""
        return False

    def settings(self, task_json: Mapping[str, Any]) -> dict[str, Any]:
        """Return the maximum window length, for the most likely tokens, and the vocabulary size."""
        return {"length": int(task_json.get("max_length", 0)), "words": int(task_json.get("words", 0))}

    def check_outputs(self, shape: tuple[int, ...], task_json: Mapping[str, Any], where: str) -> None:
        """Reject outputs that are not one row of logits per token.

        Raises:
            ModelError: they have another shape.
        """
        if len(shape) != 3 or shape[2] != task_json["words"]:
            raise wrong_shape(shape, f"(tokens, {task_json['words']})", where)

    def score(self, answers: Answers, truth: Truth) -> Score:
        """Return the perplexity: e to the mean negative log-likelihood of a token.

        Raises:
            ModelError: an output is not finite.
        """
        if not np.isfinite(answers["nats"]).all():
            raise not_finite()
        return Score(KIND.metric, float(np.exp(answers["nats"].sum() / answers["tokens"].sum())))

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """Return KL(reference || outputs) in nats, averaged over the tokens of logits (n, tokens, words)."""
        total = 0.0
        for expected, actual in zip(reference, outputs, strict=True):
            reference_logs, output_logs = (token_scorer.log_softmax(logits) for logits in (expected, actual))
            total += float((np.exp(reference_logs) * (reference_logs - output_logs)).sum(axis=-1).mean())
        return total / len(reference)
