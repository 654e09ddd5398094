"""Selection of names by shell patterns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from compress.core.errors import ModelError


def matching_names(
    names: Collection[str], patterns: Sequence[str], *, what: str, where: str, known: Sequence[str] = ()
) -> set[str]:
    """Return the names that match at least one pattern.

    Args:
        what: kind of the named objects, for the message.
        where: path of the patterns in the profile, for the message.
        known: names to list in the message; all of `names` if empty.

    Raises:
        ModelError: a pattern matches no name.
    """
    matches: set[str] = set()
    for pattern in patterns:
        names_of_pattern = {name for name in names if fnmatchcase(name, pattern)}
        if not names_of_pattern:
            raise ModelError(
                f"no {what} of the model matches the pattern {pattern!r}",
                where=where,
                hint=f"The model has: {', '.join(known or names)}",
            )
        matches |= names_of_pattern
    return matches
