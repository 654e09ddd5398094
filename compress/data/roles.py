"""Assign splits to the roles of training, validation and test: existing splits by name, and fractions to split off."""

from __future__ import annotations

from collections.abc import Mapping

from compress.core.errors import DataError
from compress.core.spelling import nearest
from compress.data.faults import map_all
from compress.data.names import find_split
from compress.data.rows import Rows, Source
from compress.profile.schema import DataSpec

DEFAULT_FRACTIONS: Mapping[str, float] = {"validation": 0.1, "test": 0.2}
"""Fractions to split off the training split if the data has no split for the role."""
HELD_OUT = ("test", "validation")


def declared_splits(spec: DataSpec) -> tuple[str, ...]:
    """Return the split names in a profile."""
    values = (spec.splits.train, spec.splits.validation, spec.splits.test)
    return tuple(name for name in values if isinstance(name, str))


def choose_splits(spec: DataSpec, source: Source) -> tuple[dict[str, str], dict[str, float]]:
    """Return the split of the source for each role, and the fractions to split off the training split.

    Raises:
        DataError: a named split does not exist, two roles share one, or no training data would be left.
    """
    names = {"train": existing_split(spec.splits.train, "data.splits.train", source)}
    fractions: dict[str, float] = {}
    for role in HELD_OUT:
        requested = spec.splits.test if role == "test" else spec.splits.validation
        if isinstance(requested, str):
            names[role] = existing_split(requested, f"data.splits.{role}", source)
        elif requested is None and (found := find_split(role, source.splits, source.where)):
            names[role] = found
        else:
            fractions[role] = DEFAULT_FRACTIONS[role] if requested is None else requested
    for role, name in names.items():
        duplicates = [other for other, taken in names.items() if taken == name and other != role]
        if duplicates:
            raise DataError(f"{role} and {duplicates[0]} are the same split, {name!r}", where="data.splits")
    if sum(fractions.values()) >= 1:
        taken = f"{' and '.join(fractions)} take {sum(fractions.values()):.3g} of the data"
        raise DataError(f"{taken}: nothing is left to train on", where="data.splits")
    return names, fractions


def existing_split(name: str, key: str, source: Source) -> str:
    """Return the split of a source that a profile key names.

    Raises:
        DataError: there is none.
    """
    match = find_split(name, source.splits, source.where)
    if match is not None:
        return match
    known = list(source.splits)
    raise DataError(
        f"no split {name!r}{nearest(name, known)}",
        where=source.where,
        hint=f"Set `{key}`; the splits are: {', '.join(map(repr, known))}.",
    )


def read_splits(source: Source, names: Mapping[str, str]) -> dict[str, Rows]:
    """Return the rows of each role's split."""
    rows = map_all(lambda name: source.splits[name](), names.values())
    return dict(zip(names, rows, strict=True))
