"""A JSON Lines file of generated answers, appended to during generation and safe against a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compress.core.disk.files import checksum_of

FinishReason = Literal["end", "stop", "length", "filter", "key"]
_CHECKSUM = "sha256"


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt.

    `key`: identifies prompt and sample. `prompt`: a text, or the messages of a conversation. `tokens`: all
    generated ids, including the end token; empty for a server, which returns text. `ended`: by the model's end
    token (`end`), by a `stop` string, before which `text` is cut, by the `length` limit, or by a `filter` of
    the server; `key`: the text contained the server's API key, which is redacted. `used`: token counts of
    `prompt` and `answer` as reported by a server.
    """

    key: str
    prompt: Any
    sample: int
    text: str
    tokens: list[int]
    ended: FinishReason
    used: dict[str, int] | None = None

    @property
    def num_tokens(self) -> int | None:
        """Number of generated tokens; None if a server does not report it."""
        return len(self.tokens) if self.tokens else (self.used or {}).get("answer")

    def to_line(self) -> bytes:
        """Serialize as a line of the file, with a checksum."""
        body = asdict(self)
        return json.dumps({**body, _CHECKSUM: checksum_of(body)}, ensure_ascii=False).encode() + b"\n"


def count_generated_tokens(answers: Sequence[Answer]) -> int | None:
    """Return the total number of generated tokens; None if a server does not report one."""
    counts = [answer.num_tokens for answer in answers]
    return None if None in counts else sum(filter(None, counts))


def count_prompt_tokens(answers: Sequence[Answer]) -> int:
    """Return the total number of prompt tokens that a server reported."""
    return sum((answer.used or {}).get("prompt", 0) for answer in answers)


def read_answers(file: Path) -> Iterator[Answer]:
    """Yield the answers in a file, in the order in which they were written; none if there is no file."""
    return (answer for answer, _ in _read_with_offsets(file))


def index_answers(file: Path) -> tuple[set[int], int]:
    """Return the keys of a file's answers as integers, and the length in bytes of its intact part."""
    keys, intact_size = set[int](), 0
    for answer, end in _read_with_offsets(file):
        keys.add(int(answer.key, 16))
        intact_size = end
    return keys, intact_size


def _read_with_offsets(file: Path) -> Iterator[tuple[Answer, int]]:
    """Yield each answer with the byte offset at which its line ends, up to the first damaged line."""
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
