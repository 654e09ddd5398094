"""Assign splits to the roles of training, validation and test: existing splits by name, and fractions to split off."""

from __future__ import annotations

from collections.abc import Mapping

from compress.core.errors import DataError
from compress.core.spelling import nearest
from compress.data.faults import map_all
from compress.data.names import named_split
from compress.data.rows import Rows, Source
from compress.profile.schema import DataSpec

DEFAULT_FRACTIONS: Mapping[str, float] = {"validation": 0.1, "test": 0.2}
"""Fractions to split off the training split if the data has no split for the role."""
HELD_OUT = ("test", "validation")


def named_splits(spec: DataSpec) -> tuple[str, ...]:
    """Return the split names in a profile."""
    chosen = (spec.splits.train, spec.splits.validation, spec.splits.test)
    return tuple(name for name in chosen if isinstance(name, str))


def choose_splits(spec: DataSpec, source: Source) -> tuple[dict[str, str], dict[str, float]]:
    """Return the split of the source for each role, and the fractions to split off the training split.

    Raises:
        DataError: a named split does not exist, two roles share one, or no training data would be left.
    """
    names = {"train": existing_split(spec.splits.train, "data.splits.train", source)}
    fractions: dict[str, float] = {}
    for role in HELD_OUT:
        wanted = spec.splits.test if role == "test" else spec.splits.validation
        if isinstance(wanted, str):
            names[role] = existing_split(wanted, f"data.splits.{role}", source)
        elif wanted is None and (found := named_split(role, source.splits, source.where)):
            names[role] = found
        else:
            fractions[role] = DEFAULT_FRACTIONS[role] if wanted is None else wanted
    for role, name in names.items():
        same = [other for other, taken in names.items() if taken == name and other != role]
        if same:
            raise DataError(f"{role} and {same[0]} are the same split, {name!r}", where="data.splits")
    if sum(fractions.values()) >= 1:
        taken = f"{' and '.join(fractions)} take {sum(fractions.values()):.3g} of the data"
        raise DataError(f"{taken}: nothing is left to train on", where="data.splits")
    return names, fractions


def existing_split(name: str, key: str, source: Source) -> str:
    """Return the split of a source that a profile key names.

    Raises:
        DataError: there is none.
    """
    found = named_split(name, source.splits, source.where)
    if found is not None:
        return found
    known = list(source.splits)
    raise DataError(
        f"no split {name!r}{nearest(name, known)}",
        where=source.where,
        hint=f"Set `{key}`; the splits are: {', '.join(map(repr, known))}.",
    )


def read_splits(source: Source, names: Mapping[str, str]) -> dict[str, Rows]:
    """Return the rows of each role's split."""
    read = map_all(lambda name: source.splits[name](), names.values())
    return dict(zip(names, read, strict=True))
