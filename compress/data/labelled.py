"""Labelled examples: read, validated, and with the missing splits made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.core.units import counted
from compress.data.checks import Labelled, check_class_sizes, check_declared, check_rows
from compress.data.kinds import ItemKind, columns_of
from compress.data.leaks import kept_indices, leak_notes
from compress.data.names import composed
from compress.data.reading.locate import open_source
from compress.data.roles import HELD_OUT, choose_splits, named_splits, read_splits
from compress.data.rows import Columns
from compress.data.splits import Examples, Splits
from compress.data.splitting import conflicting_items, group_classes, make_parts
from compress.data.unlabeled import load_unlabeled
from compress.profile.schema import DataSpec


def columns(spec: DataSpec, kind: ItemKind) -> Columns:
    """Return the columns to read from tables: the example and its label."""
    return columns_of(spec, kind)


def load(spec: DataSpec, base: Path, seed: int, kind: ItemKind) -> Splits:
    """Load the three splits, and the unlabelled examples if there are any.

    Raises:
        DataError: the data cannot be used.
    """
    found = columns(spec, kind)
    if found.text == found.label:
        raise DataError(
            f"{kind.noun} and label are the same column, {found.text!r}", where="data.label_column"
        )
    check_declared(spec.labels)
    source = open_source(spec, base, found, named_splits(spec), kind)
    split_names, fractions = choose_splits(spec, source)
    read = read_splits(source, split_names)
    checked = check_rows(read, None if spec.labels is None else tuple(map(composed, spec.labels)), kind)
    kept, keys, notes = _drop_leaks(checked, split_names, source.where, kind)
    splits, key_splits, made = _make_missing(kept, keys, fractions, checked.names, source.where, seed, kind)
    conflicts = conflicting_items(
        [key for each in keys.values() for key in each], np.concatenate([kept[role].labels for role in keys])
    )
    if conflicts:
        has = "has" if conflicts == 1 else "have"
        notes.append(f"{counted(conflicts, kind.noun)} {has} more than one label")
    unlabeled, dropped = None, list[str]()
    if spec.further is not None:
        unlabeled, dropped = load_unlabeled(
            spec.further,
            spec,
            base,
            kind,
            held_out={key for role in HELD_OUT for key in key_splits[role]},
            trained=set(key_splits["train"]),
        )
    return Splits(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=checked.names,
        unlabeled=unlabeled,
        notes=(*checked.notes, *notes, *made, *dropped),
    )


def _drop_leaks(
    checked: Labelled, split_names: Mapping[str, str], where: str, kind: ItemKind
) -> tuple[dict[str, Examples], dict[str, list[bytes]], list[str]]:
    """Drop examples of validation or test from train, and those of test from validation."""
    places = kept_indices({role: [(key,) for key in keys] for role, keys in checked.keys.items()})
    notes = leak_notes(places, checked.keys, split_names, "example", f"the same {kind.noun}")
    kept = {role: checked.splits[role].take(stay) for role, stay in places.items()}
    keys = {role: [checked.keys[role][place] for place in stay] for role, stay in places.items()}
    _refuse_emptied(checked, kept, where, kind)
    return kept, keys, notes


def _refuse_emptied(checked: Labelled, kept: Mapping[str, Examples], where: str, kind: ItemKind) -> None:
    for role, examples in kept.items():
        if not len(examples):
            raise DataError(f"every {kind.noun} of the {role} split is also in a held-out split", where=where)
    lost = sorted(set(checked.splits["train"].labels.tolist()) - set(kept["train"].labels.tolist()))
    if lost:
        names = ", ".join(repr(checked.names[label]) for label in lost[:5])
        raise DataError(
            f"no training example of {names} is left: all of its {kind.noun}s are also in a held-out split",
            where=where,
        )


def _make_missing(
    kept: Mapping[str, Examples],
    keys: Mapping[str, list[bytes]],
    fractions: Mapping[str, float],
    names: tuple[str, ...],
    where: str,
    seed: int,
    kind: ItemKind,
) -> tuple[dict[str, Examples], dict[str, list[bytes]], list[str]]:
    """Split the missing roles off the training split; return the examples and keys of all splits, and notes."""
    splits, key_splits, notes = dict(kept), dict(keys), list[str]()
    if not fractions:
        return splits, key_splits, notes
    train, own = kept["train"], keys["train"]
    classes = group_classes(own, train.labels)
    check_class_sizes(classes, names, train.labels, len(fractions) + 1, where, kind.noun)
    part_of = make_parts(classes, tuple(fractions.values()), seed)
    for part, role in enumerate(("train", *fractions)):
        places = [i for i, key in enumerate(own) if part_of[key] == part]
        splits[role], key_splits[role] = train.take(places), [own[i] for i in places]
    repeated = len(own) - len(set(own))
    if repeated:
        notes.append(
            f"{counted(repeated, 'example')} {'repeats' if repeated == 1 else 'repeat'} the {kind.noun} of another; "
            f"identical {kind.noun}s were kept in the same split"
        )
    return splits, key_splits, notes
