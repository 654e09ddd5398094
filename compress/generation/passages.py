"""Splitting of documents into self-contained passages of whole sentences, bounded in tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’)]*|\n\s*\n")
"""Matches the end of a sentence, a headline or a paragraph."""


def passages(text: str, count: Callable[[str], int], fewest: int, most: int) -> list[str]:
    """Return the passages of a document, in order; together they cover it except for parts that are too short.

    A sentence of more than `most` tokens is cut between words.

    Args:
        count: returns the number of tokens of a text.
        fewest: minimum tokens of a passage; shorter ones are dropped.
        most: maximum tokens of a passage.
    """
    found = list[str]()
    start, end, held = 0, 0, 0
    for first, last in _sentences(text, count, most):
        own = count(text[first:last])
        if held and held + own > most:
            found.append(text[start:end])
            held = 0
        start, end, held = (start if held else first), last, held + own
    found.append(text[start:end])
    return [one for one in map(str.strip, found) if one and fewest <= count(one) <= most]


def _sentences(text: str, count: Callable[[str], int], most: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the sentences of a text, including trailing white space."""
    start = 0
    for end in [*(found.end() for found in _END.finditer(text)), len(text)]:
        yield from _pieces(text, start, end, count, most)
        start = end


def _pieces(
    text: str, start: int, end: int, count: Callable[[str], int], most: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts of a span, halved between words until each is short enough."""
    own = text[start:end]
    middle = own.find(" ", len(own) // 2) if count(own) > most else -1
    if middle < 0:
        if own.strip():
            yield start, end
        return
    yield from _pieces(text, start, start + middle, count, most)
    yield from _pieces(text, start + middle, end, count, most)
