"""Keep what occurs in several splits in one only: test before validation, validation before train. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Sized

from compress.core.units import pluralize
from compress.data.roles import HELD_OUT


def kept_indices(keys: Mapping[str, Sequence[Collection[bytes]]]) -> dict[str, list[int]]:
    """Return, for each role in order of precedence, the indices of the examples that stay in its split.

    Args:
        keys: for each role, the keys of the contents of each example; one that shares a key with an example kept in a
            preceding role is dropped.
    """
    kept: dict[str, list[int]] = {}
    seen_keys: set[bytes] = set()
    for role in (*HELD_OUT, "train"):
        if role in keys:
            kept[role] = [
                index for index, example_keys in enumerate(keys[role]) if seen_keys.isdisjoint(example_keys)
            ]
            seen_keys.update(key for index in kept[role] for key in keys[role][index])
    return kept


def leak_notes(
    kept: Mapping[str, Sized], original: Mapping[str, Sized], names: Mapping[str, str], noun: str, shared: str
) -> list[str]:
    """Return notes on the examples that were dropped.

    Args:
        names: the source's name of each role's split.
        noun: name of an example.
        shared: the part of an example that also occurs in another split.
    """
    notes = []
    for role, indices in kept.items():
        dropped, count = len(original[role]) - len(indices), len(original[role])
        if dropped:
            others = "the test split" if role == "validation" else "a held-out split"
            notes.append(
                f"{pluralize(dropped, noun)} of {count} dropped from {names.get(role, role)!r}: "
                f"{shared} is also in {others}"
            )
    return notes
