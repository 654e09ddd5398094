"""A file of answers, a line each, that grows while they are written and outlives a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compress.core.disk.files import checksum_of

Ended = Literal["end", "stop", "length", "filter", "key"]
_CHECKSUM = "sha256"


@dataclass(frozen=True)
class Answer:
    """What a model wrote to a prompt.

    `key`: what tells prompt and sample from others. `prompt`: a text, or the messages of a conversation. `tokens`: all
    that was drawn, with the one that ended it; none where a server wrote, which gives texts. `ended`: by the model's
    own `end`, by a `stop` string, which `text` is cut before, by the `length`, or by a `filter` of the server; by `key`
    where the text held that of the server, which is blotted out. `used`: how many tokens `prompt` and `answer` were for
    a server that counts them.
    """

    key: str
    prompt: Any
    sample: int
    text: str
    tokens: list[int]
    ended: Ended
    used: dict[str, int] | None = None

    @property
    def count(self) -> int | None:
        """How many tokens it was; None where a server does not tell."""
        return len(self.tokens) if self.tokens else (self.used or {}).get("answer")

    def line(self) -> bytes:
        """As a line of the file."""
        body = asdict(self)
        return json.dumps({**body, _CHECKSUM: checksum_of(body)}, ensure_ascii=False).encode() + b"\n"


def tokens_drawn(answers: Sequence[Answer]) -> int | None:
    """How many tokens answers are together; None where a server does not tell of one."""
    counts = [answer.count for answer in answers]
    return None if None in counts else sum(filter(None, counts))


def tokens_read(answers: Sequence[Answer]) -> int:
    """How many tokens of prompts a server counted for them."""
    return sum((answer.used or {}).get("prompt", 0) for answer in answers)


def read_answers(file: Path) -> Iterator[Answer]:
    """The answers that stand in a file, in the order in which they were written; none where there is no file."""
    return (answer for answer, _ in _read(file))


def known_answers(file: Path) -> tuple[set[int], int]:
    """The keys of a file's answers as numbers, and how many bytes of it are whole."""
    keys, whole = set[int](), 0
    for answer, end in _read(file):
        keys.add(int(answer.key, 16))
        whole = end
    return keys, whole


def _read(file: Path) -> Iterator[tuple[Answer, int]]:
    """Each answer with where its line ends, up to the first line that is not as it was written."""
    if not file.exists():
        return
    end = 0
    with file.open("rb") as stream:
        for line in stream:
            try:
                body = json.loads(line)
                checksum = body.pop(_CHECKSUM)
                answer = Answer(**body)
            except (ValueError, TypeError, KeyError, AttributeError):
                return
            if not line.endswith(b"\n") or checksum != checksum_of(body):
                return
            end += len(line)
            yield answer, end
