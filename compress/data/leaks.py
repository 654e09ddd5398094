"""What stands in several splits stays in one: in test before validation, and in validation before train. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Sized

from compress.core.units import counted
from compress.data.roles import HELD_OUT


def kept_places(keys: Mapping[str, Sequence[Collection[bytes]]]) -> dict[str, list[int]]:
    """For each role, those first that keep before others, the places of the examples that stay in its split.

    Args:
        keys: of each example of each role the keys of what it holds; none may stand in two splits.
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
    """What is told of the examples that did not stay.

    Args:
        names: the source's name of each role's split.
        noun: what an example is.
        shared: what of it stands in another split too.
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
