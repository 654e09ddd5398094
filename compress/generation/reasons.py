"""Statistics of why generated texts are accepted or rejected: counts and samples by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

WITHHELD = {"filter": "cut by a filter of the server", "key": "holds the key of the server"}
"""Reasons for rejecting a server's answer, by how it ended."""

Item = TypeVar("Item")
Kind = TypeVar("Kind", bound=Hashable)


def count_by_reason(reasons: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    """Count the reasons, in the given order; reasons that do not occur are omitted."""
    counts = Counter(reasons)
    return {reason: counts[reason] for reason in order if counts[reason]}


def format_counts(counts: Iterable[tuple[str, int]]) -> str:
    """Format reasons with their counts for an error message."""
    return ", ".join(f"{count} {reason}" for reason, count in counts)


def limit_per_kind(
    items: Iterable[Item], kind: Callable[[Item], Kind], limit: Callable[[Kind], int]
) -> Iterator[Item]:
    """Yield the first `limit(kind)` items of each kind, in order."""
    counts = Counter[Kind]()
    for item in items:
        item_kind = kind(item)
        counts[item_kind] += 1
        if counts[item_kind] <= limit(item_kind):
            yield item
