"""The rows and the bars of versus_peers.py, as functions of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.measuring.statistics import Interval, bootstrap_medians, mean_interval
from compress.measuring.timing.latency import speed_verdict

OURS = "compress"
DEFAULT = "INT8, default"
MOST_DROPPED, SMALLER, FASTER = 0.15, 3.9, 3.2
_KINDS = ("FP32", "INT8", "INT4")


@dataclass(frozen=True)
class Found:
    """What was measured of a file: right answers (examples,), its size, milliseconds of the rounds of each process."""

    hits: NDArray[np.bool_]
    mb: float
    ms: Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class Entry:
    """A tool in one setting: the file that it made, if it made one, and what was measured of it."""

    tool: str
    setting: str
    file: Path | None
    note: str = ""
    found: Found | None = None

    @property
    def kind(self) -> str:
        """FP32, INT8 or INT4; INT8 where the tool never came to a setting."""
        return next((kind for kind in _KINDS if self.setting.startswith(kind)), "INT8")


@dataclass(frozen=True)
class Bar:
    """What must be reached, with what was, and whether it was."""

    text: str
    held: bool


def points(one: Found, other: Found) -> Interval:
    """Points of accuracy that the second has more than the first, with the interval of the paired bootstrap."""
    gain = mean_interval(100 * (other.hits.astype(np.float64) - one.hits.astype(np.float64)), seed=0)
    return Interval(gain.value, gain.low, gain.high)


def times_faster(one: Found, other: Found) -> Interval:
    """How many times the second is faster than the first, by medians of the rounds that they were timed in together."""
    return bootstrap_medians(one.ms, other.ms, seed=0)[1]


def table_row(model: str, entry: Entry, baseline: Found) -> dict[str, Any]:
    """A row of the table; that of what failed holds its reason."""
    row: dict[str, Any] = {"model": model, "tool": entry.tool, "setting": entry.setting}
    found = entry.found
    if found is not None:
        change, faster = points(baseline, found), times_faster(baseline, found)
        row |= {
            "accuracy": round(float(found.hits.mean()), 4),
            "change, points": round(change.value, 2),
            "95 % of it": f"{change.low:.2f} .. {change.high:.2f}",
            "MB": round(found.mb, 2),
            "times smaller": round(baseline.mb / found.mb, 2),
            "p50, ms": round(float(np.median(np.concatenate(list(found.ms)))), 3),
            "times faster": round(faster.value, 2),
            "95 % of that": f"{faster.low:.2f} .. {faster.high:.2f}",
        }
    return row | {"note": entry.note}


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """FP32 before INT8 before INT4; in each the fastest first, and last what failed."""

    def place(entry: Entry) -> tuple[int, float]:
        slowness = np.inf if entry.found is None else float(np.median(np.concatenate(list(entry.found.ms))))
        return _KINDS.index(entry.kind), slowness

    return sorted(entries, key=place)


def bars(entries: Sequence[Entry], baseline: Found) -> list[Bar]:
    """What our default in 8 bits must reach on a model: by itself, and beside the best of the peers.

    The fastest peer and the most accurate one may be two: it must be no slower than the one, and no less accurate than
    the other, as far as the intervals tell.
    """
    ours = next(entry.found for entry in entries if (entry.tool, entry.setting) == (OURS, DEFAULT))
    if ours is None:
        return [Bar(f"{DEFAULT} makes a file", held=False)]
    change, smaller, faster = points(baseline, ours), baseline.mb / ours.mb, times_faster(baseline, ours)
    made = [
        Bar(
            f"loses {-change.value:.2f} points; at most {MOST_DROPPED}", -change.value <= MOST_DROPPED + 1e-9
        ),
        Bar(f"{smaller:.2f} times smaller; at least {SMALLER}", smaller >= SMALLER),
        Bar(f"{faster.value:.2f} times faster; at least {FASTER}", faster.value >= FASTER),
    ]
    rivals = [
        (entry, entry.found)
        for entry in entries
        if entry.kind == "INT8" and entry.tool != OURS and entry.found is not None
    ]
    if rivals:
        entry, fastest = max(rivals, key=lambda rival: times_faster(baseline, rival[1]).value)
        ratio = times_faster(fastest, ours)
        made.append(
            Bar(
                f"no slower than the fastest peer ({entry.tool}, {entry.setting}): {ratio.value:.2f} times as fast, "
                f"{ratio.low:.2f} .. {ratio.high:.2f}",
                speed_verdict(ratio) != "slower",
            )
        )
        entry, best = max(rivals, key=lambda rival: float(rival[1].hits.mean()))
        gain = points(best, ours)
        made.append(
            Bar(
                f"no less accurate than the most accurate peer ({entry.tool}, {entry.setting}): "
                f"{gain.value:+.2f} points, {gain.low:.2f} .. {gain.high:.2f}",
                gain.high >= 0,
            )
        )
    return made
