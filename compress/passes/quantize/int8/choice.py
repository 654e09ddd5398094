"""The rule by which `scheme: auto` picks."""

from __future__ import annotations

from collections.abc import Mapping

from compress.core.task_kind import MetricKind
from compress.measuring.variants import Variant

TOLERANCE = 0.005
"""Lost of the task's metric: half a point."""
EQUALLY_FAST = 1.05
"""Latencies less than 5 % apart are the same: the machine's noise must not choose."""


def choose(candidates: Mapping[str, Variant], metric: MetricKind) -> str:
    """The fastest of the variants, as measured on the validation split, whose score is within half a point (half a
    percent, where scores are `relative`) of the best.

    Among those as fast as it the better score wins, then the one named first.
    """
    best = max(candidate.score for candidate in candidates.values())
    good = {
        name: one for name, one in candidates.items() if metric.lost(best, one.score) <= TOLERANCE + 1e-12
    }
    fastest = min(one.p50_ms for one in good.values())
    fast = {name: one for name, one in good.items() if one.p50_ms <= fastest * EQUALLY_FAST}
    return max(fast, key=lambda name: fast[name].score)
