"""Near-duplicate detection: among generated texts, and against splits used for evaluation.

MinHash (Broder, "On the Resemblance and Containment of Documents", 1997) with banding finds candidates; an
exact comparison of shingle sets decides. A library would need more code to call and lacks the second part.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORDS = 3
"""Words per shingle; a text of fewer is one shingle."""
_FEW = 6
"""Minimum number of shingles for a distinctive text: one of fewer than eight words may coincide by chance
(PaLM's report, Chowdhery et al. 2022, arXiv:2204.02311, counts eight words as overlap)."""
_BANDS, _ROWS = 25, 5
LEAST = 0.7
"""Minimum similarity that is detected reliably: two texts with it share a band with probability 0.99; with 0.8,
0.9999."""


@dataclass(frozen=True)
class DuplicateOf:
    """Index of the text that a near-duplicate duplicates, among the `known` texts or among the input texts."""

    place: int
    known: bool


def find_duplicates(
    texts: Sequence[str], known: Sequence[str] = (), alike: float = 0.8
) -> list[DuplicateOf | None]:
    """Return for each text the one it nearly duplicates: a known text, or an earlier one that is no duplicate.

    Case, punctuation and spaces are ignored.

    Args:
        alike: minimum Jaccard similarity of the shingle sets of duplicates; at least `LEAST`.

    Raises:
        ValueError: `alike` is out of range.
    """
    if not LEAST <= alike <= 1:
        raise ValueError(f"expected a value from {LEAST} to 1, not {alike}")
    buckets: defaultdict[bytes, list[DuplicateOf]] = defaultdict(list)
    found: list[DuplicateOf | None] = []
    for place, text in enumerate((*known, *texts)):
        one = DuplicateOf(place if place < len(known) else place - len(known), place < len(known))
        shingles = _shingles(text)
        bands = _bands(shingles)
        rivals = {other: None for band in bands for other in buckets.get(band, ())}
        same = (
            other
            for other in rivals
            if _alike(shingles, _shingles((known if other.known else texts)[other.place])) >= alike
        )
        original = None if one.known else next(same, None)
        if original is None:
            for band in bands:
                buckets[band].append(one)
        if not one.known:
            found.append(original)
    return found


def contained_in(texts: Sequence[str], known: Iterable[str], share: float = 0.8) -> list[bool]:
    """Return for each text whether a known text largely contains it or the other way round.

    Containment is Broder's: the share of one text's shingles that occur in the other.

    A known text of only a few words occurs in many texts by chance: such a one must contain the text.

    Args:
        share: minimum share of the shorter text's shingles that the longer one has too.
    """
    written, places = [_hashed(text) for text in texts], defaultdict[int, list[int]](list)
    for place, shingles in enumerate(written):
        for one in shingles:
            places[one].append(place)
    found = [False] * len(texts)
    # Streamed, since the known texts may be much larger than memory.
    for text in known:
        shingles = _hashed(text)
        common = Counter(place for one in shingles for place in places.get(one, ()))
        for place, count in common.items():
            size = len(written[place])
            found[place] |= count >= share * (size if len(shingles) < _FEW else min(size, len(shingles)))
    return found


def _hashed(text: str) -> frozenset[int]:
    return frozenset(zlib.crc32(one.encode()) for one in _shingles(text))


def _shingles(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(
        " ".join(words[start : start + _WORDS]) for start in range(max(1, len(words) - _WORDS + 1))
    )


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _bands(shingles: frozenset[str]) -> list[bytes]:
    """Return the MinHash bands of a shingle set, of which similar texts share at least one."""
    hashed = np.array([zlib.crc32(one.encode()) for one in shingles], np.uint64)
    least = ((_FACTORS * hashed + _SHIFTS) >> np.uint64(32)).min(axis=1).astype(np.uint32)
    return [bytes([band]) + rows.tobytes() for band, rows in enumerate(least.reshape(_BANDS, _ROWS))]


def _random() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    drawn = np.random.default_rng(0).integers(2**64, size=(2, _BANDS * _ROWS, 1), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


_FACTORS, _SHIFTS = _random()
