"""Format scores: the metric's name in words; values as percentages or plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from compress.reporting.render.numbers import (
    MISSING,
    format_range,
    known,
    percent,
    percent_range,
    points,
    signed,
)
from compress.tasks.table import TASKS, metric_kind, quantities_of, task_kind

_DECIMALS = 3


@dataclass(frozen=True)
class MetricFormat:
    """Format of a metric: fractions as percentages, other values with three decimals."""

    words: str
    percent: bool
    test: str
    smaller_is_better: bool = False

    @property
    def title(self) -> str:
        """The metric's name at the start of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def factor(self) -> int:
        """Factor that values are multiplied by on an axis."""
        return 100 if self.percent else 1

    @property
    def axis_label(self) -> str:
        """Axis label for values."""
        return f"{self.words}, %" if self.percent else self.words

    @property
    def change_label(self) -> str:
        """Label of an axis or column for differences of values."""
        return f"{self.words}, points" if self.percent else self.words

    def from_rank(self, rank: float | None) -> float | None:
        """Return the value of a validation score, which passes record negated if smaller is better."""
        return None if rank is None else -rank if self.smaller_is_better else rank

    def value(self, value: float | None) -> str:
        """Format a value: 0.9412 -> `94.1 %`, or `0.941`."""
        if self.percent:
            return percent(value)
        return _plain(value) if known(value) else MISSING

    def range(self, low: float | None, high: float | None) -> str:
        """Format an interval: `92.1–95.7 %`, or `0.921–0.957`; empty if an end is missing."""
        return percent_range(low, high) if self.percent else format_range(low, high, _plain)

    def change(self, difference: float | None) -> str:
        """Format a difference of two values: -0.0123 -> `−1.2` points, or `−0.012`."""
        if self.percent:
            return points(difference)
        return signed(difference, _DECIMALS) if known(difference) else MISSING

    def on_axis(self, value: float) -> str:
        """Format a value that was multiplied by `factor`, without its unit: 94.12 -> `94.1`, 0.9412 -> `0.941`."""
        return f"{value:.1f}" if self.percent else _plain(value)


def metric_format(metric: str) -> MetricFormat:
    """Return the format of a metric, by its name in records."""
    kind = metric_kind(metric)
    return MetricFormat(kind.display_name, kind.percent, kind.test, kind.smaller_is_better)


def examples_noun(task: str) -> str:
    """Return the plural noun for a task's examples."""
    return f"{task_kind(task).items}s" if task in TASKS else "examples"


def throughput_title(task: str) -> str:
    """Return the column title of the throughput.

    If a task declares quantities of its own, a row of a batch may be a token instead of an example.
    """
    return "rows/s" if quantities_of(task) else "examples/s"


def _plain(value: float) -> str:
    return f"{value:.{_DECIMALS}f}".replace("-", "−")
