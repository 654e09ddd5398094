"""Selection rule of `scheme: auto`."""

from __future__ import annotations

from collections.abc import Mapping

from compress.core.task_kind import MetricKind
from compress.measuring.variants import Variant

TOLERANCE = 0.005
"""Maximum loss of the task's metric: half a point."""
EQUALLY_FAST = 1.05
"""Latencies less than 5 % apart count as equal, so that measurement noise does not decide."""


def choose(candidates: Mapping[str, Variant], metric: MetricKind) -> str:
    """Return the fastest variant whose validation score is close to the best.

    Close is within half a point, or half a percent if scores are `relative`.

    Among equally fast ones the better score wins, then the first in order.
    """
    best = max(candidate.score for candidate in candidates.values())
    good = {
        name: one for name, one in candidates.items() if metric.lost(best, one.score) <= TOLERANCE + 1e-12
    }
    fastest = min(one.p50_ms for one in good.values())
    fast = {name: one for name, one in good.items() if one.p50_ms <= fastest * EQUALLY_FAST}
    return max(fast, key=lambda name: fast[name].score)
