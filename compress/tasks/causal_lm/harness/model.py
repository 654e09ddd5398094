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
from compress.generation.prompts import truncate_at_stop
from compress.generation.writing import BATCH_SIZE
from compress.measuring.scoring import Generate
from compress.models.text.chat import PromptFormat
from compress.store.flat import RaggedWriter
from compress.tasks.base import Answers
from compress.tasks.causal_lm.harness.tasks import TASKS
from compress.tasks.causal_lm.text.windows import WindowInputs

Pair = tuple[Sequence[int], Sequence[int]]
"""Context tokens, and the tokens whose likelihood is requested."""
DEFAULT_MAX_TOKENS = 256
"""Maximum number of tokens of an answer if the task does not set it: lm-eval's own default."""


class Harness(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's interface of a language model.

    Args:
        tokenizer: without truncation and padding.
        text_format: the model's text format; a window has at most `max_length` tokens, including the last one, which
            lm-eval's own `HFLM` does not count.
        input_names: input names of the model.
        score_windows: maps windows to the results of `scorer.answers` on the model's outputs, in the same order.
        generate: maps prompts and settings of `decoding.answers` to the tokens of the answers, int32 (prompts, most),
            -1 after the end of each.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_format: PromptFormat,
        input_names: tuple[str, ...],
        score_windows: Callable[[WindowInputs], Answers],
        generate: Generate,
    ) -> None:
        super().__init__()
        self.fast_tokenizer, self.text_format, self.input_names = tokenizer, text_format, input_names
        self.score_windows, self.generate = score_windows, generate

    @property
    def eot_token_id(self) -> int:
        """Token that precedes a text without context: the begin-of-text token, else the end-of-text token."""
        bos_id = self.fast_tokenizer.token_to_id(self.text_format.special_tokens.get("bos_token", ""))
        for token_id in (self.text_format.begin_id, bos_id, self.text_format.end_id):
            if token_id is not None:
                return int(token_id)
        raise DataError("the model has no beginning-of-text or end-of-text token", where="data.lm_eval")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Tokenize a text, with the model's begin token unless the text starts with it."""
        ids = list(self.fast_tokenizer.encode(string, add_special_tokens=False).ids)
        begin = self.text_format.begin_id
        if add_special_tokens is False or begin is None or ids[:1] == [begin]:
            return ids
        return [begin, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        return self.log_likelihoods([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihoods of whole texts, computed in windows that overlap by one token only."""
        pairs, owners = list[Pair](), list[int]()
        for index, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.text_format.max_length - 1,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                owners.append(index)
        values = [value for value, _ in self.log_likelihoods(pairs)]
        sums: list[float] = np.bincount(owners, weights=values, minlength=len(requests)).tolist()
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the model's greedy continuation of each prompt, up to a stop string.

        Raises:
            DataError: a task requests sampling, or longer answers than a window allows.
        """
        texts = [""] * len(requests)
        by_max_tokens: dict[int, list[tuple[int, list[str]]]] = {}
        for index, request in enumerate(requests):
            settings = normalize_gen_kwargs(request.args[1], DEFAULT_MAX_TOKENS)
            if settings["do_sample"]:
                raise DataError(
                    "an lm-eval task asks for sampled answers, but only greedy decoding is supported here",
                    where=TASKS,
                )
            stops = [stop for stop in settings["until"] if stop]
            by_max_tokens.setdefault(settings["max_gen_toks"], []).append((index, stops))
        for max_tokens, group in by_max_tokens.items():
            prompts = [self._prompt(requests[index].args[0], max_tokens) for index, _ in group]
            for (index, stops), tokens in zip(group, self._generate_tokens(prompts, max_tokens), strict=True):
                texts[index] = self._decode(tokens, stops)
        return texts

    def _decode(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        # A special token among the stop strings is not part of the decoded text.
        stop_ids = {self.fast_tokenizer.token_to_id(stop) for stop in stops}
        text: str = self.fast_tokenizer.decode([*takewhile(lambda token: token not in stop_ids, tokens)])
        return truncate_at_stop(text, stops)

    def _prompt(self, text: str, max_tokens: int) -> NDArray[np.int32]:
        """Truncate a prompt from the left to leave room for an answer, like lm-eval's own runner."""
        max_prompt_tokens = self.text_format.max_length - 1 - max_tokens
        if max_prompt_tokens < 1:
            raise DataError(
                f"an lm-eval task asks for answers of {max_tokens} tokens, but a window has "
                f"{self.text_format.max_length}",
                where="data.max_length",
            )
        return np.array(self.tok_encode(text)[-max_prompt_tokens:] or [self.eot_token_id], np.int32)

    def _generate_tokens(self, prompts: Sequence[NDArray[np.int32]], max_tokens: int) -> list[list[int]]:
        end_ids = list(self.text_format.answer_end_ids)
        inputs = TokenInputs(prompts, ("input_ids", "attention_mask"), self.text_format.pad_id)
        rows = self.generate(inputs, {"most": max_tokens, "ends": end_ids, "together": BATCH_SIZE})
        # If the end token is an ordinary token, lm-eval's own runner keeps its text.
        return [
            [token for token in row if token >= 0 and token != self.text_format.end_id]
            for row in rows.tolist()
        ]

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of continuations, and whether all of their tokens are the most likely ones.

        Raises:
            DataError: a continuation is longer than a window.
        """
        ids, target_masks = RaggedWriter(np.int32), RaggedWriter(np.int32)
        max_length = self.text_format.max_length
        for context, continuation in pairs:
            if len(continuation) >= max_length:
                raise DataError(
                    f"the likelihood of {len(continuation)} tokens is requested, but a window has {max_length}",
                    where="data.max_length",
                )
            ids.add([np.array([*context, *continuation][-max_length:], np.int32)])
            target_mask = np.r_[np.zeros(len(context), np.int32), np.ones(len(continuation), np.int32)]
            target_masks.add([target_mask[-max_length:]])
        indices = np.arange(len(pairs), dtype=np.int64)
        windows = WindowInputs(
            ids.finish(),
            self.input_names,
            self.text_format.pad_id,
            target_mask=target_masks.finish(),
            documents=indices,
            target_bytes=np.zeros_like(indices),
        )
        sums = self.score_windows(windows)
        greedy = sums["right"] == sums["tokens"]
        return list(zip((-sums["nats"]).tolist(), greedy.tolist(), strict=True))
