"""Load texts, prompts with completions, or conversations, as three disjoint splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from compress.core.errors import DataError
from compress.data.documents import split_documents
from compress.data.faults import Faults
from compress.data.kinds import ItemKind, columns_of
from compress.data.reading.locate import open_source
from compress.data.roles import choose_splits, declared_splits, read_splits
from compress.data.rows import Columns, Rows
from compress.data.splits import Examples, Splits
from compress.data.splitting import text_key
from compress.data.texts import check_texts
from compress.profile.schema import DataSpec
from compress.profile.specs.validator import REGEX, pattern_of, unmatched_error
from compress.store.texts import stored_like
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.documents import messages_item, prompt_and_answer, prompt_item

MIN_DOCUMENTS = 2
"""Minimum number of documents in a split: a confidence interval over documents needs two."""


def columns(spec: DataSpec, kind: ItemKind) -> Columns:
    """Return the columns to read from tables."""
    assert isinstance(spec, LanguageData)
    if spec.messages_column is not None:
        return Columns(spec.messages_column, None, text_key="messages_column")
    if spec.prompt_column is not None:
        return Columns(spec.prompt_column, spec.completion_column, "prompt_column", "completion_column")
    return columns_of(spec, kind, labelled=False)


def load(spec: DataSpec, base: Path, seed: int, kind: ItemKind) -> Splits:
    """Load the three splits; an example found in several stays in test before validation before train.

    Raises:
        DataError: the data is unusable.
    """
    assert isinstance(spec, LanguageData)
    if spec.labels is not None:
        raise DataError("texts for a language model have no labels: leave `labels` out", where="data.labels")
    if spec.unlabeled is not None:
        raise DataError(
            "every text is its own target, so there is no unlabelled data",
            where="data.unlabeled",
            hint="Give all texts as `data.path`.",
        )
    source = open_source(spec, base, columns(spec, kind), declared_splits(spec), kind)
    names, fractions = choose_splits(spec, source)
    rows = read_splits(source, names)
    checks = {"texts": check_texts, "prompts": _check_prompts, "messages": _check_messages}
    splits = split_documents(
        rows,
        names,
        fractions,
        seed,
        where=source.where,
        minimum=MIN_DOCUMENTS,
        needed_by="an interval over texts",
        check=checks[spec.example_format],
    )
    _check_answers(spec, splits.test)
    return splits


def _check_answers(spec: LanguageData, test: Examples) -> None:
    """Try the pattern of `answers` on what the data itself answers, long before a model does.

    Raises:
        DataError: it finds nothing there to compare with.
    """
    validator = "" if spec.answers is None else spec.answers.validator
    pattern = pattern_of(validator) if validator.startswith(REGEX) else None
    if pattern is None or not pattern.groups:
        return
    for item in test.texts:
        if pattern.search(expected := prompt_and_answer(item)[1]) is None:
            raise unmatched_error(pattern.pattern, expected, "data.answers.validator")


def _check_prompts(rows: Rows) -> tuple[Sequence[str], list[bytes]]:
    """Return prompts with their completions, and the deduplication keys of the examples.

    Raises:
        DataError: a prompt or completion is missing, blank or not a text.
    """
    prompts, _ = check_texts(rows)
    completions, _ = check_texts(replace(rows, items=rows.labels, labels=[None] * len(rows)))
    items = stored_like((prompt_item(*pair) for pair in zip(prompts, completions, strict=True)), rows.items)
    return items, [_key(pair) for pair in zip(prompts, completions, strict=True)]


def _check_messages(rows: Rows) -> tuple[Sequence[str], list[bytes]]:
    """Return conversations, and their deduplication keys.

    Raises:
        DataError: an example is not a valid conversation.
    """
    faults = Faults()
    items = stored_like(_conversations(rows, faults), rows.items)
    faults.raise_all()
    return items, [
        _key(message[name] for message in json.loads(item) for name in ("role", "content")) for item in items
    ]


def _conversations(rows: Rows, faults: Faults) -> Iterator[str]:
    for index, value in enumerate(rows.items):
        with faults:
            yield messages_item(value, rows.location(index))


def _key(parts: Iterable[str]) -> bytes:
    """Return the deduplication key of an example with several texts, each normalized like a single text."""
    return hashlib.blake2b(b"".join(map(text_key, parts)), digest_size=16).digest()
