"""Detect the text and label columns of a table by their names and contents. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.data.names import fold_name
from compress.data.texts import is_missing

_TEXT_NAMES = (
    "text", "sentence", "review", "content", "body", "message", "comment", "utterance", "question", "query", "tweet",
    "document", "description", "headline", "title",
)  # fmt: skip
_LABEL_NAMES = (
    "label", "labels", "class", "category", "target", "intent", "sentiment", "topic", "emotion", "rating", "stars",
    "polarity", "tag", "y",
)  # fmt: skip
_SCORE_NAMES = ("score", "similarity", "similarity_score")
_PROMPT_NAMES = ("prompt", "instruction", "question", "input", "query")
_COMPLETION_NAMES = ("completion", "response", "answer", "output", "target")
_MESSAGE_NAMES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
_METADATA_NAMES = frozenset(
    ("id", "idx", "index", "uid", "guid", "url", "link", "date", "time", "timestamp", "user", "author", "source",
     "split", "fold", "set", "lang", "language")
)  # fmt: skip
_MIN_TEXT_WORDS = 7
"""A column name has fewer words than this."""

_INSPECTED_ROWS = 20
"""Rows of a column that are inspected for conversations."""

_ROWS_PER_LABEL = 5
"""Labels have at most one distinct value per this many rows."""


@dataclass(frozen=True)
class TextColumns:
    """Detected columns of a table, by role; None if no column qualifies."""

    text: str | None = None
    label: str | None = None
    pair: tuple[str, str] | None = None
    score: str | None = None


@dataclass(frozen=True)
class LanguageColumns:
    """Detected columns of a table for training a language model; None if no column qualifies."""

    messages: str | None = None
    prompted: tuple[str, str] | None = None
    text: str | None = None


def choose_language_columns(table: Mapping[str, Sequence[object]]) -> LanguageColumns:
    """Detect conversations, else a prompt with its completion, else texts.

    Args:
        table: the first rows of each column.
    """
    by_folded_name = {fold_name(name): name for name in table}
    for name in (*(by_folded_name[one] for one in _MESSAGE_NAMES if one in by_folded_name), *table):
        if any(holds_messages(value) for value in table[name][:_INSPECTED_ROWS]):
            return LanguageColumns(messages=name)
    prompt = next((by_folded_name[one] for one in _PROMPT_NAMES if one in by_folded_name), None)
    completion = next((by_folded_name[one] for one in _COMPLETION_NAMES if one in by_folded_name), None)
    if prompt is not None and completion is not None:
        return LanguageColumns(prompted=(prompt, completion))
    return LanguageColumns(text=choose_columns(table).text)


def holds_messages(value: object) -> bool:
    """Whether a value is a conversation, as a list of messages or as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


@dataclass(frozen=True)
class _Column:
    """Statistics of the first rows of a column."""

    name: str
    num_rows: int
    num_distinct: int
    mean_length: float
    is_text: bool
    has_fractions: bool

    @classmethod
    def of(cls, name: str, values: Sequence[object]) -> _Column:
        texts = [str(value).strip() for value in values if not is_missing(value)]
        non_blank = [value for value in texts if value]
        length = sum(map(len, non_blank)) / len(non_blank) if non_blank else 0.0
        numbers = [number for value in non_blank if (number := _to_float(value)) is not None]
        has_fractions = any(not number.is_integer() for number in numbers)
        is_text = len(numbers) < len(non_blank)
        return cls(name, len(non_blank), len(set(non_blank)), length, is_text, has_fractions and not is_text)

    @property
    def is_categorical(self) -> bool:
        """Whether the number of distinct values is typical of labels."""
        return 2 <= self.num_distinct <= max(2, self.num_rows // _ROWS_PER_LABEL) and not self.has_fractions


def choose_columns(table: Mapping[str, Sequence[object]]) -> TextColumns:
    """Detect the columns of texts and labels, or of two texts and their similarity.

    The text column is one with a usual name, else the one with the longest strings. The label column is one with a
    usual name and few distinct values, else the one with the fewest.

    Args:
        table: the first rows of each column.
    """
    columns = [_Column.of(name, values) for name, values in table.items()]
    score = next((one.name for one in columns if fold_name(one.name) in _SCORE_NAMES), None)
    texts = [
        one
        for one in columns
        if one.is_text and one.name != score and fold_name(one.name) not in _METADATA_NAMES
    ]
    if score is not None and len(columns) == 3 and len(texts) == 2:
        return TextColumns(pair=(texts[0].name, texts[1].name), score=score)
    text = _text_column(texts)
    label = _label_column([one for one in columns if one is not text])
    return TextColumns(None if text is None else text.name, None if label is None else label.name)


def lacks_header(table: Mapping[str, Sequence[object]], columns: TextColumns) -> bool:
    """Whether the first line looks like data rather than a header: a column is named like a label, or like a text."""
    label = columns.label
    if label is not None:
        values = {fold_name(str(value).strip()) for value in table[label]}
        if fold_name(label) in values:
            return True
    text = columns.text
    return text is not None and len(text.split()) >= _MIN_TEXT_WORDS


def _text_column(columns: Sequence[_Column]) -> _Column | None:
    # A column that looks like labels by name and values is not the text, however long its values, if there is another.
    candidates = [
        one
        for one in columns
        if not (one.is_categorical and _name_rank(one.name, _LABEL_NAMES) < len(_LABEL_NAMES))
    ] or columns
    if not candidates:
        return None
    longest = max(candidates, key=lambda one: one.mean_length)
    well_named = [
        one
        for one in candidates
        if one.mean_length * 4 >= longest.mean_length and _name_rank(one.name, _TEXT_NAMES) < len(_TEXT_NAMES)
    ]
    return min(well_named, key=lambda one: _name_rank(one.name, _TEXT_NAMES)) if well_named else longest


def _label_column(columns: Sequence[_Column]) -> _Column | None:
    well_named = [
        one
        for one in columns
        if _name_rank(one.name, _LABEL_NAMES) < len(_LABEL_NAMES) and not one.has_fractions
    ]
    matches = [one for one in well_named if one.is_categorical] or [
        one for one in well_named if one.num_distinct <= 2
    ]
    if matches:
        return min(matches, key=lambda one: _name_rank(one.name, _LABEL_NAMES))
    categorical = [
        one for one in columns if one.is_categorical and fold_name(one.name) not in _METADATA_NAMES
    ]
    return min(categorical, key=lambda one: one.num_distinct, default=None)


def _name_rank(name: str, known_names: Sequence[str]) -> int:
    """Return the rank of a name among the usual ones.

    Negative if it equals one, else the index of one that is a part of the name, or `len(known_names)` if none is.
    """
    folded_name = fold_name(name)
    if folded_name in known_names:
        return known_names.index(folded_name) - len(known_names)
    parts = folded_name.replace("-", "_").replace(" ", "_").split("_")
    return next((index for index, one in enumerate(known_names) if one in parts), len(known_names))


def _to_float(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
