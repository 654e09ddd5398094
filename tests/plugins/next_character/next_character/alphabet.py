"""Characters as numbers: 0 is padding, 1 stands for every character that is not in the alphabet."""

from __future__ import annotations

PAD, OTHER, FIRST = 0, 1, 2


def size_of(alphabet: str) -> int:
    """How many numbers there are."""
    return FIRST + len(alphabet)


def numbers_of(text: str, alphabet: str, most: int) -> list[int]:
    """The first characters of a text as numbers."""
    known = {letter: FIRST + place for place, letter in enumerate(alphabet)}
    return [known.get(letter, OTHER) for letter in text.lower()[:most]]
