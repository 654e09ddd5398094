"""Why texts that a model wrote are kept or left out: how many of each reason, and the first ones of each. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

WITHHELD = {"filter": "cut by a filter of the server", "key": "holds the key of the server"}
"""Why an answer of a server serves nothing, by how it ended."""

Found = TypeVar("Found")
Kind = TypeVar("Kind", bound=Hashable)


def by_reason(reasons: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    """How many there are of each reason, in an order of all; what there is none of is left out."""
    counts = Counter(reasons)
    return {reason: counts[reason] for reason in order if counts[reason]}


def in_words(counts: Iterable[tuple[str, int]]) -> str:
    """Reasons with their counts, for an error."""
    return ", ".join(f"{count} {reason}" for reason, count in counts)


def first_of_each(
    found: Iterable[Found], kind: Callable[[Found], Kind], most: Callable[[Kind], int]
) -> Iterator[Found]:
    """The first ones of each kind, so many as `most` says, in their order."""
    counts = Counter[Kind]()
    for one in found:
        which = kind(one)
        counts[which] += 1
        if counts[which] <= most(which):
            yield one
