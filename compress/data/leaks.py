"""Keep what occurs in several splits in one only: test before validation, validation before train. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Sized

from compress.core.units import counted
from compress.data.roles import HELD_OUT


def kept_indices(keys: Mapping[str, Sequence[Collection[bytes]]]) -> dict[str, list[int]]:
    """Return, for each role in order of precedence, the indices of the examples that stay in its split.

    Args:
        keys: for each role, the keys of the contents of each example; one that shares a key with an example kept in a
            preceding role is dropped.
    """
    kept: dict[str, list[int]] = {}
    held: set[bytes] = set()
    for role in (*HELD_OUT, "train"):
        if role in keys:
            kept[role] = [place for place, own in enumerate(keys[role]) if held.isdisjoint(own)]
            held.update(key for place in kept[role] for key in keys[role][place])
    return kept


def leak_notes(
    kept: Mapping[str, Sized], before: Mapping[str, Sized], names: Mapping[str, str], noun: str, shared: str
) -> list[str]:
    """Return notes on the examples that were dropped.

    Args:
        names: the source's name of each role's split.
        noun: name of an example.
        shared: the part of an example that also occurs in another split.
    """
    notes = []
    for role, places in kept.items():
        dropped, count = len(before[role]) - len(places), len(before[role])
        if dropped:
            others = "the test split" if role == "validation" else "a held-out split"
            notes.append(
                f"{counted(dropped, noun)} of {count} dropped from {names.get(role, role)!r}: "
                f"{shared} is also in {others}"
            )
    return notes
