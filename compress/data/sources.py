"""`DataSpec` -> splits: find the data, read it, check it, make the splits that it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.data.checks import Labelled, check_class_sizes, check_declared, check_rows
from compress.data.files import nearest, read_bytes
from compress.data.folders import VALIDATION_NAMES, open_file, open_folder
from compress.data.hub import cached_commit, open_hub
from compress.data.rows import Columns, Source
from compress.data.splits import Examples, Splits
from compress.data.splitting import conflicting_texts, group_classes, make_parts, text_key
from compress.errors import DataError
from compress.package_paths import local_path
from compress.profile.schema import DataSpec

DEFAULT_FRACTIONS: Mapping[str, float] = {"validation": 0.1, "test": 0.2}
"""What is made of the training split where the data has no split of that name."""

_HELD_OUT = ("test", "validation")


def load(spec: DataSpec, base: Path, seed: int) -> Splits:
    """The three splits of the data that a profile names.

    A text of a held-out split is never trained on: where equal texts stand in several named splits, test
    keeps them before validation, and validation before train. Made splits hold each class's fraction of
    distinct texts, drawn by the hash of their content and the seed.

    Args:
        spec: the profile's `data` section.
        base: the folder that relative paths start at.
        seed: another seed makes other splits; splits that exist are not changed.

    Raises:
        DataError: whatever makes the data unfit, with the file and line where there is one.
    """
    if spec.text_column == spec.label_column:
        raise DataError(
            f"text and label are the same column, {spec.text_column!r}", where="data.label_column"
        )
    check_declared(spec.labels)
    source = _open(spec, base)
    split_names, fractions = _choose_splits(spec, source)
    read = {role: source.splits[name]() for role, name in split_names.items()}
    checked = check_rows(read, spec.labels)
    kept, keys, notes = _drop_leaks(checked, split_names, source.where)
    splits, made = _make_missing(kept, keys["train"], fractions, checked.names, source.where, seed)
    conflicts = conflicting_texts(
        [key for each in keys.values() for key in each], np.concatenate([kept[role].labels for role in keys])
    )
    if conflicts:
        notes.append(f"{_count(conflicts, 'text stands', 'texts stand')} with more than one label")
    return Splits(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=checked.names,
        notes=(*checked.notes, *notes, *made),
    )


def fingerprint(spec: DataSpec, base: Path) -> str | None:
    """sha256 over the names and bytes of all files of the data, or of a hub data set's commit.

    None: a hub data set whose commit the local cache does not know; the network is not asked.

    Raises:
        DataError: there is no such data.
    """
    path = local_path(spec.path, base, DataError)
    digest = hashlib.sha256()
    if path is None:
        commit = cached_commit(spec.path, spec.revision)
        if commit is None:
            return None
        digest.update("\0".join((spec.path, spec.name or "", commit)).encode())
        return digest.hexdigest()
    for name, file in sorted(_open_path(spec, path).files.items()):
        content = hashlib.sha256(read_bytes(file)).digest()
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
    return digest.hexdigest()


def _open(spec: DataSpec, base: Path) -> Source:
    path = local_path(spec.path, base, DataError)
    if path is None:
        return open_hub(spec.path, spec.name, spec.revision, _columns(spec))
    return _open_path(spec, path)


def _open_path(spec: DataSpec, path: Path) -> Source:
    if path.is_file():
        return open_file(path, _columns(spec))
    chosen = (spec.splits.train, spec.splits.validation, spec.splits.test)
    return open_folder(path, _columns(spec), tuple(name for name in chosen if isinstance(name, str)))


def _columns(spec: DataSpec) -> Columns:
    return Columns(spec.text_column, spec.label_column)


def _choose_splits(spec: DataSpec, source: Source) -> tuple[dict[str, str], dict[str, float]]:
    """Which split of the source plays which role, and the fractions to make of the training split.

    Raises:
        DataError: a named split does not exist, two roles share one, or nothing would be left to train on.
    """
    names = {"train": _existing(spec.splits.train, "train", source)}
    fractions: dict[str, float] = {}
    for role in _HELD_OUT:
        wanted = spec.splits.test if role == "test" else spec.splits.validation
        if isinstance(wanted, str):
            names[role] = _existing(wanted, role, source)
        elif wanted is None and (found := _usual(role, source)):
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


def _existing(name: str, role: str, source: Source) -> str:
    if name in source.splits:
        return name
    if name == "validation" and (found := _usual("validation", source)):
        return found
    known = list(source.splits)
    raise DataError(
        f"no split {name!r}{nearest(name, known)}",
        where=source.where,
        hint=f"Set `data.splits.{role}`; the splits are: {', '.join(map(repr, known))}.",
    )


def _usual(role: str, source: Source) -> str | None:
    """The split that plays a role by its usual name, None without one."""
    usual = VALIDATION_NAMES if role == "validation" else (role,)
    found = [name for name in usual if name in source.splits]
    if len(found) > 1 and found[0] != role:
        raise DataError(
            f"{found[0]!r} and {found[1]!r} could both be the {role} split",
            where=source.where,
            hint=f"Name one as `data.splits.{role}`.",
        )
    return found[0] if found else None


def _drop_leaks(
    checked: Labelled, split_names: Mapping[str, str], where: str
) -> tuple[dict[str, Examples], dict[str, list[bytes]], list[str]]:
    """Drop from train what stands in validation or test, and from validation what stands in test."""
    kept: dict[str, Examples] = {}
    keys: dict[str, list[bytes]] = {}
    notes: list[str] = []
    held: set[bytes] = set()
    for role in (*_HELD_OUT, "train"):
        if role not in checked.splits:
            continue
        examples = checked.splits[role]
        all_keys = [text_key(text) for text in examples.texts]
        stay = [i for i, key in enumerate(all_keys) if key not in held]
        dropped = len(examples) - len(stay)
        if dropped:
            others = "the test split" if role == "validation" else "a held-out split"
            notes.append(
                f"{_count(dropped, 'example', 'examples')} of {len(examples)} dropped from "
                f"{split_names[role]!r}: the same text stands in {others}"
            )
        kept[role], keys[role] = _take(examples, stay), [all_keys[i] for i in stay]
        held.update(keys[role])
    _refuse_emptied(checked, kept, where)
    return kept, keys, notes


def _refuse_emptied(checked: Labelled, kept: Mapping[str, Examples], where: str) -> None:
    for role, examples in kept.items():
        if not len(examples):
            raise DataError(f"every text of the {role} split stands in a held-out split too", where=where)
    lost = sorted(set(checked.splits["train"].labels.tolist()) - set(kept["train"].labels.tolist()))
    if lost:
        names = ", ".join(repr(checked.names[label]) for label in lost[:5])
        raise DataError(
            f"no training example of {names} is left: all of its texts stand in a held-out split too",
            where=where,
        )


def _make_missing(
    kept: Mapping[str, Examples],
    keys: list[bytes],
    fractions: Mapping[str, float],
    names: tuple[str, ...],
    where: str,
    seed: int,
) -> tuple[dict[str, Examples], list[str]]:
    """Make the splits that the data lacks out of the training split."""
    if not fractions:
        return dict(kept), []
    train = kept["train"]
    classes = group_classes(keys, train.labels)
    check_class_sizes(classes, names, train.labels, len(fractions) + 1, where)
    part_of = make_parts(classes, tuple(fractions.values()), seed)
    splits = dict(kept)
    for part, role in enumerate(("train", *fractions)):
        splits[role] = _take(train, [i for i, key in enumerate(keys) if part_of[key] == part])
    repeated = len(keys) - len(set(keys))
    notes = []
    if repeated:
        notes.append(
            f"{_count(repeated, 'example repeats', 'examples repeat')} the text of another; "
            "equal texts were kept in the same split"
        )
    return splits, notes


def _take(examples: Examples, chosen: list[int]) -> Examples:
    return Examples(tuple(examples.texts[i] for i in chosen), examples.labels[chosen])


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
