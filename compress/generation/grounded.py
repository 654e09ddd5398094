"""Lexical check that a passage supports an answer.

It compares words, not meaning: it finds invented facts, not inverted ones. An answer is supported if every
number and every name in it occurs in the passage, and enough of its other words do. Stop words and negations
are English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_NEGATION = re.compile(
    r"\b(no|not|never|none|nobody|nothing|neither|nor|cannot|without)\b|n['’]t\b", re.IGNORECASE
)
_MIN_CONTENT_LETTERS = 4
"""Minimum letters of a content word; shorter ones are mostly articles and the like."""
_STOP_WORDS = re.compile(
    "about|also|been|could|does|from|have|here|into|more|some|such|than|that|their|them|then|there|these|they|this|"
    "those|very|were|what|when|where|which|will|with|would|your"
)
"""English stop words of at least that length."""
_STEM_LENGTH = 5
"""Words are compared by their first letters, this many, so that endings do not matter."""


def is_supported(answer: str, passage: str, min_share: float, question: str = "") -> bool:
    """Whether a passage supports an answer.

    Numbers are written in digits; names are capitalized words that do not begin a sentence. Both must occur in
    the passage, ignoring case and commas in numbers. Of all other words of four letters and more that the
    answer adds to `question`, at least a share of `min_share` must occur there, compared by their first five letters.
    If the passage contains no negation, the answer must not either.
    """
    denies = _NEGATION.search(answer) is not None and _NEGATION.search(passage) is None
    added = _stems(answer) - _known_stems(question)
    return (
        not denies
        and names_occur(answer, passage)
        and len(added & _known_stems(passage)) >= min_share * len(added)
    )


def adds_nothing(answer: str, question: str) -> bool:
    """Whether an answer adds nothing to the question."""
    return names_occur(answer, question) and _stems(answer) <= _known_stems(question)


def names_occur(answer: str, passage: str) -> bool:
    """Whether all numbers and names of an answer occur in a passage."""
    known = {_normalized(word) for word in _WORD.findall(passage)}
    return all(_normalized(word) in known for word, is_name in _words(answer) if is_name)


def _stems(text: str) -> set[str]:
    """Return the stems of content words that are not names."""
    words = (word.casefold() for word, is_name in _words(text) if not is_name)
    return {
        word[:_STEM_LENGTH]
        for word in words
        if len(word) >= _MIN_CONTENT_LETTERS and not _STOP_WORDS.fullmatch(word)
    }


def _known_stems(text: str) -> set[str]:
    return {word.casefold()[:_STEM_LENGTH] for word in _WORD.findall(text)}


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a text, and whether each is a number or a name."""
    end = 0
    for match in _WORD.finditer(text):
        between, end = text[end : match.start()], match.end()
        starts_sentence = match.start() == len(between) or re.search(r"[.!?:\n]", between) is not None
        word = match.group()
        yield word, word[0].isdigit() or (word[0].isupper() and not starts_sentence)


def _normalized(word: str) -> str:
    return word.replace(",", "").casefold()
