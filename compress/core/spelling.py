"""Suggestions for misspelled words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `; did you mean ...?` with the nearest known word, else the list of known words."""
    return nearest(word, known, "`") or (f"; known: {', '.join(known)}" if known else "")


def nearest(word: str, known: Sequence[str], quote: str = "'") -> str:
    """Return `; did you mean 'x'?` with the nearest known word, or an empty string if none is close."""
    matches = difflib.get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.55)
    suggestion = next((name for name in known if [name.lower()] == matches), None)
    return "" if suggestion is None else f"; did you mean {quote}{suggestion}{quote}?"
