"""Load texts without labels, or pairs of texts with a given similarity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.core.errors import DataError
from compress.data.documents import split_documents
from compress.data.kinds import ItemKind, columns_of
from compress.data.reading.locate import open_source
from compress.data.roles import choose_splits, declared_splits, read_splits
from compress.data.rows import Columns
from compress.data.splits import Splits
from compress.data.splitting import text_key
from compress.data.unlabeled import load_unlabeled
from compress.tasks.sentence_embedding.documents import SENTENCE_SPLITTER, SENTENCES
from compress.tasks.sentence_embedding.keys import SentenceData
from compress.tasks.sentence_embedding.pairs import split_pairs

MIN_TEXTS = 3
"""Minimum number of texts in a split: fewer have no order of similarities."""


def columns(spec: SentenceData, kind: ItemKind) -> Columns:
    """Return the columns to read from tables: the text only."""
    return columns_of(spec, kind, labelled=False)


def load(spec: SentenceData, base: Path, seed: int, kind: ItemKind) -> Splits:
    """Load texts without labels, or pairs with given scores; further texts are split into sentences alike."""
    if spec.labels is not None:
        raise DataError("embeddings have no labels: leave `labels` out", where="data.labels")
    if spec.pair_columns is None:
        source = open_source(spec, base, Columns(spec.text_column, None), declared_splits(spec), kind)
        names, fractions = choose_splits(spec, source)
        rows = read_splits(source, names)
        splits = split_documents(
            rows,
            names,
            fractions,
            seed,
            where=source.where,
            minimum=MIN_TEXTS,
            needed_by="comparing similarities",
            splitter=SENTENCE_SPLITTER if spec.sentences else None,
        )
    else:
        splits = _load_pairs(spec, spec.pair_columns, base, seed, kind)
    if spec.existing_unlabeled is None:
        return splits
    unlabeled, dropped = load_unlabeled(
        spec.existing_unlabeled,
        spec,
        base,
        SENTENCES if spec.sentences else kind,
        held_out_keys={text_key(text) for split in (splits.validation, splits.test) for text in split.texts},
        train_keys={text_key(text) for text in splits.train.texts},
    )
    return replace(splits, unlabeled=unlabeled, notes=(*splits.notes, *dropped))


def _load_pairs(
    spec: SentenceData, columns: tuple[str, str], base: Path, seed: int, kind: ItemKind
) -> Splits:
    first, second = columns
    if len({first, second, spec.score_column}) < 3:
        raise DataError(
            f"two texts and their score need three columns, not {first!r}, {second!r} and {spec.score_column!r}",
            where="data.pair_columns",
        )
    first_columns = Columns(first, spec.score_column, text_key="pair_columns", label_key="score_column")
    sources = [
        open_source(spec, base, source_columns, declared_splits(spec), kind)
        for source_columns in (first_columns, replace(first_columns, text=second))
    ]
    names, fractions = choose_splits(spec, sources[0])
    rows = [read_splits(source, names) for source in sources]
    return split_pairs(rows[0], rows[1], names, fractions, seed, sources[0].where)
