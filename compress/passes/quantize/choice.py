"""The rule by which `scheme: auto` picks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 0.005
"""Half a point of the task's metric."""


@dataclass(frozen=True)
class Candidate:
    """One variant as measured on the validation split: score (a fraction) and median latency in ms."""

    score: float
    p50_ms: float


def choose(candidates: Mapping[str, Candidate]) -> str:
    """The fastest candidate whose score is within half a point of the best; the better score breaks a tie."""
    best = max(candidate.score for candidate in candidates.values())
    good = {name: one for name, one in candidates.items() if one.score >= best - TOLERANCE - 1e-12}
    return min(good, key=lambda name: (good[name].p50_ms, -good[name].score))
