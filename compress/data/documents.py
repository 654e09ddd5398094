"""Splits of unlabelled texts, each of which is in one split only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress.core.errors import DataError
from compress.core.units import pluralize
from compress.data.leaks import kept_indices, leak_notes
from compress.data.rows import Rows
from compress.data.splits import UNLABELLED, Examples, Splits
from compress.data.splitting import assign_parts
from compress.data.texts import check_texts
from compress.store.texts import select_texts


@dataclass(frozen=True)
class _Texts:
    """Texts, each with the key that it shares with its duplicates."""

    texts: Sequence[str]
    keys: Sequence[bytes]

    def take(self, indices: Sequence[int]) -> _Texts:
        return _Texts(select_texts(self.texts, indices), tuple(self.keys[i] for i in indices))


@dataclass(frozen=True)
class Splitter:
    """How texts are cut into parts.

    Attributes:
        noun: name of a part.
        split: returns the parts of texts, and a key for each that its duplicates share.
        hint: advice for the error raised if there are too few parts.
    """

    noun: str
    split: Callable[[Sequence[str]], tuple[Sequence[str], Sequence[bytes]]]
    hint: str


def split_documents(
    rows: Mapping[str, Rows],
    names: Mapping[str, str],
    fractions: Mapping[str, float],
    seed: int,
    *,
    where: str,
    minimum: int,
    needed_by: str,
    check: Callable[[Rows], tuple[Sequence[str], Sequence[bytes]]] = check_texts,
    splitter: Splitter | None = None,
) -> Splits:
    """Return the three splits of unlabelled texts; each text is kept once, in one of them.

    Texts are assigned to splits before they are cut, so all parts of a text are in the same split. A text, or later a
    part, that occurs in several splits is kept in test before validation, and in validation before train.

    Args:
        rows: rows of each role in the source (`train` is required); labels are ignored.
        names: the source's name of each role's split, for notes.
        fractions: the roles to split off the training texts, with their fractions.
        seed: seed of these splits.
        where: the source, for errors.
        minimum: minimum number of texts in a split; `needed_by` names what needs them.
        check: returns the texts of rows and the key of each.
        splitter: how to cut the texts into parts; None keeps them whole.

    Raises:
        DataError: a value is not a valid text, or a split has too few of them.
    """
    for role, split_rows in rows.items():
        if not len(split_rows):
            raise DataError(f"the {role} split is empty", where=split_rows.where)
    documents = {role: _Texts(*check(split_rows)) for role, split_rows in rows.items()}
    notes = [note for split_rows in rows.values() for note in split_rows.notes]
    documents, duplicate_notes = _deduplicated(documents, names, "text")
    notes += duplicate_notes
    documents = _make_missing_splits(documents, fractions, seed, where)
    if splitter is not None:
        documents = {role: _Texts(*splitter.split(texts.texts)) for role, texts in documents.items()}
        documents, duplicate_notes = _deduplicated(documents, names, splitter.noun)
        notes += duplicate_notes
    for role, split in documents.items():
        if len(split.texts) < minimum:
            raise DataError(
                f"the {role} split has {pluralize(len(split.texts), 'text' if splitter is None else splitter.noun)}; "
                f"{needed_by} needs at least {minimum}",
                where=where,
                hint=None if splitter is None else splitter.hint,
            )
    examples = {role: Examples.unlabelled(split.texts) for role, split in documents.items()}
    return Splits(examples["train"], examples["validation"], examples["test"], (), notes=tuple(notes))


def _deduplicated(
    splits: Mapping[str, _Texts], names: Mapping[str, str], noun: str
) -> tuple[dict[str, _Texts], list[str]]:
    """Keep each text once: in test before validation before train."""
    indices = kept_indices({role: [(key,) for key in split.keys] for role, split in splits.items()})
    original_keys = {role: split.keys for role, split in splits.items()}
    notes = leak_notes(indices, original_keys, names, noun, f"the same {noun}")
    kept: dict[str, _Texts] = {}
    repeated = 0
    for role, role_indices in indices.items():
        first_indices: dict[bytes, int] = {}
        for index in role_indices:
            first_indices.setdefault(splits[role].keys[index], index)
        kept[role] = splits[role].take(list(first_indices.values()))
        repeated += len(role_indices) - len(first_indices)
    if repeated:
        notes.append(f"{pluralize(repeated, f'repeated {noun}')} left out: each is kept once in its split")
    return kept, notes


def _make_missing_splits(
    splits: Mapping[str, _Texts], fractions: Mapping[str, float], seed: int, where: str
) -> dict[str, _Texts]:
    """Split the missing roles off the training texts."""
    if not fractions:
        return dict(splits)
    train = splits["train"]
    parts = len(fractions) + 1
    if len(train.keys) < parts:
        raise DataError(
            f"too few texts: {len(train.keys)} distinct ones to make {parts} splits",
            where=where,
            hint="Add texts, or name splits that exist under `data.splits`.",
        )
    part_by_key = assign_parts({UNLABELLED: train.keys}, tuple(fractions.values()), seed)
    result = dict(splits)
    for part, role in enumerate(("train", *fractions)):
        result[role] = train.take([i for i, key in enumerate(train.keys) if part_by_key[key] == part])
    return result
