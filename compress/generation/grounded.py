"""Whether a passage supports what is said of it, by its words. Pure.

A check of words, not of meaning: it finds what was made up, not what was turned round. It says yes where every number
and every name that is said stands in the passage, and enough of the other words do. What it knows of words is English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_DENIES = re.compile(
    r"\b(no|not|never|none|nobody|nothing|neither|nor|cannot|without)\b|n['’]t\b", re.IGNORECASE
)
_LONG = 4
"""Letters of a word that says something; shorter ones are mostly articles and the like."""
_SAYS_NOTHING = re.compile(
    "about|also|been|could|does|from|have|here|into|more|some|such|than|that|their|them|then|there|these|they|this|"
    "those|very|were|what|when|where|which|will|with|would|your"
)
"""Those of English that are as long."""
_STEM = 5
"""Words are compared by so many first letters: endings count for nothing."""


def supported(said: str, passage: str, least: float, asked: str = "") -> bool:
    """Whether a passage supports an answer.

    Numbers are those of digits; names are words with a capital letter that begin no sentence. Both stand in the passage
    as they are said, but for commas in numbers and capitals. Of all other words of four letters and more that the
    answer adds to what was `asked`, a share of `least` stands there, compared by their first five letters. Where the
    passage denies nothing, neither does the answer.
    """
    denies = _DENIES.search(said) is not None and _DENIES.search(passage) is None
    added = _stems(said) - _known_stems(asked)
    return (
        not denies
        and names_stand_in(said, passage)
        and len(added & _known_stems(passage)) >= least * len(added)
    )


def adds_nothing(said: str, asked: str) -> bool:
    """Whether an answer says no more than what was asked."""
    return names_stand_in(said, asked) and _stems(said) <= _known_stems(asked)


def names_stand_in(said: str, passage: str) -> bool:
    """Whether all numbers and names that are said stand in a passage."""
    known = {_plain(word) for word in _WORD.findall(passage)}
    return all(_plain(word) in known for word, named in _words(said) if named)


def _stems(said: str) -> set[str]:
    """The beginnings of the words that say something and are no names."""
    words = (word.casefold() for word, named in _words(said) if not named)
    return {word[:_STEM] for word in words if len(word) >= _LONG and not _SAYS_NOTHING.fullmatch(word)}


def _known_stems(text: str) -> set[str]:
    return {word.casefold()[:_STEM] for word in _WORD.findall(text)}


def _words(said: str) -> Iterator[tuple[str, bool]]:
    """The words of a text, and whether each is a number or a name."""
    end = 0
    for found in _WORD.finditer(said):
        between, end = said[end : found.start()], found.end()
        begins = found.start() == len(between) or re.search(r"[.!?:\n]", between) is not None
        word = found.group()
        yield word, word[0].isdigit() or (word[0].isupper() and not begins)


def _plain(word: str) -> str:
    return word.replace(",", "").casefold()
