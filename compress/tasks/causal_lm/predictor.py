"""Goes on with texts; lies beside `runner.py` and `decoding.py` in a bundle. Needs numpy, onnxruntime, tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runner import CachedSession, load_file, load_task, open_session  # type: ignore[import-not-found]

decoding = load_file(str(Path(__file__).with_name("decoding.py")))

PROBED = 256
"""Words whose logits `outputs` gives: as many as tell one model from another."""


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
        """A text as token ids; `begins`: behind the token that stands before every text, if there is one."""
        begin = [] if self.task["begin_id"] is None or not begins else [self.task["begin_id"]]
        return begin + list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def outputs(self, items: Sequence[str]) -> Any:
        """Logits of every n-th word as the token after each text, float32 (texts, `PROBED`)."""
        found = []
        for item in items:
            prompt = self.prompt_of(item)[-self.task["max_length"] :]
            logits = decoding.Decoder(self.session, len(prompt)).start([prompt])[0]
            found.append(logits[:: max(1, len(logits) // PROBED)][:PROBED])
        return np.stack(found)

    def prompt_of(self, item: str) -> list[int]:
        """The tokens of an item of the data: a text, a prompt with its completion, or a conversation, as JSON."""
        if self.task["written"] == "texts":
            return self.tokens(item)
        said = json.loads(item)
        if self.task["written"] == "prompts":
            return self.tokens(said["prompt"])
        return (
            self.tokens(self.chat(said[:1]), begins=False) if self.chats else self.tokens(said[0]["content"])
        )

    @property
    def chats(self) -> bool:
        """Whether it takes conversations: its template could be written down as fixed pieces."""
        return self.task["chat"] is not None

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Messages, `{role, content}` each, as the text behind which the assistant answers."""
        pieces, roles = self.task["chat"], [message["role"] for message in messages]
        text: str = pieces["start"][roles[0]] + messages[0]["content"]
        for before, message in zip(roles, messages[1:]):  # noqa: B905 (no `strict` before Python 3.10)
            text += pieces["between"][f"{before}>{message['role']}"] + message["content"]
        return text + str(pieces["asks"][roles[-1]])

    def stream(
        self,
        prompt: Sequence[int],
        most: int = 128,
        sampling: Any = None,
        stops: Sequence[str] = (),
    ) -> Iterator[str]:
        """The answer to a prompt of token ids, in parts as they are known; it ends before the first of `stops`."""
        ids: list[int] = []
        told = ""
        decoder = decoding.Decoder(self.session, len(prompt) + most)
        how = decoding.GREEDY if sampling is None else sampling
        for _, token in decoding.stream(decoder, [list(prompt)], most, self.ends, how):
            if token in self.ends:
                break
            ids.append(token)
            text = self.tokenizer.decode(ids)
            found = [place for stop in stops if (place := text.find(stop)) >= 0]
            if found:
                text = text[: min(found)]
            # What may still change is held back: half a letter, or the beginning of a stop.
            known = text if found else text[: len(text) - unsure(text, stops)]
            if known.startswith(told):
                yield known[len(told) :]
                told = known
            if found:
                return
        rest = self.tokenizer.decode(ids)
        yield rest[len(told) :]

    @staticmethod
    def sampling(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Any:
        """How the next token is drawn, as `decoding.py` describes it."""
        return decoding.Sampling(temperature, top_k, top_p, seed)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return () if self.task["end_id"] is None else (self.task["end_id"],)

    def __call__(self, prompt: str, **how: Any) -> str:
        """The answer to a prompt, as one text."""
        return "".join(self.stream(self.tokens(prompt), **how))


def unsure(text: str, stops: Sequence[str]) -> int:
    """How many letters at the end of a text may still become something else."""
    held = 1 if text.endswith("\ufffd") else 0
    for stop in stops:
        for length in range(1, len(stop)):
            if text.endswith(stop[:length]):
                held = max(held, length)
    return held
