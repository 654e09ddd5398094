"""Matches names against the shell patterns of `exclude` and similar keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from compress.core.errors import ModelError


def matching_names(
    names: Collection[str], patterns: Sequence[str], *, what: str, where: str, known: Sequence[str] = ()
) -> set[str]:
    """The names that match at least one pattern.

    Args:
        what: kind of thing that is named, for the message.
        where: key of the profile that holds the patterns.
        known: names to list in the message; empty: all of them.

    Raises:
        ModelError: a pattern matches no name.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise ModelError(
                f"no {what} of the model matches the pattern {pattern!r}",
                where=where,
                hint=f"The model has: {', '.join(known or names)}",
            )
        found |= matched
    return found
