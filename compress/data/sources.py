"""`DataSpec` -> splits: find the data, read it, check it, make the splits that it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.core.watched import Watched
from compress.data.checks import Labelled, check_class_sizes, check_declared, check_rows
from compress.data.documents import SENTENCES, split_documents
from compress.data.faults import Faults
from compress.data.files import nearest
from compress.data.kinds import TEXTS, ItemKind, columns_of, kind_of
from compress.data.locate import open_source, source_fingerprint
from compress.data.names import composed, named_split
from compress.data.pairs import split_pairs
from compress.data.rows import Columns, Rows, Source
from compress.data.sampling import sampled
from compress.data.splits import Examples, Splits
from compress.data.splitting import conflicting_items, group_classes, make_parts, text_key
from compress.data.unlabeled import load_unlabeled
from compress.profile.schema import DataSpec, TaskName

DEFAULT_FRACTIONS: Mapping[str, float] = {"validation": 0.1, "test": 0.2}
"""What is made of the training split where the data has no split of that name."""

_HELD_OUT = ("test", "validation")


def load(
    spec: DataSpec,
    base: Path,
    seed: int,
    task: TaskName = "text-classification",
    *,
    sample: bool = False,
) -> Splits:
    """The three splits of the data that a profile names, and its unlabelled examples.

    A text or image of a held-out split is never trained on: where equal ones stand in several named splits, test
    keeps them before validation, and validation before train. Made splits hold each class's fraction of
    distinct ones, drawn by the hash of their content and the seed.

    Args:
        spec: the profile's `data` section.
        base: the folder that relative paths start at.
        seed: another seed makes other splits; splits that exist are not changed.
        task: says whether the examples are texts or images, and whether they have labels.
        sample: open only some of many files that hold one example each; the others stand there by their names, so
            these splits are for looking at, not for training.

    Raises:
        DataError: whatever makes the data unfit, with the file and line where there is one.
    """
    if task == "sentence-embedding":
        return _load_for_embedding(spec, base, seed, sampled(TEXTS) if sample else TEXTS)
    kind = sampled(kind_of(task)) if sample else kind_of(task)
    columns = columns_of(spec, kind)
    if columns.text == columns.label:
        raise DataError(
            f"{kind.noun} and label are the same column, {columns.text!r}", where="data.label_column"
        )
    check_declared(spec.labels)
    source = open_source(spec, base, columns, _named(spec), kind)
    split_names, fractions = _choose_splits(spec, source)
    read = _read(source, split_names)
    checked = check_rows(read, None if spec.labels is None else tuple(map(composed, spec.labels)), kind)
    kept, keys, notes = _drop_leaks(checked, split_names, source.where, kind)
    splits, key_splits, made = _make_missing(kept, keys, fractions, checked.names, source.where, seed, kind)
    conflicts = conflicting_items(
        [key for each in keys.values() for key in each], np.concatenate([kept[role].labels for role in keys])
    )
    if conflicts:
        stand = _count(conflicts, f"{kind.noun} stands", f"{kind.noun}s stand")
        notes.append(f"{stand} with more than one label")
    unlabeled, dropped = None, list[str]()
    if spec.unlabeled is not None:
        unlabeled, dropped = load_unlabeled(
            spec.unlabeled,
            spec,
            base,
            kind,
            held_out={key for role in _HELD_OUT for key in key_splits[role]},
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


def _load_for_embedding(spec: DataSpec, base: Path, seed: int, kind: ItemKind) -> Splits:
    """Texts without labels, or pairs of them with given scores; further texts are cut as these are."""
    if spec.labels is not None:
        raise DataError("embeddings have no labels: leave `labels` out", where="data.labels")
    if spec.pair_columns is None:
        source = open_source(spec, base, Columns(spec.text_column, None), _named(spec), kind)
        names, fractions = _choose_splits(spec, source)
        read = _read(source, names)
        splits = split_documents(read, names, fractions, seed, sentences=spec.sentences, where=source.where)
    else:
        splits = _load_pairs(spec, spec.pair_columns, base, seed)
    if spec.unlabeled is None:
        return splits
    unlabeled, dropped = load_unlabeled(
        spec.unlabeled,
        spec,
        base,
        SENTENCES if spec.sentences else TEXTS,
        held_out={text_key(text) for part in (splits.validation, splits.test) for text in part.texts},
        trained={text_key(text) for text in splits.train.texts},
    )
    return replace(splits, unlabeled=unlabeled, notes=(*splits.notes, *dropped))


def _load_pairs(spec: DataSpec, columns: tuple[str, str], base: Path, seed: int) -> Splits:
    if spec.sentences:
        raise DataError(
            "scores are of whole texts: pairs are not cut into sentences",
            where="data.sentences",
            hint="Leave out `sentences` or `pair_columns`.",
        )
    first, second = columns
    if len({first, second, spec.score_column}) < 3:
        raise DataError(
            f"two texts and their score need three columns, not {first!r}, {second!r} and {spec.score_column!r}",
            where="data.pair_columns",
        )
    own = Columns(first, spec.score_column, text_key="pair_columns", label_key="score_column")
    sources = [
        open_source(spec, base, each, _named(spec), TEXTS) for each in (own, replace(own, text=second))
    ]
    names, fractions = _choose_splits(spec, sources[0])
    read = [_read(source, names) for source in sources]
    return split_pairs(read[0], read[1], names, fractions, seed, sources[0].where)


def fingerprint(
    spec: DataSpec, base: Path, task: TaskName = "text-classification", watched: Watched | None = None
) -> str | None:
    """sha256 over the names and bytes of all files of the data, or of a hub data set's commit; of `unlabeled` too.

    None: a hub data set whose commit the local cache does not know; the network is not asked.

    Raises:
        DataError: there is no such data.
    """
    kind, watched = kind_of(task), watched or Watched()
    columns = columns_of(spec, kind, labelled=task != "sentence-embedding")
    own = source_fingerprint(spec, base, columns, _named(spec), kind, watched)
    if spec.unlabeled is None:
        return own
    columns = columns_of(spec, kind, labelled=False)
    further = source_fingerprint(spec.unlabeled, base, columns, (spec.unlabeled.split,), kind, watched)
    if own is None or further is None:
        return None
    return hashlib.sha256(f"{own}\0{further}".encode()).hexdigest()


def _named(spec: DataSpec) -> tuple[str, ...]:
    chosen = (spec.splits.train, spec.splits.validation, spec.splits.test)
    return tuple(name for name in chosen if isinstance(name, str))


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


def _existing(name: str, role: str, source: Source) -> str:
    found = named_split(name, source.splits, source.where)
    if found is not None:
        return found
    known = list(source.splits)
    raise DataError(
        f"no split {name!r}{nearest(name, known)}",
        where=source.where,
        hint=f"Set `data.splits.{role}`; the splits are: {', '.join(map(repr, known))}.",
    )


def _read(source: Source, names: Mapping[str, str]) -> dict[str, Rows]:
    """The rows of the split that plays each role."""
    read: dict[str, Rows] = {}
    faults = Faults()
    for role, name in names.items():
        with faults:
            read[role] = source.splits[name]()
    faults.tell()
    return read


def _drop_leaks(
    checked: Labelled, split_names: Mapping[str, str], where: str, kind: ItemKind
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
        all_keys = checked.keys[role]
        stay = [i for i, key in enumerate(all_keys) if key not in held]
        dropped = len(examples) - len(stay)
        if dropped:
            others = "the test split" if role == "validation" else "a held-out split"
            notes.append(
                f"{_count(dropped, 'example', 'examples')} of {len(examples)} dropped from "
                f"{split_names[role]!r}: the same {kind.noun} stands in {others}"
            )
        kept[role], keys[role] = examples.take(stay), [all_keys[i] for i in stay]
        held.update(keys[role])
    _refuse_emptied(checked, kept, where, kind)
    return kept, keys, notes


def _refuse_emptied(checked: Labelled, kept: Mapping[str, Examples], where: str, kind: ItemKind) -> None:
    for role, examples in kept.items():
        if not len(examples):
            raise DataError(
                f"every {kind.noun} of the {role} split stands in a held-out split too", where=where
            )
    lost = sorted(set(checked.splits["train"].labels.tolist()) - set(kept["train"].labels.tolist()))
    if lost:
        names = ", ".join(repr(checked.names[label]) for label in lost[:5])
        raise DataError(
            f"no training example of {names} is left: all of its {kind.noun}s stand in a held-out split too",
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
    """Make the splits that the data lacks out of the training split: examples, their keys, and notes."""
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
            f"{_count(repeated, 'example repeats', 'examples repeat')} the {kind.noun} of another; "
            f"equal {kind.noun}s were kept in the same split"
        )
    return splits, key_splits, notes


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
