"""Interference of other processes with timings: which rounds count, and whether a timing is reliable.

The kernel counts how long each thread waited for a core (`runner.CoreWaits`). Rounds in which threads waited are left
out; if there are too many of them, even after repeating them, the timing is disturbed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Disturbance
from compress.measuring.protocol import STOLEN
from compress.runtimes import runner

Result = Mapping[str, Any]
"""Result of a latency job of the runner."""


def is_disturbed(result: Result, scenario: int) -> bool:
    """Whether a process of a timing had too few undisturbed rounds or too much stolen time; False if unknown."""
    timed = result["scenarios"][scenario]
    clean = _clean(timed)
    if clean is None:
        return False
    few = int(clean.sum(axis=1).min()) < (1 - runner.TOLERATED) * timed["wanted"]
    return few or (_of_machine(timed, "stolen") or 0.0) > STOLEN


def chosen_while_disturbed(what: str, place: str) -> str:
    """Return the warning of a pass that chose by a disturbed timing."""
    return (
        f"{what}: other processes kept the cores of {place} busy while it timed its candidates; on a quiet machine "
        "it may choose differently"
    )


def any_disturbed(results: Sequence[Result]) -> bool:
    """Whether any process was disturbed in any scenario."""
    return any(is_disturbed(each, number) for each in results for number in range(len(each["scenarios"])))


def counted(result: Result, scenario: int, models: Sequence[int]) -> NDArray[np.bool_]:
    """Return the mask of rounds in which none of `models` was disturbed; all rounds if the timing is disturbed, nothing
    is known, or there are no such rounds."""
    timed = result["scenarios"][scenario]
    clean = _clean(timed)
    if clean is None or is_disturbed(result, scenario):
        return np.ones(len(timed["samples_ns"][models[0]]), np.bool_)
    chosen = np.asarray(clean[list(models)].all(axis=0), np.bool_)
    # Each model has enough undisturbed rounds, but possibly none in common.
    return chosen if chosen.any() else np.ones_like(chosen)


def disturbance(results: Sequence[Result], scenario: int) -> Disturbance:
    """Build the record for a pair of models, baseline first, over the processes that shared its timing."""
    timed = [result["scenarios"][scenario] for result in results]
    known = all(one.get("waited_ns") is not None for one in timed)
    shares: list[float | None] = [None, None]
    if known:
        shares = [_waited_share(timed, model) for model in range(2)]
    rounds = sum(len(one["samples_ns"][0]) for one in timed)
    left_out = sum(int((~clean.all(axis=0)).sum()) for one in timed if (clean := _clean(one)) is not None)
    switches = [count for one in timed if (count := _of_machine(one, "switches")) is not None]
    return Disturbance(
        disturbed=any(is_disturbed(result, scenario) for result in results) if known else None,
        told_by=timed[0]["waited_by"] if known else "unknown",
        baseline_waited=shares[0],
        waited=shares[1],
        rounds=rounds,
        disturbed_rounds=left_out if known else None,
        pressure=_mean(timed, "pressure"),
        stolen=_mean(timed, "stolen"),
        switches=sum(switches) / rounds if len(switches) == len(timed) else None,
        patient_s=sum(one.get("patient_s", 0.0) for one in timed),
    )


def _clean(timed: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return the mask of undisturbed timings (models, rounds); None if unknown."""
    if timed.get("waited_ns") is None:
        return None
    clean: NDArray[np.bool_] = runner.clean_rounds(timed["samples_ns"], timed["waited_ns"])
    return clean


def _waited_share(timed: Sequence[Mapping[str, Any]], model: int) -> float:
    waited, spent = (sum(sum(one[key][model]) for one in timed) for key in ("waited_ns", "samples_ns"))
    return waited / spent


def _mean(timed: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a machine-wide value over all processes; None if one of them lacks it."""
    found = [value for one in timed if (value := _of_machine(one, name)) is not None]
    return sum(found) / len(found) if len(found) == len(timed) else None


def _of_machine(timed: Mapping[str, Any], name: str) -> float | None:
    found: float | None = (timed.get("machine") or {}).get(name)
    return found
