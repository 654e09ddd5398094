"""Report section of pruning for a target: the request and the prediction next to the measurement in the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.passes.prune.spec import PruneSpec
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Cell, Row, Section, Table, Tone, row
from compress.reporting.render.numbers import MISSING, percent, significant, times

_GOOD_DEVIATION = 0.1
_TARGET_FORMATS: Mapping[str, Callable[[float], str]] = {
    "latency_ms": lambda value: f"at most {significant(value)} ms",
    "speedup": lambda value: f"{times(value)} faster",
    "size_mb": lambda value: f"at most {significant(value)} MB of weights",
    "ratio": lambda value: f"{percent(value)} of the layers' parameters removed",
}


def pruned_to(run: RunRecord) -> Section:
    """Report predicted and measured latency of every step that pruned for a target."""
    rows = tuple(_row(step, target) for step, target in _targets(run))
    timed = any("measured_ms" in target for _, target in _targets(run))
    words = (
        "Latencies of one example, in FP32: predicted from a table of timed parts of the layers, then measured on the "
        "pruned model and the one before it, each in separate processes, without disturbed rounds.",
    )
    columns = ("Step", "asked", "before", "predicted", "measured", "measured / predicted")
    table = Table("Pruning targets", columns, rows, frozenset({1}))
    return Section("pruned_to", "Pruned for a target", words if timed else (), (table,) if rows else ())


def pruned_to_lines(run: RunRecord) -> list[str]:
    """Report the same for a terminal, one line per timed step."""
    return [
        f"{step.step}: {significant(target['predicted_ms'])} ms predicted, {significant(target['measured_ms'])} ms "
        f"measured ({times(target['measured_ms'] / target['predicted_ms'])}), "
        f"{significant(target['before_ms'])} ms before; asked: {_target_words(target)}"
        for step, target in _targets(run)
        if "measured_ms" in target
    ]


def _targets(run: RunRecord) -> Iterator[tuple[StepRecord, Mapping[str, Any]]]:
    for step in ordered_steps(run):
        target = step.facts.get("target")
        if step.kind == PruneSpec.kind and isinstance(target, Mapping):
            yield step, target


def _row(step: StepRecord, target: Mapping[str, Any]) -> Row:
    requested = _target_words(target)
    if "measured_ms" not in target:
        weights = f"{significant(target.get('weights_mb'))} MB of weights"
        return row(step.step, requested, MISSING, MISSING, weights, MISSING)
    before, predicted, measured = (target[f"{name}_ms"] for name in ("before", "predicted", "measured"))
    tone: Tone = "good" if abs(measured / predicted - 1) <= _GOOD_DEVIATION else "bad"
    return row(
        step.step,
        requested,
        f"{significant(before)} ms",
        Cell(f"{significant(predicted)} ms", _faster(target.get("predicted_speedup"))),
        Cell(f"{significant(measured)} ms", _faster(target.get("measured_speedup"))),
        Cell(times(measured / predicted), tone=tone),
    )


def _faster(speedup: float | None) -> str:
    return f"{times(speedup)} as fast as before" if speedup is not None else ""


def _target_words(target: Mapping[str, Any]) -> str:
    return next((say(target[key]) for key, say in _TARGET_FORMATS.items() if key in target), MISSING)
