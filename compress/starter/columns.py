"""Detect the text and label columns of a table by their names and contents. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.data.names import folded
from compress.data.texts import is_missing

_TEXTS = (
    "text", "sentence", "review", "content", "body", "message", "comment", "utterance", "question", "query", "tweet",
    "document", "description", "headline", "title",
)  # fmt: skip
_LABELS = (
    "label", "labels", "class", "category", "target", "intent", "sentiment", "topic", "emotion", "rating", "stars",
    "polarity", "tag", "y",
)  # fmt: skip
_SCORES = ("score", "similarity", "similarity_score")
_PROMPTS = ("prompt", "instruction", "question", "input", "query")
_COMPLETIONS = ("completion", "response", "answer", "output", "target")
_MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
_NEITHER = frozenset(
    ("id", "idx", "index", "uid", "guid", "url", "link", "date", "time", "timestamp", "user", "author", "source",
     "split", "fold", "set", "lang", "language")
)  # fmt: skip
_WORDS_OF_A_TEXT = 7
"""A column name has fewer words than this."""

_ROWS = 20
"""Rows of a column that are inspected for conversations."""

_FEW_OF = 5
"""Labels have at most one distinct value per this many rows."""


@dataclass(frozen=True)
class Chosen:
    """Detected columns of a table, by role; None if no column qualifies."""

    text: str | None = None
    label: str | None = None
    pair: tuple[str, str] | None = None
    score: str | None = None


@dataclass(frozen=True)
class ToWrite:
    """Detected columns of a table for training a language model; None if no column qualifies."""

    messages: str | None = None
    asked: tuple[str, str] | None = None
    text: str | None = None


def choose_to_write(table: Mapping[str, Sequence[object]]) -> ToWrite:
    """Detect conversations, else a prompt with its completion, else texts.

    Args:
        table: the first rows of each column.
    """
    names = {folded(name): name for name in table}
    for name in (*(names[one] for one in _MESSAGES if one in names), *table):
        if any(holds_messages(value) for value in table[name][:_ROWS]):
            return ToWrite(messages=name)
    prompt = next((names[one] for one in _PROMPTS if one in names), None)
    completion = next((names[one] for one in _COMPLETIONS if one in names), None)
    if prompt is not None and completion is not None:
        return ToWrite(asked=(prompt, completion))
    return ToWrite(text=choose_columns(table).text)


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
    rows: int
    distinct: int
    length: float
    words: bool
    fractions: bool

    @classmethod
    def of(cls, name: str, values: Sequence[object]) -> _Column:
        shown = [str(value).strip() for value in values if not is_missing(value)]
        filled = [value for value in shown if value]
        length = sum(map(len, filled)) / len(filled) if filled else 0.0
        numbers = [number for value in filled if (number := _number(value)) is not None]
        fractions = any(not number.is_integer() for number in numbers)
        words = len(numbers) < len(filled)
        return cls(name, len(filled), len(set(filled)), length, words, fractions and not words)

    @property
    def few(self) -> bool:
        """Whether the number of distinct values is typical of labels."""
        return 2 <= self.distinct <= max(2, self.rows // _FEW_OF) and not self.fractions


def choose_columns(table: Mapping[str, Sequence[object]]) -> Chosen:
    """Detect the columns of texts and labels, or of two texts and their similarity.

    The text column is one with a usual name, else the one with the longest strings. The label column is one with a
    usual name and few distinct values, else the one with the fewest.

    Args:
        table: the first rows of each column.
    """
    columns = [_Column.of(name, values) for name, values in table.items()]
    score = next((one.name for one in columns if folded(one.name) in _SCORES), None)
    texts = [one for one in columns if one.words and one.name != score and folded(one.name) not in _NEITHER]
    if score is not None and len(columns) == 3 and len(texts) == 2:
        return Chosen(pair=(texts[0].name, texts[1].name), score=score)
    text = _text(texts, alone=len(columns) == 1)
    label = _label([one for one in columns if one is not text])
    return Chosen(None if text is None else text.name, None if label is None else label.name)


def lacks_header(table: Mapping[str, Sequence[object]], chosen: Chosen) -> bool:
    """Whether the first line looks like data rather than a header: a column is named like a label, or like a text."""
    label = chosen.label
    if label is not None:
        values = {folded(str(value).strip()) for value in table[label]}
        if folded(label) in values:
            return True
    text = chosen.text
    return text is not None and len(text.split()) >= _WORDS_OF_A_TEXT


def _text(columns: Sequence[_Column], *, alone: bool) -> _Column | None:
    # A column that looks like labels by name and values is not the text, however long its values, if there is another.
    likely = [one for one in columns if not (one.few and _rank(one.name, _LABELS) < len(_LABELS))] or columns
    if not likely:
        return None
    longest = max(likely, key=lambda one: one.length)
    named = [
        one for one in likely if one.length * 4 >= longest.length and _rank(one.name, _TEXTS) < len(_TEXTS)
    ]
    return min(named, key=lambda one: _rank(one.name, _TEXTS)) if named else longest


def _label(columns: Sequence[_Column]) -> _Column | None:
    named = [one for one in columns if _rank(one.name, _LABELS) < len(_LABELS) and not one.fractions]
    fitting = [one for one in named if one.few] or [one for one in named if one.distinct <= 2]
    if fitting:
        return min(fitting, key=lambda one: _rank(one.name, _LABELS))
    few = [one for one in columns if one.few and folded(one.name) not in _NEITHER]
    return min(few, key=lambda one: one.distinct, default=None)


def _rank(name: str, usual: Sequence[str]) -> int:
    """Return the rank of a name among the usual ones.

    Negative if it equals one, else the index of one that is a part of the name, or `len(usual)` if none is.
    """
    plain = folded(name)
    if plain in usual:
        return usual.index(plain) - len(usual)
    parts = plain.replace("-", "_").replace(" ", "_").split("_")
    return next((place for place, one in enumerate(usual) if one in parts), len(usual))


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
