"""Labelled examples: read, validated, and with the missing splits made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.core.units import pluralize
from compress.data.checks import LabelledSplits, check_class_sizes, check_label_names, check_rows
from compress.data.kinds import ItemKind, columns_of
from compress.data.leaks import kept_indices, leak_notes
from compress.data.names import to_nfc
from compress.data.reading.locate import open_source
from compress.data.roles import HELD_OUT, choose_splits, declared_splits, read_splits
from compress.data.rows import Columns
from compress.data.splits import Examples, Splits
from compress.data.splitting import assign_parts, count_conflicting, group_classes
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
    data_columns = columns(spec, kind)
    if data_columns.text == data_columns.label:
        raise DataError(
            f"{kind.noun} and label are the same column, {data_columns.text!r}", where="data.label_column"
        )
    check_label_names(spec.labels)
    source = open_source(spec, base, data_columns, declared_splits(spec), kind)
    split_names, fractions = choose_splits(spec, source)
    rows = read_splits(source, split_names)
    checked = check_rows(rows, None if spec.labels is None else tuple(map(to_nfc, spec.labels)), kind)
    kept, keys, notes = _drop_leaks(checked, split_names, source.where, kind)
    splits, key_splits, split_notes = _make_missing_splits(
        kept, keys, fractions, checked.label_names, source.where, seed, kind
    )
    conflicts = count_conflicting(
        [key for each in keys.values() for key in each], np.concatenate([kept[role].labels for role in keys])
    )
    if conflicts:
        has = "has" if conflicts == 1 else "have"
        notes.append(f"{pluralize(conflicts, kind.noun)} {has} more than one label")
    unlabeled, drop_notes = None, list[str]()
    if spec.existing_unlabeled is not None:
        unlabeled, drop_notes = load_unlabeled(
            spec.existing_unlabeled,
            spec,
            base,
            kind,
            held_out_keys={key for role in HELD_OUT for key in key_splits[role]},
            train_keys=set(key_splits["train"]),
        )
    return Splits(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=checked.label_names,
        unlabeled=unlabeled,
        notes=(*checked.notes, *notes, *split_notes, *drop_notes),
    )


def _drop_leaks(
    checked: LabelledSplits, split_names: Mapping[str, str], where: str, kind: ItemKind
) -> tuple[dict[str, Examples], dict[str, list[bytes]], list[str]]:
    """Drop examples of validation or test from train, and those of test from validation."""
    indices = kept_indices({role: [(key,) for key in keys] for role, keys in checked.keys.items()})
    notes = leak_notes(indices, checked.keys, split_names, "example", f"the same {kind.noun}")
    kept = {role: checked.splits[role].take(role_indices) for role, role_indices in indices.items()}
    keys = {
        role: [checked.keys[role][index] for index in role_indices] for role, role_indices in indices.items()
    }
    _refuse_emptied(checked, kept, where, kind)
    return kept, keys, notes


def _refuse_emptied(
    checked: LabelledSplits, kept: Mapping[str, Examples], where: str, kind: ItemKind
) -> None:
    for role, examples in kept.items():
        if not len(examples):
            raise DataError(f"every {kind.noun} of the {role} split is also in a held-out split", where=where)
    lost = sorted(set(checked.splits["train"].labels.tolist()) - set(kept["train"].labels.tolist()))
    if lost:
        names = ", ".join(repr(checked.label_names[label]) for label in lost[:5])
        raise DataError(
            f"no training example of {names} is left: all of its {kind.noun}s are also in a held-out split",
            where=where,
        )


def _make_missing_splits(
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
    train, train_keys = kept["train"], keys["train"]
    classes = group_classes(train_keys, train.labels)
    check_class_sizes(classes, names, train.labels, len(fractions) + 1, where, kind.noun)
    part_by_key = assign_parts(classes, tuple(fractions.values()), seed)
    for part, role in enumerate(("train", *fractions)):
        indices = [i for i, key in enumerate(train_keys) if part_by_key[key] == part]
        splits[role], key_splits[role] = train.take(indices), [train_keys[i] for i in indices]
    repeated = len(train_keys) - len(set(train_keys))
    if repeated:
        notes.append(
            f"{pluralize(repeated, 'example')} {'repeats' if repeated == 1 else 'repeat'} the {kind.noun} of another; "
            f"identical {kind.noun}s were kept in the same split"
        )
    return splits, key_splits, notes
