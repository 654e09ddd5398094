"""Pairs of texts with a given similarity: validated, and split so that no text of a held-out pair is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.units import pluralize
from compress.data.leaks import kept_indices, leak_notes
from compress.data.roles import HELD_OUT
from compress.data.rows import Rows
from compress.data.splits import UNLABELLED, Examples, Splits
from compress.data.splitting import split_rank
from compress.data.texts import check_texts, describe, is_missing

MIN_PAIRS = 3
"""Minimum number of pairs in a held-out split: fewer have no order of scores."""

_HINT = "Is `data.score_column` the right column?"


@dataclass(frozen=True)
class _Pairs:
    """Pairs of texts: `texts` and `keys` hold both sides of each pair; `scores`: float32 (n,)."""

    texts: tuple[tuple[str, str], ...]
    keys: tuple[tuple[bytes, bytes], ...]
    scores: NDArray[np.float32]

    def take(self, indices: Sequence[int]) -> _Pairs:
        texts, keys = (tuple(side[i] for i in indices) for side in (self.texts, self.keys))
        return _Pairs(texts, keys, self.scores[np.asarray(indices, np.int64)])  # type: ignore[arg-type] # (tuples of pairs, not of any length)


def split_pairs(
    first: Mapping[str, Rows],
    second: Mapping[str, Rows],
    names: Mapping[str, str],
    fractions: Mapping[str, float],
    seed: int,
    where: str,
) -> Splits:
    """Return the three splits of scored pairs; no text of a validation or test pair is in training.

    A pair of a named split is dropped if one of its texts is in a test pair (dropped from validation and train) or in a
    validation pair (dropped from train). Generated splits keep pairs together that share a text, directly or through
    others.

    Args:
        first, second: the rows of the two columns of texts for each role, with the scores as their labels.
        names: the source's name of each role's split, for notes.
        fractions: the roles to split off the training pairs, with their fractions.
        seed: of the generated splits.
        where: the source, for errors.

    Raises:
        DataError: a text is not valid, a score is not a finite number, or a held-out split has too few pairs or just
            one distinct score.
    """
    for role, part in first.items():
        if not len(part):
            raise DataError(f"the {role} split is empty", where=part.where)
    pairs = {role: _check_pairs(first[role], second[role]) for role in first}
    notes = [note for part in first.values() for note in part.notes]
    keys = {role: part.keys for role, part in pairs.items()}
    kept = kept_indices(keys)
    notes += leak_notes(kept, keys, names, "pair", "a text of each")
    pairs = {role: pairs[role].take(indices) for role, indices in kept.items()}
    pairs = _generate_splits(pairs, fractions, seed)
    for role in HELD_OUT:
        scores = pairs[role].scores
        if len(scores) < MIN_PAIRS:
            raise DataError(
                f"the {role} split has {pluralize(len(scores), 'pair')}; "
                f"comparing their order needs at least {MIN_PAIRS}",
                where=where,
                hint="Pairs that share a text stay in one split; name splits that exist under `data.splits`.",
            )
        if len(np.unique(scores)) == 1:
            raise DataError(
                f"every pair of the {role} split has the score {scores[0]:g}: there is no order to compare with",
                where=where,
                hint=_HINT,
            )
    if not len(pairs["train"].scores):
        raise DataError("no training pair is left: every one shares a text with a held-out pair", where=where)
    examples = {role: _examples(part) for role, part in pairs.items()}
    return Splits(examples["train"], examples["validation"], examples["test"], (), notes=tuple(notes))


def linked_groups(pairs: Sequence[tuple[bytes, bytes]]) -> list[list[int]]:
    """Return the connected components of pairs, as indices: pairs that share a key, directly or through others."""
    parent: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        top = key
        while parent.setdefault(top, top) != top:
            top = parent[top]
        while parent[key] != top:
            parent[key], key = top, parent[key]
        return top

    for left, right in pairs:
        parent[root(left)] = root(right)
    groups: dict[bytes, list[int]] = {}
    for index, (left, _) in enumerate(pairs):
        groups.setdefault(root(left), []).append(index)
    return list(groups.values())


def _check_pairs(first: Rows, second: Rows) -> _Pairs:
    (first_texts, first_keys), (second_texts, second_keys) = check_texts(first), check_texts(second)
    scores = np.array([_score(first, i) for i in range(len(first))], np.float32)
    return _Pairs(
        tuple(zip(first_texts, second_texts, strict=True)),
        tuple(zip(first_keys, second_keys, strict=True)),
        scores,
    )


def _score(rows: Rows, i: int) -> float:
    value = rows.labels[i]
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise DataError("the score is missing", where=rows.location(i))
    try:
        number = (
            float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
        )
    except ValueError:
        number = None
    if number is None:
        raise DataError(
            f"the score is {describe(value)}; expected a number", where=rows.location(i), hint=_HINT
        )
    if not math.isfinite(number):
        raise DataError(f"the score is {number}; expected a finite number", where=rows.location(i))
    return number


def _generate_splits(
    pairs: Mapping[str, _Pairs], fractions: Mapping[str, float], seed: int
) -> dict[str, _Pairs]:
    """Make the splits that the data lacks; a group joins a split that has room for all of it, otherwise train."""
    train = pairs["train"]
    capacity = {role: round(share * len(train.scores)) for role, share in fractions.items()}
    assigned: dict[str, list[int]] = {role: [] for role in ("train", *fractions)}
    groups = linked_groups(train.keys)
    for group in sorted(groups, key=lambda group: split_rank(min(min(train.keys[i]) for i in group), seed)):
        role = next(
            (role for role in fractions if len(assigned[role]) + len(group) <= capacity[role]), "train"
        )
        assigned[role] += group
    return {**pairs, **{role: train.take(sorted(indices)) for role, indices in assigned.items()}}


def _examples(pairs: _Pairs) -> Examples:
    texts = tuple(text for pair in pairs.texts for text in pair)
    return Examples(texts, np.full(len(texts), UNLABELLED, np.int64), pairs.scores)
