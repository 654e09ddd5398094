"""Lexical check that a passage supports an answer.

It compares words, not meaning: it finds invented facts, not inverted ones. An answer is supported if every
number and every name in it occurs in the passage, and enough of its other words do. Stop words and negations
are English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_DENIES = re.compile(
    r"\b(no|not|never|none|nobody|nothing|neither|nor|cannot|without)\b|n['’]t\b", re.IGNORECASE
)
_LONG = 4
"""Minimum letters of a content word; shorter ones are mostly articles and the like."""
_SAYS_NOTHING = re.compile(
    "about|also|been|could|does|from|have|here|into|more|some|such|than|that|their|them|then|there|these|they|this|"
    "those|very|were|what|when|where|which|will|with|would|your"
)
"""English stop words of at least that length."""
_STEM = 5
"""Words are compared by their first letters, this many, so that endings do not matter."""


def supported(said: str, passage: str, least: float, asked: str = "") -> bool:
    """Whether a passage supports an answer.

    Numbers are written in digits; names are capitalized words that do not begin a sentence. Both must occur in
    the passage, ignoring case and commas in numbers. Of all other words of four letters and more that the
    answer adds to `asked`, at least a share of `least` must occur there, compared by their first five letters.
    If the passage contains no negation, the answer must not either.
    """
    denies = _DENIES.search(said) is not None and _DENIES.search(passage) is None
    added = _stems(said) - _known_stems(asked)
    return (
        not denies and names_occur(said, passage) and len(added & _known_stems(passage)) >= least * len(added)
    )


def adds_nothing(said: str, asked: str) -> bool:
    """Whether an answer adds nothing to the question."""
    return names_occur(said, asked) and _stems(said) <= _known_stems(asked)


def names_occur(said: str, passage: str) -> bool:
    """Whether all numbers and names of an answer occur in a passage."""
    known = {_plain(word) for word in _WORD.findall(passage)}
    return all(_plain(word) in known for word, named in _words(said) if named)


def _stems(said: str) -> set[str]:
    """Return the stems of content words that are not names."""
    words = (word.casefold() for word, named in _words(said) if not named)
    return {word[:_STEM] for word in words if len(word) >= _LONG and not _SAYS_NOTHING.fullmatch(word)}


def _known_stems(text: str) -> set[str]:
    return {word.casefold()[:_STEM] for word in _WORD.findall(text)}


def _words(said: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a text, and whether each is a number or a name."""
    end = 0
    for found in _WORD.finditer(said):
        between, end = said[end : found.start()], found.end()
        begins = found.start() == len(between) or re.search(r"[.!?:\n]", between) is not None
        word = found.group()
        yield word, word[0].isdigit() or (word[0].isupper() and not begins)


def _plain(word: str) -> str:
    return word.replace(",", "").casefold()
