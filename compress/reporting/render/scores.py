"""How scores read: a metric's name in words; percentages, or values as they are."""

from __future__ import annotations

from dataclasses import dataclass

from compress.reporting.render.numbers import MISSING, known, percent, percent_range, points, signed, span
from compress.tasks.table import TASKS, metric_kind, quantities_of, task_kind

_DECIMALS = 3


@dataclass(frozen=True)
class Reading:
    """How the values of one metric are written: shares as percentages, others with three decimals."""

    words: str
    percent: bool
    test: str
    smaller_is_better: bool = False

    @property
    def title(self) -> str:
        """The words at the start of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def factor(self) -> int:
        """What values are multiplied by on an axis."""
        return 100 if self.percent else 1

    @property
    def axis(self) -> str:
        """Label of an axis with values."""
        return f"{self.words}, %" if self.percent else self.words

    @property
    def change_axis(self) -> str:
        """Label of an axis or column with differences of values."""
        return f"{self.words}, points" if self.percent else self.words

    def measured(self, rank: float | None) -> float | None:
        """The value of a validation score, which passes note so that larger is better."""
        return None if rank is None else -rank if self.smaller_is_better else rank

    def value(self, value: float | None) -> str:
        """A value: 0.9412 -> `94.1 %`, or `0.941`."""
        if self.percent:
            return percent(value)
        return _plain(value) if known(value) else MISSING

    def range(self, low: float | None, high: float | None) -> str:
        """An interval: `92.1–95.7 %`, or `0.921–0.957`; empty where there is none."""
        return percent_range(low, high) if self.percent else span(low, high, _plain)

    def change(self, difference: float | None) -> str:
        """A difference of two values: -0.0123 -> `−1.2` points, or `−0.012`."""
        if self.percent:
            return points(difference)
        return signed(difference, _DECIMALS) if known(difference) else MISSING

    def on_axis(self, value: float) -> str:
        """A value that was multiplied by `factor`, without its unit: 94.12 -> `94.1`, 0.9412 -> `0.941`."""
        return f"{value:.1f}" if self.percent else _plain(value)


def reading(metric: str) -> Reading:
    """How a metric reads, by the name that records have for it."""
    kind = metric_kind(metric)
    return Reading(kind.words, kind.percent, kind.test, kind.smaller_is_better)


def examples_word(task: str) -> str:
    """What the examples of a task are."""
    return f"{task_kind(task).items}s" if task in TASKS else "examples"


def rate_words(task: str) -> str:
    """What a timing makes a second, as columns call it: where a task says itself what is timed, a row of a batch may be
    no example, but a token."""
    return "rows/s" if quantities_of(task) else "examples/s"


def _plain(value: float) -> str:
    return f"{value:.{_DECIMALS}f}".replace("-", "−")
