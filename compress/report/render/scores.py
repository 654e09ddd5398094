"""How scores read: a metric's name in words; percentages, or correlations as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.report.render.numbers import MISSING, percent, percent_range, points, signed

_WORDS = {"spearman": "Spearman correlation", "macro_f1": "macro F1", "recall_at_10": "recall@10"}
_CORRELATIONS = frozenset({"spearman"})
_DECIMALS = 3


@dataclass(frozen=True)
class Reading:
    """How the values of one metric are written: fractions as percentages, correlations with three decimals."""

    words: str
    is_correlation: bool

    @property
    def title(self) -> str:
        """The words at the start of a sentence."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def factor(self) -> int:
        """What values are multiplied by on an axis."""
        return 1 if self.is_correlation else 100

    @property
    def axis(self) -> str:
        """Label of an axis with values."""
        return self.words if self.is_correlation else f"{self.words}, %"

    @property
    def change_axis(self) -> str:
        """Label of an axis or column with differences of values."""
        return self.words if self.is_correlation else f"{self.words}, points"

    def value(self, value: float | None) -> str:
        """A value: 0.9412 -> `94.1 %`, or `0.941`."""
        if not self.is_correlation:
            return percent(value)
        return MISSING if value is None or not math.isfinite(value) else _plain(value)

    def range(self, low: float | None, high: float | None) -> str:
        """An interval: `92.1–95.7 %`, or `0.921–0.957`; empty where there is none."""
        if not self.is_correlation:
            return percent_range(low, high)
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
            return ""
        return f"{_plain(low)}–{_plain(high)}"

    def change(self, difference: float | None) -> str:
        """A difference of two values: -0.0123 -> `−1.2` points, or `−0.012`."""
        if not self.is_correlation:
            return points(difference)
        return (
            MISSING if difference is None or not math.isfinite(difference) else signed(difference, _DECIMALS)
        )

    def on_axis(self, value: float) -> str:
        """A value that was multiplied by `factor`, without its unit: 94.12 -> `94.1`, 0.9412 -> `0.941`."""
        return _plain(value) if self.is_correlation else f"{value:.1f}"


def reading(metric: str) -> Reading:
    """How a metric reads, by the name that records have for it."""
    return Reading(_WORDS.get(metric, metric), metric in _CORRELATIONS)


def examples_word(task: str) -> str:
    """What the examples of a task are."""
    return "images" if task == "image-classification" else "texts"


def _plain(value: float) -> str:
    return f"{value:.{_DECIMALS}f}".replace("-", "−")
