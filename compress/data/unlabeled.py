"""Unlabelled examples for the teacher to label: distinct, and in none of the splits."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from compress.core.errors import DataError
from compress.data.kinds import ItemKind, columns_of
from compress.data.reading.locate import open_source
from compress.data.roles import existing_split
from compress.data.splits import Examples
from compress.profile.schema import DataSpec
from compress.profile.specs.unlabeled import UnlabeledSpec


def load_unlabeled(
    spec: UnlabeledSpec,
    data: DataSpec,
    base: Path,
    kind: ItemKind,
    *,
    held_out: Collection[bytes],
    trained: Collection[bytes],
) -> tuple[Examples, list[str]]:
    """Return the distinct examples of `data.unlabeled`, and notes on those that were dropped.

    Args:
        data: the section that contains `spec`; its columns apply here too.
        held_out: keys of the validation and test examples, which are dropped: the student must not train on them.
        trained: keys of the training examples, which are dropped too: they are in the training data already.

    Raises:
        DataError: there is no such split, an example is invalid, or none is left.
    """
    columns = columns_of(data, kind, labelled=False)
    source = open_source(spec, base, columns, (spec.split,), kind)
    items, keys = kind.check(source.splits[existing_split(spec.split, "data.unlabeled.split", source)]())
    places: dict[bytes, int] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, place)
    held = sum(key in held_out for key in keys)
    known_already = sum(key in trained and key not in held_out for key in keys)
    fresh = [key for key in places if key not in held_out and key not in trained]
    if not fresh:
        raise DataError(
            f"no unlabelled {kind.noun} is left: "
            + ("the split is empty" if not keys else "all of them are also in the labelled data"),
            where=source.where,
        )
    chosen = sorted(places[key] for key in sorted(fresh)[: spec.limit])
    notes = []
    if held:
        notes.append(_dropped(held, len(keys), kind, "validation or test"))
    if known_already:
        notes.append(_dropped(known_already, len(keys), kind, "the training split"))
    return Examples.unlabelled(tuple(items[place] for place in chosen)), notes


def _dropped(count: int, of: int, kind: ItemKind, where: str) -> str:
    they = "it is" if count == 1 else "they are"
    return f"{count} of {of} unlabelled {kind.noun}s dropped: {they} also in {where}"
