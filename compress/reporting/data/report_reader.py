"""Uniform access to the results of a run, a measured model or a `report.json`, whichever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.core.disk.reading import read_json
from compress.core.errors import UsageError
from compress.core.records import COMPLETE_STATUSES, RunRecord
from compress.reporting.data.frame import contract
from compress.reporting.data.row import CONTRACT_KEYS
from compress.store.runs import find_run

Report = Mapping[str, Any]
"""Return value of `contract`, and content of `report.json`."""
Result = RunRecord | Report

_KEYS = ("status", "run", "task", "metric", "targets", "rows")


def find_report(word: str, runs: Path) -> Result:
    """Return the records of a run (its folder, id, or a profile's name), or the content of a `report.json`.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    if word.endswith(".json"):
        return read_report(Path(word))
    return find_run(word, runs).load()


def read_report(file: Path) -> Report:
    """Return the content of a `report.json`.

    Raises:
        UsageError: the file is missing, or is not a report.
    """
    try:
        body = read_json(file, error=UsageError)
    except FileNotFoundError as error:
        raise UsageError("report not found", where=str(file)) from error
    if not isinstance(body, dict) or any(key not in body for key in _KEYS) or not _are_rows(body["rows"]):
        raise UsageError("not a report.json: `compress report RUN --json` prints one", where=str(file))
    for row in body["rows"]:
        missing_keys = [key for key in (*CONTRACT_KEYS, "targets") if key not in row]
        if missing_keys:
            raise UsageError(f"a row of this report has no {missing_keys[0]!r}", where=str(file))
    return body


def _are_rows(rows: object) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def as_report(result: Result) -> Report:
    """Convert a result to a report."""
    return contract(result) if isinstance(result, RunRecord) else result


def deployed_row(report: Report) -> Mapping[str, Any] | None:
    """Return the deployed row; None if the run did not get that far."""
    is_complete = report["status"] in COMPLETE_STATUSES and report["rows"]
    return report["rows"][-1] if is_complete and report["rows"][-1].get("status") != "failed" else None


def baseline_row(report: Report) -> Mapping[str, Any] | None:
    """Return the row of the baseline; None if the run failed before it."""
    return next((row for row in report["rows"] if row["role"] == "baseline"), None)


def same_baseline(first_report: Report, second_report: Report) -> bool:
    """Whether both reports have the same baseline, by model digest or by cache key.

    The digest is shared by a run and a measurement of its file. False for old reports, which contain neither.
    """
    rows = [baseline_row(report) or {} for report in (first_report, second_report)]
    names = ([row.get(key) for row in rows] for key in ("model_digest", "key"))
    return any(first is not None and first == second for first, second in names)


def first_target_of(report: Report, row: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a row's measurement on the target that its flat keys refer to."""
    if row is None or not report["targets"]:
        return None
    return next(
        (measurement for measurement in row["targets"] if measurement["target"] == report["targets"][0]), None
    )


def same_machine(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two models were timed on the same machine, with the same threads and cores.

    Old reports without `machine` have a joint fingerprint of machine, batch sizes and lengths, which is compared
    instead.
    """
    machines = [measurement.get("machine") for measurement in (first, second)]
    if None in machines:
        return bool(first["fingerprint"] == second["fingerprint"])
    return bool(machines[0] == machines[1])


def matching_timing(measurement: Mapping[str, Any], timing: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a model's timing at the batch size and lengths of another timing; None if there is none."""
    return next(
        (candidate for candidate in measurement["latency"] if _setting(candidate) == _setting(timing)), None
    )


def timed_words(measurement: Mapping[str, Any]) -> str:
    """Describe the batch sizes and lengths at which a model was timed."""
    return ", ".join(map(timing_words, measurement["latency"]))


def memory_words(measurement: Mapping[str, Any]) -> str:
    """Describe the batch size and lengths at which the peak memory was measured: the first timed batch size."""
    return timing_words({**measurement["latency"][0], "lengths": measurement.get("memory_lengths", "real")})


def timing_words(timing: Mapping[str, Any]) -> str:
    """Describe the batch size and lengths of a timing."""
    size, lengths = _setting(timing)
    return f"batch size {size}" + ("" if lengths == "real" else f" ({lengths})")


def _setting(timing: Mapping[str, Any]) -> tuple[int, str]:
    return timing["batch_size"], timing["lengths"]


def same_memory_setting(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether the peak memory of two models was measured at the same batch size and lengths (see `memory_words`).

    Lengths are ignored if one of the reports is too old to contain them.
    """
    if not (one["latency"] and two["latency"]):
        return True
    known = {"memory_lengths" in each for each in (one, two)} == {True}
    sizes = (each["latency"][0]["batch_size"] for each in (one, two))
    return len({*sizes}) == 1 and (not known or same_memory_lengths(one, two))


def same_memory_lengths(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the peak memory of two models was measured on the same workload; old reports used the real lengths."""
    return bool(first.get("memory_lengths", "real") == second.get("memory_lengths", "real"))
