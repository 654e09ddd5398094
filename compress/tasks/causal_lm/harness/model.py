"""Run lm-eval tasks on a model: likelihoods, computed from windows like those of any text, and generated answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from numpy.typing import NDArray
from tokenizers import Tokenizer

from compress.core.errors import DataError
from compress.encoding.tokens import TokenInputs
from compress.generation.prompts import text_before
from compress.generation.writing import TOGETHER
from compress.measuring.scoring import Writes
from compress.models.text.chat import Format
from compress.store.flat import RaggedWriter
from compress.tasks.base import Answers
from compress.tasks.causal_lm.harness.tasks import TASKS
from compress.tasks.causal_lm.text.windows import WindowInputs

Pair = tuple[Sequence[int], Sequence[int]]
"""Context tokens, and the tokens whose likelihood is requested."""
MOST = 256
"""Maximum number of tokens of an answer if the task does not set it: lm-eval's own default."""


class Harness(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's interface of a language model.

    Args:
        tokenizer: without truncation and padding.
        form: the model's text format; a window has at most `max_length` tokens, including the last one, which lm-eval's
            own `HFLM` does not count.
        names: input names of the model.
        answer: maps windows to the results of `scorer.answers` on the model's outputs, in the same order.
        write: maps prompts and settings of `decoding.answers` to the tokens of the answers, int32 (prompts, most), -1
            after the end of each.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        form: Format,
        names: tuple[str, ...],
        answer: Callable[[WindowInputs], Answers],
        write: Writes,
    ) -> None:
        super().__init__()
        self.tokens, self.form, self.names = tokenizer, form, names
        self.answer, self.write = answer, write

    @property
    def eot_token_id(self) -> int:
        """Token that precedes a text without context: the begin-of-text token, else the end-of-text token."""
        named = self.tokens.token_to_id(self.form.special.get("bos_token", ""))
        for found in (self.form.begin, named, self.form.end):
            if found is not None:
                return int(found)
        raise DataError("the model has no beginning-of-text or end-of-text token", where="data.lm_eval")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Tokenize a text, with the model's begin token unless the text starts with it."""
        ids = list(self.tokens.encode(string, add_special_tokens=False).ids)
        begin = self.form.begin
        if add_special_tokens is False or begin is None or ids[:1] == [begin]:
            return ids
        return [begin, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        return self.likelihoods([(before, wanted) for _, before, wanted in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihoods of whole texts, computed in windows that overlap by one token only."""
        pairs, owners = list[Pair](), list[int]()
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.form.max_length - 1,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                owners.append(number)
        found = [value for value, _ in self.likelihoods(pairs)]
        sums: list[float] = np.bincount(owners, weights=found, minlength=len(requests)).tolist()
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the model's greedy continuation of each prompt, up to a stop string.

        Raises:
            DataError: a task requests sampling, or longer answers than a window allows.
        """
        texts = [""] * len(requests)
        by_most: dict[int, list[tuple[int, list[str]]]] = {}
        for number, request in enumerate(requests):
            settings = normalize_gen_kwargs(request.args[1], MOST)
            if settings["do_sample"]:
                raise DataError(
                    "an lm-eval task asks for sampled answers, but only greedy decoding is supported here",
                    where=TASKS,
                )
            stops = [stop for stop in settings["until"] if stop]
            by_most.setdefault(settings["max_gen_toks"], []).append((number, stops))
        for most, asked in by_most.items():
            prompts = [self._prompt(requests[number].args[0], most) for number, _ in asked]
            for (number, stops), tokens in zip(asked, self._written(prompts, most), strict=True):
                texts[number] = self._said(tokens, stops)
        return texts

    def _said(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        # A special token among the stop strings is not part of the decoded text.
        marks = {self.tokens.token_to_id(stop) for stop in stops}
        said: str = self.tokens.decode([*takewhile(lambda token: token not in marks, tokens)])
        return text_before(said, stops)

    def _prompt(self, text: str, most: int) -> NDArray[np.int32]:
        """Truncate a prompt from the left to leave room for an answer, like lm-eval's own runner."""
        room = self.form.max_length - 1 - most
        if room < 1:
            raise DataError(
                f"an lm-eval task asks for answers of {most} tokens, but a window has {self.form.max_length}",
                where="data.max_length",
            )
        return np.array(self.tok_encode(text)[-room:] or [self.eot_token_id], np.int32)

    def _written(self, prompts: Sequence[NDArray[np.int32]], most: int) -> list[list[int]]:
        ends = list(self.form.ends)
        inputs = TokenInputs(prompts, ("input_ids", "attention_mask"), self.form.pad)
        found = self.write(inputs, {"most": most, "ends": ends, "together": TOGETHER})
        # If the end token is an ordinary token, lm-eval's own runner keeps its text.
        return [[token for token in row if token >= 0 and token != self.form.end] for row in found.tolist()]

    def likelihoods(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of continuations, and whether all of their tokens are the most likely ones.

        Raises:
            DataError: a continuation is longer than a window.
        """
        ids, learnt = RaggedWriter(np.int32), RaggedWriter(np.int32)
        longest = self.form.max_length
        for before, wanted in pairs:
            if len(wanted) >= longest:
                raise DataError(
                    f"the likelihood of {len(wanted)} tokens is requested, but a window has {longest}",
                    where="data.max_length",
                )
            ids.add([np.array([*before, *wanted][-longest:], np.int32)])
            marks = np.r_[np.zeros(len(before), np.int32), np.ones(len(wanted), np.int32)]
            learnt.add([marks[-longest:]])
        numbers = np.arange(len(pairs), dtype=np.int64)
        windows = WindowInputs(
            ids.finish(),
            self.names,
            self.form.pad,
            learnt=learnt.finish(),
            documents=numbers,
            sizes=np.zeros_like(numbers),
        )
        found = self.answer(windows)
        greedy = found["right"] == found["tokens"]
        return list(zip((-found["nats"]).tolist(), greedy.tolist(), strict=True))
