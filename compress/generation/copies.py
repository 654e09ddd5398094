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

_SHINGLE_WORDS = 3
"""Words per shingle; a text of fewer is one shingle."""
_MIN_DISTINCTIVE = 6
"""Minimum number of shingles for a distinctive text: one of fewer than eight words may coincide by chance
(PaLM's report, Chowdhery et al. 2022, arXiv:2204.02311, counts eight words as overlap)."""
_BANDS, _ROWS = 25, 5
MIN_SIMILARITY = 0.7
"""Minimum similarity that is detected reliably: two texts with it share a band with probability 0.99; with 0.8,
0.9999."""


@dataclass(frozen=True)
class DuplicateOf:
    """Index of the text that a near-duplicate repeats, among the known texts (`is_known`) or the input texts."""

    index: int
    is_known: bool


def find_duplicates(
    texts: Sequence[str], known: Sequence[str] = (), min_similarity: float = 0.8
) -> list[DuplicateOf | None]:
    """Return for each text the one it nearly duplicates: a known text, or an earlier one that is no duplicate.

    Case, punctuation and spaces are ignored.

    Args:
        min_similarity: minimum Jaccard similarity of the shingle sets of duplicates; at least `MIN_SIMILARITY`.

    Raises:
        ValueError: `min_similarity` is out of range.
    """
    if not MIN_SIMILARITY <= min_similarity <= 1:
        raise ValueError(f"expected a value from {MIN_SIMILARITY} to 1, not {min_similarity}")
    buckets: defaultdict[bytes, list[DuplicateOf]] = defaultdict(list)
    duplicates: list[DuplicateOf | None] = []
    for index, text in enumerate((*known, *texts)):
        location = DuplicateOf(index if index < len(known) else index - len(known), index < len(known))
        shingles = _shingles(text)
        bands = _bands(shingles)
        candidates = {candidate: None for band in bands for candidate in buckets.get(band, ())}
        matches = (
            candidate
            for candidate in candidates
            if _jaccard(shingles, _shingles((known if candidate.is_known else texts)[candidate.index]))
            >= min_similarity
        )
        original = None if location.is_known else next(matches, None)
        if original is None:
            for band in bands:
                buckets[band].append(location)
        if not location.is_known:
            duplicates.append(original)
    return duplicates


def contained_in(texts: Sequence[str], known: Iterable[str], min_containment: float = 0.8) -> list[bool]:
    """Return for each text whether a known text largely contains it or the other way round.

    Containment is Broder's: the share of one text's shingles that occur in the other.

    A known text of only a few words occurs in many texts by chance: such a one must contain the text.

    Args:
        min_containment: minimum share of the shorter text's shingles that the longer one has too.
    """
    text_shingles, indices_by_shingle = (
        [_hashed_shingles(text) for text in texts],
        defaultdict[int, list[int]](list),
    )
    for index, shingles in enumerate(text_shingles):
        for shingle in shingles:
            indices_by_shingle[shingle].append(index)
    contained = [False] * len(texts)
    # Streamed, since the known texts may be much larger than memory.
    for text in known:
        shingles = _hashed_shingles(text)
        common = Counter(index for shingle in shingles for index in indices_by_shingle.get(shingle, ()))
        for index, count in common.items():
            size = len(text_shingles[index])
            contained[index] |= count >= min_containment * (
                size if len(shingles) < _MIN_DISTINCTIVE else min(size, len(shingles))
            )
    return contained


def _hashed_shingles(text: str) -> frozenset[int]:
    return frozenset(zlib.crc32(shingle.encode()) for shingle in _shingles(text))


def _shingles(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(
        " ".join(words[start : start + _SHINGLE_WORDS])
        for start in range(max(1, len(words) - _SHINGLE_WORDS + 1))
    )


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)


def _bands(shingles: frozenset[str]) -> list[bytes]:
    """Return the MinHash bands of a shingle set, of which similar texts share at least one."""
    hashed = np.array([zlib.crc32(shingle.encode()) for shingle in shingles], np.uint64)
    signature = ((_FACTORS * hashed + _SHIFTS) >> np.uint64(32)).min(axis=1).astype(np.uint32)
    return [bytes([band]) + rows.tobytes() for band, rows in enumerate(signature.reshape(_BANDS, _ROWS))]


def _hash_parameters() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    drawn = np.random.default_rng(0).integers(2**64, size=(2, _BANDS * _ROWS, 1), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


_FACTORS, _SHIFTS = _hash_parameters()
