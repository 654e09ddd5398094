"""Documents cut into passages that are read by themselves: whole sentences, of so many tokens. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’)]*|\n\s*\n")
"""Where a sentence, a headline or a paragraph ends."""


def passages(text: str, count: Callable[[str], int], fewest: int, most: int) -> list[str]:
    """The passages of a document, in order; together they hold all of it but what is too short at its end.

    A sentence that has more than `most` tokens is cut between words.

    Args:
        count: the tokens of a text.
        fewest: of a passage; what has fewer is left out.
        most: of a passage.
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
    """Where the sentences of a text begin and end, with the white space behind them."""
    start = 0
    for end in [*(found.end() for found in _END.finditer(text)), len(text)]:
        yield from _pieces(text, start, end, count, most)
        start = end


def _pieces(
    text: str, start: int, end: int, count: Callable[[str], int], most: int
) -> Iterator[tuple[int, int]]:
    """A part of a text, cut in halves between words until each has few enough tokens."""
    own = text[start:end]
    middle = own.find(" ", len(own) // 2) if count(own) > most else -1
    if middle < 0:
        if own.strip():
            yield start, end
        return
    yield from _pieces(text, start, start + middle, count, most)
    yield from _pieces(text, start + middle, end, count, most)
