"""Constants of the measurement protocol. Raise `PROTOCOL_VERSION` with any change, so that caches are invalidated."""

from __future__ import annotations

PROTOCOL_VERSION = 3
"""Part of every measurement key; raise it when anything about measuring changes."""

CONFIDENCE = 0.95
"""Confidence level of all intervals."""
RESAMPLES = 2000
"""Bootstrap resamples."""
SIGNIFICANCE = 0.05
"""Significance level: a difference is reported if the p value of the paired test is below this."""
LATENCY_PROCESSES = {"onnxruntime": 4, "torch": 2}
"""Number of processes that share the time of a latency measurement. The memory placement of the weights makes one of
two equal models faster for the lifetime of a process; several processes average this out. Starting torch takes seconds,
so it gets fewer."""
SPEED_RESOLUTION = 0.03
"""Ratios of latencies closer to 1 than this count as no difference, whatever their interval."""
MAX_STOLEN_SHARE = 0.05
"""Share of a core taken by the hypervisor above which a timing counts as disturbed."""
RANK_TOLERANCE = 0.001
"""Rank correlations with the baseline's similarities whose interval comes this close to 1 count as no difference, since
floating-point rounding alone causes as much."""
MAX_INTERVAL_PAIRS = 100_000
"""Maximum number of text pairs that the interval of such a correlation is bootstrapped from."""
PAIR_RESAMPLES = 1000
"""Bootstrap resamples for such a correlation; each ranks all pairs again."""
