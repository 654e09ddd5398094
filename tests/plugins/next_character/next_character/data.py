"""Documents, a text each, in three splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.core.errors import DataError
from compress.data.kinds import ItemKind, columns_of
from compress.data.reading.locate import open_source
from compress.data.roles import choose_splits, declared_splits, read_splits
from compress.data.rows import Columns
from compress.data.splits import UNLABELLED, Examples, Splits
from compress.profile.schema import DataSpec


def columns(spec: DataSpec, kind: ItemKind) -> Columns:
    """The column of the documents."""
    return columns_of(spec, kind, labelled=False)


def load(spec: DataSpec, base: Path, seed: int, kind: ItemKind) -> Splits:
    """The documents; what is missing of the splits is drawn from those that train."""
    source = open_source(spec, base, columns(spec, kind), declared_splits(spec), kind)
    names, fractions = choose_splits(spec, source)
    parts = {role: list(kind.check(rows)[0]) for role, rows in read_splits(source, names).items()}
    for number, (role, fraction) in enumerate(fractions.items()):
        order = np.random.default_rng([seed, number]).permutation(len(parts["train"]))
        count = max(1, round(fraction * len(order)))
        taken = set(order[:count].tolist())
        parts[role] = [text for place, text in enumerate(parts["train"]) if place in taken]
        parts["train"] = [text for place, text in enumerate(parts["train"]) if place not in taken]
    if any(len(text) < 2 for texts in parts.values() for text in texts):
        raise DataError("a document of one character has no next one", where=source.where)
    made = {
        role: Examples(tuple(texts), np.full(len(texts), UNLABELLED, np.int64))
        for role, texts in parts.items()
    }
    return Splits(made["train"], made["validation"], made["test"], ())
