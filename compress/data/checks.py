"""Validation of examples and labels, independent of their source; all faults are found before any training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.spelling import nearest
from compress.data.faults import Faults, map_all
from compress.data.kinds import ItemKind
from compress.data.names import fold_name, to_nfc
from compress.data.rows import Rows
from compress.data.splits import Examples, Item
from compress.data.texts import describe, is_missing, is_unicode

_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,17})(?:\.0+)?")
_TYPE_WORDS = {str: "a text", int: "a number", bool: "true or false"}

Label = str | int | bool


@dataclass(frozen=True)
class LabelledSplits:
    """Checked splits by role, the keys of their examples, the label names by index, and notes."""

    splits: Mapping[str, Examples]
    keys: Mapping[str, list[bytes]]
    label_names: tuple[str, ...]
    notes: tuple[str, ...]


def check_rows(rows: Mapping[str, Rows], declared: tuple[str, ...] | None, kind: ItemKind) -> LabelledSplits:
    """Convert the rows of each role (`train` is required) into examples with label indices.

    String labels are their own names, in sorted order. Numbers are indices into `declared`, or into the names that the
    source provides; without either, the numbers themselves are the names, in numeric order.

    Args:
        declared: the profile's `data.labels`.

    Raises:
        DataError: an empty split; a missing, blank, damaged or mistyped item or label; a label without a name or that
            does not occur in training; or only one class.
    """
    faults = Faults()
    for role, split_rows in rows.items():
        if not len(split_rows):
            faults.add(DataError(f"the {role} split is empty", where=split_rows.where, code="split-empty"))
    checked: dict[str, tuple[Sequence[Item], list[bytes]]] = {}
    labels: dict[str, list[Label]] = {}
    for role, split_rows in rows.items():
        with faults:
            checked[role] = kind.check(split_rows)
        with faults:
            labels[role] = _check_labels(split_rows)
    faults.raise_all()
    values = _unify_types(labels, rows)
    names, index_of = _name_labels(values, rows, declared)
    train_values = set(values["train"])
    if len(train_values) < 2:
        only_name = names[index_of[values["train"][0]]]
        raise DataError(
            f"only one class: every training example has the label {only_name!r}",
            where=rows["train"].where,
            code="one-class",
        )
    _refuse_unseen(values, rows, {value: names[index_of[value]] for value in train_values})
    unseen = [names[index] for value, index in index_of.items() if value not in train_values]
    notes = [note for split_rows in rows.values() for note in split_rows.notes]
    if unseen:
        notes.append(f"no training example has the label {', '.join(map(repr, unseen))}")
    notes += _imbalance_notes(
        Counter(values["train"]), {value: names[index_of[value]] for value in train_values}
    )
    splits = {
        role: Examples(checked[role][0], np.array([index_of[value] for value in values[role]], np.int64))
        for role in rows
    }
    return LabelledSplits(splits, {role: keys for role, (_, keys) in checked.items()}, names, tuple(notes))


IMBALANCED = 20
"""Ratio of the largest to the smallest class from which a note is added."""


def is_imbalanced(counts: Collection[int]) -> bool:
    """Whether one class is at least `IMBALANCED` times as large as another."""
    return len(counts) > 1 and max(counts) >= IMBALANCED * min(counts)


def _imbalance_notes(counts: Counter[Any], names: Mapping[Any, str]) -> list[str]:
    """Return a note if the training classes have very different sizes."""
    if not is_imbalanced(counts.values()):
        return []
    (largest, many), (smallest, few) = counts.most_common()[0], counts.most_common()[-1]
    return [
        f"the classes are of very different sizes: {names[largest]!r} has {many} training examples, "
        f"{names[smallest]!r} {few}; `teacher.finetune: {{class_weights: balanced}}` gives each class the same weight"
    ]


def check_label_names(names: tuple[str, ...] | None) -> None:
    """Refuse label names that are blank or differ only in case: labels are matched by name."""
    if names is None:
        return
    if len(names) < 2:
        raise DataError(f"{len(names)} label named; a classifier needs at least two", where="data.labels")
    _refuse_duplicates(names, "data.labels")


def check_class_sizes(
    classes: Mapping[int, Sequence[bytes]],
    names: tuple[str, ...],
    labels: NDArray[np.int64],
    parts: int,
    where: str,
    noun: str = "text",
) -> None:
    """Refuse a class with fewer distinct examples than the number of splits (`parts`) to make.

    Raises:
        DataError: lists such classes.
    """
    too_small = [
        f"{names[label]!r} has {len(classes.get(label, ()))}"
        for label in sorted(set(labels.tolist()))
        if len(classes.get(label, ())) < parts
    ]
    if too_small:
        listed = ", ".join(too_small[:5]) + (
            f" and {len(too_small) - 5} more classes" if len(too_small) > 5 else ""
        )
        raise DataError(
            f"too few examples: each class needs {parts} distinct {noun}s to make {parts} splits; {listed}",
            where=where,
            hint="Add examples, drop the class, or name splits that exist under `data.splits`.",
            code="class-small",
        )


def _check_labels(rows: Rows) -> list[Label]:
    """Return labels as string, integer or bool; integral floats become integers."""
    return map_all(lambda i, label: _check_label(label, rows, i), range(len(rows)), rows.labels)


def _check_label(label: object, rows: Rows, i: int) -> Label:
    if isinstance(label, str):
        stripped = to_nfc(label.strip())
        if not stripped:
            raise DataError("the label is blank", where=rows.location(i), code="label-blank")
        if not is_unicode(stripped):
            message = "the label contains half a surrogate pair: not valid Unicode"
            raise DataError(message, where=rows.location(i), code="label-unicode")
        return stripped
    if isinstance(label, (bool, int)):
        return label
    if is_missing(label):
        raise DataError("the label is missing", where=rows.location(i), code="label-missing")
    if isinstance(label, float) and label.is_integer():
        return int(label)
    unsupported = {
        list: " Several labels per example are not supported.",
        float: " Regression is not supported.",
    }.get(type(label), "")
    raise DataError(
        f"the label is {describe(label)}; expected a text or a whole number",
        where=rows.location(i),
        hint=f"Is `data.label_column` the right column?{unsupported}",
        code="label-type",
    )


def _unify_types(labels: Mapping[str, list[Label]], rows: Mapping[str, Rows]) -> dict[str, list[Label]]:
    """Return labels of one type over all splits; strings become integers if all of them are whole numbers."""
    first: dict[type, str] = {}
    for role, values in labels.items():
        for kind in dict.fromkeys(map(type, values)):
            index = next(i for i, value in enumerate(values) if type(value) is kind)
            first.setdefault(kind, rows[role].location(index))
    if len(first) > 1:
        (kind, location), (other_kind, other_location) = list(first.items())[:2]
        raise DataError(
            f"labels of two types: {_TYPE_WORDS[kind]} at {location}, but {_TYPE_WORDS[other_kind]} here",
            where=other_location,
        )
    all_values = set(chain.from_iterable(labels.values()))
    if all(isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) for value in all_values):
        # A numeric column with a missing label is written with 1.0, and elsewhere as 1: both are the label 1.
        return {
            role: [int(str(value).partition(".")[0]) for value in values] for role, values in labels.items()
        }
    return {role: list(values) for role, values in labels.items()}


def _name_labels(
    values: Mapping[str, list[Label]], rows: Mapping[str, Rows], declared: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[Label, int]]:
    """Return the label names by index, and the index of every possible label value."""
    train_values = set(values["train"])
    sample = next(iter(train_values))
    if isinstance(sample, str):
        names = declared or tuple(sorted(value for value in train_values if isinstance(value, str)))
        _refuse_duplicates(names, rows["train"].where)
        faults = Faults()
        for role, split_values in values.items():
            for value in dict.fromkeys(split_values) if declared else ():
                if value not in names:
                    message = f"the label {value!r} is not among `data.labels`{nearest(str(value), names)}"
                    location = rows[role].location(split_values.index(value))
                    faults.add(DataError(message, where=location, code="label-undeclared"))
        faults.raise_all()
        return names, {name: index for index, name in enumerate(names)}
    if declared is not None and rows["train"].label_names is None:
        # `labels: ["1", "2", "3"]` names what stands in the column; as indices, 1 would become the second class.
        places: dict[Label, int] = {
            int(name): index for index, name in enumerate(declared) if name.isascii() and name.isdigit()
        }
        every = set(chain.from_iterable(values.values()))
        if len(places) == len(declared) and every <= places.keys() and not isinstance(sample, bool):
            return declared, places
    _refuse_negative(values, rows)
    label_names = declared or rows["train"].label_names
    if label_names is None and isinstance(sample, bool):
        label_names = ("false", "true")
    if label_names is None:
        numbers = sorted(train_values)
        return tuple(str(number) for number in numbers), {number: i for i, number in enumerate(numbers)}
    for role, split_values in values.items():
        for i, value in enumerate(split_values):
            if int(value) >= len(label_names):
                owner = "`data.labels`" if declared else "the data set"
                raise DataError(
                    f"the label {value} has no name: {owner} names {len(label_names)}, 0 to {len(label_names) - 1}",
                    where=rows[role].location(i),
                )
    _refuse_duplicates(label_names, rows["train"].where)
    return label_names, {index: index for index in range(len(label_names))}


def _refuse_negative(values: Mapping[str, list[Label]], rows: Mapping[str, Rows]) -> None:
    for role, split_values in values.items():
        for i, value in enumerate(split_values):
            if int(value) < 0:
                raise DataError(
                    f"the label is negative: {value}",
                    where=rows[role].location(i),
                    hint="-1 often marks examples whose label is withheld: name another split for this role.",
                )


def _refuse_unseen(
    values: Mapping[str, list[Label]], rows: Mapping[str, Rows], trained_names: Mapping[Label, str]
) -> None:
    """Refuse labels of validation or test that do not occur in training; `trained_names` maps those that do to
    names."""
    faults = Faults()
    for role, split_values in values.items():
        for value in dict.fromkeys(split_values):
            if value not in trained_names:
                faults.add(
                    DataError(
                        f"the {role} split has the label {str(value)!r}, which no training example has"
                        f"{nearest(str(value), list(trained_names.values()))}",
                        where=rows[role].location(split_values.index(value)),
                        code="label-unseen",
                    )
                )
    faults.raise_all()


def _refuse_duplicates(names: Sequence[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        folded_name = fold_name(name.strip())
        if not folded_name:
            raise DataError("a label's name is blank", where=where)
        if folded_name in seen:
            problem = (
                f"{name!r} is given twice"
                if seen[folded_name] == name
                else f"{seen[folded_name]!r} and {name!r} differ in case only"
            )
            raise DataError(f"labels must differ: {problem}", where=where)
        seen[folded_name] = name
