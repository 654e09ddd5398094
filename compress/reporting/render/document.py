"""Format-independent report content: sections of paragraphs, tables and plots, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.core.records import Role

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """One table cell: its text, a smaller second line, and its tone (good or bad news)."""

    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """One row of a table; the first cell is its name. `kind` styles it: a role, `deployed` or `failed`."""

    cells: tuple[Cell, ...]
    kind: str = ""


def row(*cells: str | Cell, kind: str = "") -> Row:
    """Build a row from texts and cells."""
    return Row(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells), kind)


@dataclass(frozen=True)
class Table:
    """A table; `text_columns` are the indices of columns with words instead of numbers (the first always has words)."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    text_columns: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Point:
    """A model in a plot, each coordinate as (value, low, high); `size` and `on_front` are for bubble plots."""

    label: str
    role: Role
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    size: float = 0.0
    on_front: bool = True


@dataclass(frozen=True)
class Scatter:
    """Scatter plot of models; those of the pipeline are connected in order. Smaller x and larger y are better."""

    x_label: str
    y_label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class BubblePlot(Scatter):
    """Bubble plot of models, with area proportional to size; those on the Pareto front are filled and connected."""


@dataclass(frozen=True)
class Change:
    """Change of a quantity by one step, from `before` to `after`, also in words; `is_significant` if it is
    significant."""

    label: str
    before: float
    after: float
    text: str
    is_significant: bool


@dataclass(frozen=True)
class Waterfall:
    """A quantity from the first model to the last. `ratio`: on a logarithmic axis, with changes as factors."""

    axis_label: str
    changes: tuple[Change, ...]
    larger_is_better: bool
    ratio: bool


@dataclass(frozen=True)
class TrainingCurve:
    """One training run: steps, losses, and validation scores, if there are any."""

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    score_steps: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class TrainingPlot:
    """Consecutive training runs of a step: stages, generations, or a single one."""

    curves: tuple[TrainingCurve, ...]
    score_label: str
    smaller_is_better: bool = False


@dataclass(frozen=True)
class Bar:
    """A non-negative value with its label; `marked` bars are highlighted."""

    label: str
    value: float
    marked: bool


@dataclass(frozen=True)
class BarPlot:
    """Bars on a logarithmic axis, in order; `marked` and `unmarked` describe the two kinds in words."""

    axis_label: str
    bars: tuple[Bar, ...]
    marked: str
    unmarked: str


Plot = Scatter | BubblePlot | Waterfall | TrainingPlot | BarPlot


@dataclass(frozen=True)
class Figure:
    """A plot with its caption and a text alternative."""

    plot: Plot
    caption: str
    alt: str


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    language: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading; `key` is its anchor in the page."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    code: Code | None = None

    @property
    def empty(self) -> bool:
        """Whether the section has no content."""
        return not (self.paragraphs or self.tables or self.figures or self.code)


def section_of(key: str, title: str, *tables: Table, paragraphs: tuple[str, ...] = ()) -> Section:
    """Build a section from the tables that have rows, with explanatory paragraphs; empty if no table has rows."""
    nonempty = tuple(table for table in tables if table.rows)
    return Section(key, title, paragraphs if nonempty else (), nonempty)


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
