"""How this package measures. Change a number here and every cached measurement is out of date."""

from __future__ import annotations

PROTOCOL_VERSION = 3
"""Part of every measurement key; raise it when anything about measuring changes."""

CONFIDENCE = 0.95
"""Of all intervals."""
RESAMPLES = 2000
"""Bootstrap resamples."""
SIGNIFICANCE = 0.05
"""Two models' predictions differ when the exact McNemar test's p value is below this."""
LATENCY_PROCESSES = {"onnxruntime": 4, "torch": 2}
"""Processes that share the time of a latency measurement. Where a process puts its weights in memory makes one
of two equal models faster in that process, for as long as it lives; the next process draws again. Starting torch
costs seconds, so it gets fewer."""
RESOLUTION = 0.03
"""A ratio of latencies nearer to 1 than this is no difference, whatever its interval says."""
STOLEN = 0.05
"""A hypervisor that takes more than this share of a core while something is timed disturbs it."""
SAME_ORDER = 0.001
"""A rank correlation with the baseline's similarities whose interval comes this near to 1 is no difference: float
arithmetic alone moves it."""
INTERVAL_PAIRS = 100_000
"""Pairs of texts that the interval of such a correlation is drawn from, at most."""
PAIR_RESAMPLES = 1000
"""Bootstrap resamples of it, each of which ranks all those pairs again."""
