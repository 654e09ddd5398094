"""Make splits by the hash of each text's content, class by class.

The rank of a text depends only on the seed and the text, so the order of the files does not matter, and an added
example moves at most a few others between splits. Equal texts are one unit: they are always in the same split. Pure
functions.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_KEY_BYTES = 16


def text_key(text: str) -> bytes:
    """Return the key that equal texts share, after NFKC, case folding and collapsing white space; 16 bytes."""
    normalized = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(normalized.encode(), digest_size=_KEY_BYTES).digest()


def group_classes(keys: Sequence[bytes], labels: NDArray[np.int64]) -> dict[int, list[bytes]]:
    """Return the keys of the distinct texts of each class.

    A text with several labels counts for the most frequent one, the lowest of equally frequent ones.

    Args:
        keys: `text_key` of each example.
        labels: int64 (n,).
    """
    best: dict[bytes, tuple[int, int]] = {}
    for (key, label), count in Counter(zip(keys, labels.tolist(), strict=True)).items():
        vote = (count, -label)
        if key not in best or vote > best[key]:
            best[key] = vote
    classes: dict[int, list[bytes]] = defaultdict(list)
    for key, (_, negative) in best.items():
        classes[-negative].append(key)
    return dict(classes)


def assign_parts(
    classes: Mapping[int, Sequence[bytes]], fractions: Sequence[float], seed: int
) -> dict[bytes, int]:
    """Assign each distinct text to a part: 0 = the remainder, i = the part of `fractions[i - 1]`.

    Each part takes its fraction of each class, rounded, at least one text, and leaves at least one for every later part
    and for the remainder.

    Args:
        classes: the distinct texts of each class.
        fractions: fractions of each class's distinct texts; their sum is below 1.
        seed: seed of the assignment.

    Raises:
        ValueError: a class has fewer distinct texts than there are parts.
    """
    parts: dict[bytes, int] = {}
    for label, members in classes.items():
        if len(members) <= len(fractions):
            raise ValueError(f"class {label}: {len(members)} distinct texts for {len(fractions) + 1} parts")
        ordered = sorted(members, key=lambda key: split_rank(key, seed))
        parts.update(dict.fromkeys(ordered, 0))
        start = 0
        for part, fraction in enumerate(fractions, start=1):
            parts_left = len(fractions) - part + 1
            size = min(max(1, round(fraction * len(ordered))), len(ordered) - start - parts_left)
            parts.update(dict.fromkeys(ordered[start : start + size], part))
            start += size
    return parts


def count_conflicting(keys: Sequence[bytes], labels: NDArray[np.int64]) -> int:
    """Return the number of distinct texts that occur with more than one label."""
    pairs = set(zip(keys, labels.tolist(), strict=True))
    return sum(labels_of_text > 1 for labels_of_text in Counter(key for key, _ in pairs).values())


def split_rank(key: bytes, seed: int) -> bytes:
    """Return the sort key of a text in the order from which splits are drawn."""
    return hashlib.blake2b(key, digest_size=_KEY_BYTES, key=seed.to_bytes(8, "little")).digest()
