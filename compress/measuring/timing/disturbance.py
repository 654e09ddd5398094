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
from compress.measuring.protocol import MAX_STOLEN_SHARE
from compress.runtimes import runner

LatencyResult = Mapping[str, Any]
"""Result of a latency job of the runner."""


def is_disturbed(result: LatencyResult, scenario: int) -> bool:
    """Whether a process of a timing had too few undisturbed rounds or too much stolen time; False if unknown."""
    scenario_result = result["scenarios"][scenario]
    undisturbed = _undisturbed_mask(scenario_result)
    if undisturbed is None:
        return False
    too_few_rounds = (
        int(undisturbed.sum(axis=1).min()) < (1 - runner.TOLERATED_SHARE) * scenario_result["wanted"]
    )
    return too_few_rounds or (_machine_value(scenario_result, "stolen") or 0.0) > MAX_STOLEN_SHARE


def disturbed_choice_warning(pass_name: str, machine: str) -> str:
    """Return the warning of a pass that chose by a disturbed timing."""
    return (
        f"{pass_name}: other processes kept the cores of {machine} busy while it timed its candidates; on a "
        "quiet machine "
        "it may choose differently"
    )


def any_disturbed(results: Sequence[LatencyResult]) -> bool:
    """Whether any process was disturbed in any scenario."""
    return any(is_disturbed(each, number) for each in results for number in range(len(each["scenarios"])))


def counted_rounds(result: LatencyResult, scenario: int, models: Sequence[int]) -> NDArray[np.bool_]:
    """Return the mask of rounds in which none of `models` was disturbed; all rounds if the timing is disturbed, nothing
    is known, or there are no such rounds."""
    scenario_result = result["scenarios"][scenario]
    undisturbed = _undisturbed_mask(scenario_result)
    if undisturbed is None or is_disturbed(result, scenario):
        return np.ones(len(scenario_result["samples_ns"][models[0]]), np.bool_)
    mask = np.asarray(undisturbed[list(models)].all(axis=0), np.bool_)
    # Each model has enough undisturbed rounds, but possibly none in common.
    return mask if mask.any() else np.ones_like(mask)


def disturbance(results: Sequence[LatencyResult], scenario: int) -> Disturbance:
    """Build the record for a pair of models, baseline first, over the processes that shared its timing."""
    scenario_results = [result["scenarios"][scenario] for result in results]
    known = all(scenario_result.get("waited_ns") is not None for scenario_result in scenario_results)
    shares: list[float | None] = [None, None]
    if known:
        shares = [_waited_share(scenario_results, model) for model in range(2)]
    rounds = sum(len(scenario_result["samples_ns"][0]) for scenario_result in scenario_results)
    num_disturbed = sum(
        int((~clean.all(axis=0)).sum())
        for scenario_result in scenario_results
        if (clean := _undisturbed_mask(scenario_result)) is not None
    )
    switches = [
        count
        for scenario_result in scenario_results
        if (count := _machine_value(scenario_result, "switches")) is not None
    ]
    return Disturbance(
        disturbed=any(is_disturbed(result, scenario) for result in results) if known else None,
        told_by=scenario_results[0]["waited_by"] if known else "unknown",
        baseline_waited=shares[0],
        waited=shares[1],
        rounds=rounds,
        disturbed_rounds=num_disturbed if known else None,
        pressure=_machine_mean(scenario_results, "pressure"),
        stolen=_machine_mean(scenario_results, "stolen"),
        switches=sum(switches) / rounds if len(switches) == len(scenario_results) else None,
        patient_s=sum(scenario_result.get("patient_s", 0.0) for scenario_result in scenario_results),
    )


def _undisturbed_mask(scenario_result: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return the mask of undisturbed timings (models, rounds); None if unknown."""
    if scenario_result.get("waited_ns") is None:
        return None
    undisturbed: NDArray[np.bool_] = runner.clean_rounds(
        scenario_result["samples_ns"], scenario_result["waited_ns"]
    )
    return undisturbed


def _waited_share(scenario_results: Sequence[Mapping[str, Any]], model: int) -> float:
    waited, spent = (
        sum(sum(one[key][model]) for one in scenario_results) for key in ("waited_ns", "samples_ns")
    )
    return waited / spent


def _machine_mean(scenario_results: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a machine-wide value over all processes; None if one of them lacks it."""
    values = [value for one in scenario_results if (value := _machine_value(one, name)) is not None]
    return sum(values) / len(values) if len(values) == len(scenario_results) else None


def _machine_value(scenario_result: Mapping[str, Any], name: str) -> float | None:
    value: float | None = (scenario_result.get("machine") or {}).get(name)
    return value
