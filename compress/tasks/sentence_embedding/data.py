"""Load texts without labels, or pairs of texts with a given similarity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.core.errors import DataError
from compress.data.documents import split_documents
from compress.data.kinds import ItemKind, columns_of
from compress.data.reading.locate import open_source
from compress.data.roles import choose_splits, named_splits, read_splits
from compress.data.rows import Columns
from compress.data.splits import Splits
from compress.data.splitting import text_key
from compress.data.unlabeled import load_unlabeled
from compress.tasks.sentence_embedding.documents import IN_SENTENCES, SENTENCES
from compress.tasks.sentence_embedding.keys import SentenceData
from compress.tasks.sentence_embedding.pairs import split_pairs

FEWEST_TEXTS = 3
"""Minimum number of texts in a split: fewer have no order of similarities."""


def columns(spec: SentenceData, kind: ItemKind) -> Columns:
    """Return the columns to read from tables: the text only."""
    return columns_of(spec, kind, labelled=False)


def load(spec: SentenceData, base: Path, seed: int, kind: ItemKind) -> Splits:
    """Load texts without labels, or pairs with given scores; further texts are split into sentences alike."""
    if spec.labels is not None:
        raise DataError("embeddings have no labels: leave `labels` out", where="data.labels")
    if spec.pair_columns is None:
        source = open_source(spec, base, Columns(spec.text_column, None), named_splits(spec), kind)
        names, fractions = choose_splits(spec, source)
        read = read_splits(source, names)
        splits = split_documents(
            read,
            names,
            fractions,
            seed,
            where=source.where,
            fewest=FEWEST_TEXTS,
            use="comparing similarities",
            cut=IN_SENTENCES if spec.sentences else None,
        )
    else:
        splits = _load_pairs(spec, spec.pair_columns, base, seed, kind)
    if spec.further is None:
        return splits
    unlabeled, dropped = load_unlabeled(
        spec.further,
        spec,
        base,
        SENTENCES if spec.sentences else kind,
        held_out={text_key(text) for part in (splits.validation, splits.test) for text in part.texts},
        trained={text_key(text) for text in splits.train.texts},
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
    own = Columns(first, spec.score_column, text_key="pair_columns", label_key="score_column")
    sources = [
        open_source(spec, base, each, named_splits(spec), kind) for each in (own, replace(own, text=second))
    ]
    names, fractions = choose_splits(spec, sources[0])
    read = [read_splits(source, names) for source in sources]
    return split_pairs(read[0], read[1], names, fractions, seed, sources[0].where)
