"""Statistics of why generated texts are accepted or rejected: counts and samples by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

WITHHELD = {"filter": "cut by a filter of the server", "key": "holds the key of the server"}
"""Reasons for rejecting a server's answer, by how it ended."""

Found = TypeVar("Found")
Kind = TypeVar("Kind", bound=Hashable)


def by_reason(reasons: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    """Count the reasons, in the given order; reasons that do not occur are omitted."""
    counts = Counter(reasons)
    return {reason: counts[reason] for reason in order if counts[reason]}


def in_words(counts: Iterable[tuple[str, int]]) -> str:
    """Format reasons with their counts for an error message."""
    return ", ".join(f"{count} {reason}" for reason, count in counts)


def first_of_each(
    found: Iterable[Found], kind: Callable[[Found], Kind], most: Callable[[Kind], int]
) -> Iterator[Found]:
    """Yield the first `most(kind)` items of each kind, in order."""
    counts = Counter[Kind]()
    for one in found:
        which = kind(one)
        counts[which] += 1
        if counts[which] <= most(which):
            yield one
