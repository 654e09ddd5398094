"""Splitting of documents into self-contained passages of whole sentences, bounded in tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’)]*|\n\s*\n")
"""Matches the end of a sentence, a headline or a paragraph."""


def split_passages(
    text: str, count_tokens: Callable[[str], int], min_tokens: int, max_tokens: int
) -> list[str]:
    """Return the passages of a document, in order; together they cover it except for parts that are too short.

    A sentence of more than `max_tokens` tokens is cut between words.

    Args:
        count_tokens: returns the number of tokens of a text.
        min_tokens: minimum tokens of a passage; shorter ones are dropped.
        max_tokens: maximum tokens of a passage.
    """
    parts = list[str]()
    start, end, num_tokens = 0, 0, 0
    for first, last in _sentences(text, count_tokens, max_tokens):
        sentence_tokens = count_tokens(text[first:last])
        if num_tokens and num_tokens + sentence_tokens > max_tokens:
            parts.append(text[start:end])
            num_tokens = 0
        start, end, num_tokens = (start if num_tokens else first), last, num_tokens + sentence_tokens
    parts.append(text[start:end])
    return [part for part in map(str.strip, parts) if part and min_tokens <= count_tokens(part) <= max_tokens]


def _sentences(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the sentences of a text, including trailing white space."""
    start = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        yield from _split_span(text, start, end, count_tokens, max_tokens)
        start = end


def _split_span(
    text: str, start: int, end: int, count_tokens: Callable[[str], int], max_tokens: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts of a span, halved between words until each is short enough."""
    span = text[start:end]
    middle = span.find(" ", len(span) // 2) if count_tokens(span) > max_tokens else -1
    if middle < 0:
        if span.strip():
            yield start, end
        return
    yield from _split_span(text, start, start + middle, count_tokens, max_tokens)
    yield from _split_span(text, start + middle, end, count_tokens, max_tokens)
