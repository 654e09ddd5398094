"""Splits of unlabelled texts, each of which is in one split only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress.core.errors import DataError
from compress.core.units import counted
from compress.data.leaks import kept_indices, leak_notes
from compress.data.rows import Rows
from compress.data.splits import UNLABELLED, Examples, Splits
from compress.data.splitting import make_parts
from compress.data.texts import check_texts
from compress.store.texts import taken


@dataclass(frozen=True)
class _Texts:
    """Texts, each with the key that it shares with its duplicates."""

    texts: Sequence[str]
    keys: Sequence[bytes]

    def take(self, chosen: Sequence[int]) -> _Texts:
        return _Texts(taken(self.texts, chosen), tuple(self.keys[i] for i in chosen))


@dataclass(frozen=True)
class Splitter:
    """How texts are cut into parts.

    Attributes:
        noun: name of a part.
        parts: returns the parts of texts, and a key for each that its duplicates share.
        hint: advice for the error raised if there are too few parts.
    """

    noun: str
    parts: Callable[[Sequence[str]], tuple[Sequence[str], Sequence[bytes]]]
    hint: str


def split_documents(
    rows: Mapping[str, Rows],
    names: Mapping[str, str],
    fractions: Mapping[str, float],
    seed: int,
    *,
    where: str,
    fewest: int,
    use: str,
    check: Callable[[Rows], tuple[Sequence[str], Sequence[bytes]]] = check_texts,
    cut: Splitter | None = None,
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
        fewest: minimum number of texts in a split; `use` names what needs them.
        check: returns the texts of rows and the key of each.
        cut: how to cut the texts into parts; None keeps them whole.

    Raises:
        DataError: a value is not a valid text, or a split has too few of them.
    """
    for role, each in rows.items():
        if not len(each):
            raise DataError(f"the {role} split is empty", where=each.where)
    documents = {role: _Texts(*check(each)) for role, each in rows.items()}
    notes = [note for each in rows.values() for note in each.notes]
    documents, found = _once(documents, names, "text")
    notes += found
    documents = _make_missing(documents, fractions, seed, where)
    if cut is not None:
        documents = {role: _Texts(*cut.parts(texts.texts)) for role, texts in documents.items()}
        documents, found = _once(documents, names, cut.noun)
        notes += found
    for role, own in documents.items():
        if len(own.texts) < fewest:
            raise DataError(
                f"the {role} split has {counted(len(own.texts), 'text' if cut is None else cut.noun)}; "
                f"{use} needs at least {fewest}",
                where=where,
                hint=None if cut is None else cut.hint,
            )
    made = {role: Examples.unlabelled(own.texts) for role, own in documents.items()}
    return Splits(made["train"], made["validation"], made["test"], (), notes=tuple(notes))


def _once(
    splits: Mapping[str, _Texts], names: Mapping[str, str], noun: str
) -> tuple[dict[str, _Texts], list[str]]:
    """Keep each text once: in test before validation before train."""
    places = kept_indices({role: [(key,) for key in own.keys] for role, own in splits.items()})
    before = {role: own.keys for role, own in splits.items()}
    notes = leak_notes(places, before, names, noun, f"the same {noun}")
    kept: dict[str, _Texts] = {}
    repeated = 0
    for role, stay in places.items():
        first: dict[bytes, int] = {}
        for place in stay:
            first.setdefault(splits[role].keys[place], place)
        kept[role] = splits[role].take(list(first.values()))
        repeated += len(stay) - len(first)
    if repeated:
        notes.append(f"{counted(repeated, f'repeated {noun}')} left out: each is kept once in its split")
    return kept, notes


def _make_missing(
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
    part_of = make_parts({UNLABELLED: train.keys}, tuple(fractions.values()), seed)
    made = dict(splits)
    for part, role in enumerate(("train", *fractions)):
        made[role] = train.take([i for i, key in enumerate(train.keys) if part_of[key] == part])
    return made
