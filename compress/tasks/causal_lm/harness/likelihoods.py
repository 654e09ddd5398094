"""Tasks of lm-eval asked of a model here: likelihoods, as windows that are scored like those of any text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer

from compress.core.errors import DataError
from compress.models.text.chat import Format
from compress.store.flat import RaggedWriter
from compress.tasks.base import Answers
from compress.tasks.causal_lm.text.windows import WindowInputs

Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens that stand before, and those whose likelihood is wanted."""


class Harness(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """What lm-eval takes for a language model.

    Args:
        tokenizer: without truncation and padding.
        form: how the model takes texts; a window has at most its `max_length` tokens, the last one included, of which
            lm-eval's own `HFLM` counts one less.
        answer: windows -> what `scorer.answers` keeps of the model's outputs, in their order.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        form: Format,
        names: tuple[str, ...],
        answer: Callable[[WindowInputs], Answers],
    ) -> None:
        super().__init__()
        self.tokens, self.form, self.names, self.answer = tokenizer, form, names, answer

    @property
    def eot_token_id(self) -> int:
        """What stands before a text of which nothing is given: the token that begins texts, or else ends them."""
        named = self.tokens.token_to_id(self.form.special.get("bos_token", ""))
        for found in (self.form.begin, named, self.form.end):
            if found is not None:
                return int(found)
        raise DataError("the model has no token that begins or ends a text", where="data.lm_eval")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """A text as token ids, behind the model's begin token but where it says that itself."""
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
        """The log-likelihood of whole texts, in windows that do not overlap but for one token."""
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
        """Not asked for.

        Raises:
            DataError: always; tasks that write are refused by their name.
        """
        raise DataError(
            "tasks of lm-eval that let a model write are not scored here", where="data.lm_eval.tasks"
        )

    def likelihoods(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """The log-likelihood of tokens behind others, and whether each of them is the likeliest.

        Raises:
            DataError: more tokens are wanted than a window holds.
        """
        ids, learnt = RaggedWriter(np.int32), RaggedWriter(np.int32)
        longest = self.form.max_length
        for before, wanted in pairs:
            if len(wanted) >= longest:
                raise DataError(
                    f"the likelihood of {len(wanted)} tokens is wanted, and a window has {longest}",
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
