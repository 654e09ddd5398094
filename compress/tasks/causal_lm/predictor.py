"""Goes on with texts; lies beside `runner.py` and `decoding.py` in a bundle. Needs numpy, onnxruntime, tokenizers."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runner import (  # type: ignore[import-not-found]
    CachedSession,
    RunnerError,
    load_file,
    load_task,
    open_session,
)

decoding = load_file(str(Path(__file__).with_name("decoding.py")))

NUM_PROBED_LOGITS = 256
"""Words whose logits `outputs` gives: as many as tell one model from another."""
REPLACEMENT_CHARACTER = "\ufffd"
"""What the bytes of a letter are decoded to before the last of them is there."""
INVALID_BYTE_TOKEN = "<0xFF>"
"""The token of a byte that no letter has, where a tokenizer writes unknown letters as bytes."""


class Predictor:
    """A language model, of a folder with `model.onnx`, `tokenizer.json` and `task.json`."""

    labels: list[str] = []  # noqa: RUF012

    def __init__(self, folder: str, threads: int = 1, device: str = "cpu", model: str = "model.onnx") -> None:
        from tokenizers import Tokenizer

        self.task = load_task(folder)
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.session = CachedSession(open_session(str(Path(folder) / model), threads, device))

    def tokens(self, text: str, begins: bool = True) -> list[int]:
        """A text as token ids; `begins`: behind the token that stands before every text, if there is one and the text
        does not begin with it already."""
        ids, begin = list(self.tokenizer.encode(text, add_special_tokens=False).ids), self.task["begin_id"]
        return ids if begin is None or not begins or ids[:1] == [begin] else [begin, *ids]

    def outputs(self, items: Sequence[str]) -> Any:
        """Logits of every n-th word as the token after each text, float32 (texts, `NUM_PROBED_LOGITS`)."""
        rows = []
        for item in items:
            prompt = self.prompt_of(item)[-self.task["max_length"] :]
            logits = decoding.Decoder(self.session, len(prompt)).start([prompt])[0]
            rows.append(logits[:: max(1, len(logits) // NUM_PROBED_LOGITS)][:NUM_PROBED_LOGITS])
        return np.stack(rows)

    def prompt_of(self, item: str) -> list[int]:
        """The tokens of an item of the data: a text, a prompt with its completion, or a conversation, as JSON."""
        if self.task["written"] == "texts":
            return self.tokens(item)
        example = json.loads(item)
        if self.task["written"] == "prompts":
            return self.tokens(example["prompt"])
        prompt_turns = next(
            (index + 1 for index, message in enumerate(example) if message["role"] == "user"), 0
        )
        if self.chats and prompt_turns:
            with contextlib.suppress(KeyError):
                return self.tokens(self.chat(example[:prompt_turns]), begins=False)
        return self.tokens(next((message["content"] for message in example if message["content"]), ""))

    @property
    def chats(self) -> bool:
        """Whether it takes conversations: its template could be written down as fixed pieces."""
        return self.task["chat"] is not None

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages, `{role, content}` each, as the text behind which the assistant answers.

        Raises:
            KeyError: the template was tried with no conversation in which these roles follow each other.
        """
        pieces, roles = self.task["chat"], [message["role"] for message in messages]
        trim = pieces.get("trim", ())
        contents = [turn["content"].strip() if turn["role"] in trim else turn["content"] for turn in messages]
        text: str = pieces["start"][roles[0]] + contents[0]
        for previous, role, content in zip(roles, roles[1:], contents[1:]):  # noqa: B905 (no `strict` before Python 3.10)
            text += pieces["between"][f"{previous}>{role}"] + content
        return text + str(pieces["asks"][roles[-1]])

    def fitted(self, messages: Sequence[dict[str, str]], most: int = 128) -> list[dict[str, str]]:
        """Messages without the oldest turns, so that an answer has room: `most` tokens, or half of what the model holds
        where that is less. What the system says stays, and so does the last turn."""
        remaining, reserved = list(messages), min(most, self.positions // 2)
        while len(self.tokens(self.chat(remaining), begins=False)) + reserved > self.positions:
            turns = [index for index, message in enumerate(remaining) if message["role"] == "user"]
            if len(turns) < 2:
                break
            del remaining[turns[0] : turns[1]]
        return remaining

    def stream(
        self,
        prompt: Sequence[int],
        most: int = 128,
        sampling: Any = None,
        stops: Sequence[str] = (),
    ) -> Iterator[str]:
        """The answer to a prompt of token ids, in parts as they are known; it ends before the first of `stops`, and
        where the model holds no more tokens.

        Raises:
            RunnerError: the prompt leaves no room for an answer.
        """
        if len(prompt) >= self.positions:
            raise RunnerError(
                f"the prompt has {len(prompt)} tokens and the model holds {self.positions}, so nothing can be written "
                "behind it: shorten it"
            )
        most, ends = min(most, self.positions - len(prompt)), self.stopping(stops)
        decoder = decoding.Decoder(self.session, len(prompt) + most)
        how = decoding.GREEDY if sampling is None else sampling
        generated = (token for _, token in decoding.stream(decoder, [list(prompt)], most, ends, how))
        return parts(itertools.takewhile(lambda token: token not in ends, generated), self.tokenizer, stops)

    @property
    def positions(self) -> int:
        """How many tokens the model holds, a prompt and its answer together; no bound where nobody says it."""
        return int(self.task.get("positions", sys.maxsize))

    def stopping(self, stops: Sequence[str]) -> tuple[int, ...]:
        """The tokens that end an answer: the model's own, and the special ones among `stops`, which no text shows."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        return (
            *self.ends,
            *(token_id for token_id, token in added if token.special and token.content in stops),
        )

    @staticmethod
    def sampling(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Any:
        """How the next token is drawn, as `decoding.py` describes it."""
        return decoding.Sampling(temperature, top_k, top_p, seed)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return tuple(
            token_id for token_id in self.task.get("end_ids", [self.task["end_id"]]) if token_id is not None
        )

    def __call__(self, prompt: str, **how: Any) -> str:
        """The answer to a prompt, as one text."""
        return "".join(self.stream(self.tokens(prompt), **how))


def parts(tokens: Iterable[int], tokenizer: Any, stops: Sequence[str] = ()) -> Iterator[str]:
    """What tokens say, in parts as they are known, up to the first of `stops`: together the text of all of them.

    What may still change is held back: the beginning of a stop, half a letter, and where unknown letters are written
    as bytes, those that stand side by side, as one that fits to no letter spoils them all.
    """
    ids, emitted, text, invalid_id = list[int](), 0, "", tokenizer.token_to_id(INVALID_BYTE_TOKEN)
    invalid = (
        [] if invalid_id is None or tokenizer.decode([invalid_id]) != REPLACEMENT_CHARACTER else [invalid_id]
    )
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        stop_positions = [position for stop in stops if (position := text.find(stop)) >= 0]
        if stop_positions:
            yield text[emitted : min(stop_positions)]
            return
        stable = tokenizer.decode([*ids, *invalid]).rstrip(REPLACEMENT_CHARACTER)
        stable_length = len(stable) - partial_stop_length(stable, stops)
        yield text[emitted:stable_length]
        emitted = max(emitted, stable_length)
    yield text[emitted:]


def partial_stop_length(text: str, stops: Sequence[str]) -> int:
    """How many letters at the end of a text may be the beginning of a stop."""
    lengths = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return max(lengths, default=0)
