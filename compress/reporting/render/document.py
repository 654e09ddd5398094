"""A report before it is HTML or Markdown: sections of paragraphs, tables and plots, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.core.records import Role

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller second line, and whether it is good or bad news."""

    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """One row of a table; the first cell names it. `kind` marks it: a role, `deployed` or `failed`."""

    cells: tuple[Cell, ...]
    kind: str = ""


def row(*cells: str | Cell, kind: str = "") -> Row:
    """A row from texts and cells."""
    return Row(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells), kind)


@dataclass(frozen=True)
class Table:
    """A table; `text_columns` are the indices of columns that hold words, not numbers (the first always does)."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    text_columns: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Point:
    """A model in a plane, each coordinate with its interval; `size` and `on_front` where its bubble shows them."""

    label: str
    role: Role
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    size: float = 0.0
    on_front: bool = True


@dataclass(frozen=True)
class Scatter:
    """Models in a plane; those of the pipeline are joined in order. x is better the smaller, y the larger."""

    x_label: str
    y_label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Plane(Scatter):
    """Models as bubbles, their area that of their size; those on the Pareto front are filled and joined."""


@dataclass(frozen=True)
class Change:
    """What one step made of a quantity: from `before` to `after`, in words, and whether the data can tell the two."""

    label: str
    before: float
    after: float
    text: str
    differs: bool


@dataclass(frozen=True)
class Waterfall:
    """A quantity from the first model to the last. `ratio`: shown on a logarithmic axis, as factors."""

    axis_label: str
    changes: tuple[Change, ...]
    larger_is_better: bool
    ratio: bool


@dataclass(frozen=True)
class Course:
    """One training run: steps, losses, and the validation scores where there are any."""

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    score_steps: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Training:
    """The training runs of a step, one behind another: stages, generations, or the only one."""

    courses: tuple[Course, ...]
    score_label: str
    smaller_is_better: bool = False


@dataclass(frozen=True)
class Bar:
    """A quantity, at least 0, of what `label` names; `marked` ones are told apart."""

    label: str
    value: float
    marked: bool


@dataclass(frozen=True)
class Bars:
    """Quantities on a logarithmic axis, in their order; `marked` and `unmarked` say in words what the two kinds are."""

    axis_label: str
    bars: tuple[Bar, ...]
    marked: str
    unmarked: str


Plot = Scatter | Plane | Waterfall | Training | Bars


@dataclass(frozen=True)
class Figure:
    """A plot with its caption and what it shows in words, for whoever cannot see it."""

    plot: Plot
    caption: str
    alt: str


@dataclass(frozen=True)
class Code:
    """Text to show as it is."""

    language: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading; `key` names its place in the page."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    code: Code | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.paragraphs or self.tables or self.figures or self.code)


def section_of(key: str, title: str, *tables: Table, words: tuple[str, ...] = ()) -> Section:
    """A section of the tables that have rows, with words that explain them; empty where none has."""
    full = tuple(table for table in tables if table.rows)
    return Section(key, title, words if full else (), full)


@dataclass(frozen=True)
class Tile:
    """One headline number: `63.1×`, `smaller`, `1.44 MB instead of 90.9 MB`."""

    value: str
    label: str
    detail: str
    tone: Tone = ""


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    subtitle: str
    status: str
    tone: Tone
    verdicts: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
