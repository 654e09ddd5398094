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
    held_out_keys: Collection[bytes],
    train_keys: Collection[bytes],
) -> tuple[Examples, list[str]]:
    """Return the distinct examples of `data.unlabeled`, and notes on those that were dropped.

    Args:
        data: the section that contains `spec`; its columns apply here too.
        held_out_keys: keys of the validation and test examples, which are dropped: the student must not train on them.
        train_keys: keys of the training examples, which are dropped too: they are in the training data already.

    Raises:
        DataError: there is no such split, an example is invalid, or none is left.
    """
    columns = columns_of(data, kind, labelled=False)
    source = open_source(spec, base, columns, (spec.split,), kind)
    items, keys = kind.check(source.splits[existing_split(spec.split, "data.unlabeled.split", source)]())
    first_indices: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        first_indices.setdefault(key, index)
    num_held_out = sum(key in held_out_keys for key in keys)
    num_trained = sum(key in train_keys and key not in held_out_keys for key in keys)
    new_keys = [key for key in first_indices if key not in held_out_keys and key not in train_keys]
    if not new_keys:
        raise DataError(
            f"no unlabelled {kind.noun} is left: "
            + ("the split is empty" if not keys else "all of them are also in the labelled data"),
            where=source.where,
        )
    indices = sorted(first_indices[key] for key in sorted(new_keys)[: spec.limit])
    notes = []
    if num_held_out:
        notes.append(_drop_note(num_held_out, len(keys), kind, "validation or test"))
    if num_trained:
        notes.append(_drop_note(num_trained, len(keys), kind, "the training split"))
    return Examples.unlabelled(tuple(items[index] for index in indices)), notes


def _drop_note(count: int, total: int, kind: ItemKind, where: str) -> str:
    subject = "it is" if count == 1 else "they are"
    return f"{count} of {total} unlabelled {kind.noun}s dropped: {subject} also in {where}"
