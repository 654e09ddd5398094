"""Report sections: sensitivity of layers in mixed precision, and rounding errors of block-quantized weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.reporting.data.row import ordered
from compress.reporting.render.document import Bar, Bars, Figure, Section, Table, row
from compress.reporting.render.numbers import count, percent, signed, significant
from compress.reporting.render.scores import reading
from compress.tasks.table import metric_kind

MOST_BARS = 40


def sensitivity(run: RunRecord) -> Section:
    """Report the mixed-precision steps: their search, and the layers by decreasing sensitivity."""
    paragraphs, figures, tables = [], [], []
    for step in ordered(run):
        found = step.facts.get("mixed")
        if not isinstance(found, Mapping):
            continue
        paragraphs.append(_words(step, found, run))
        layers = sorted(found["sensitivities"], key=lambda one: -one["divergence"])
        if layers:
            figures.append(_figure(step, layers))
            tables.append(_table(step, layers))
    return Section(
        "sensitivity",
        "Layers in integers and in floating point",
        tuple(paragraphs),
        tuple(tables),
        tuple(figures),
    )


def _words(step: StepRecord, found: Mapping[str, Any], run: RunRecord) -> str:
    read, relative = reading(run.metric), metric_kind(run.metric).relative

    def change(lost: float) -> str:
        return f"{signed(-100 * lost, 1)} %" if relative else read.change(-lost)

    if "max_drop" in found:
        most = percent(found["max_drop"]) if relative else read.value(found["max_drop"])
        goal = f"a loss of at most {most} of validation score"
    elif "size_mb" in found:
        goal = f"a file of at most {significant(found['size_mb'])} MB"
    else:
        goal = f"at most {significant(found['latency_ms'])} ms per example"
    words = (
        f"The goal of {step.step} was {goal}: {found['reason']}. On the validation split the score changes by "
        f"{change(found['score_lost_in_integers'])} with every layer in integers, and by "
        f"{change(found['score_lost'])} with {len(found['given_back'])} of them kept in floating point "
        f"({len(found['trials'])} models were tried)."
    )
    measured, layers = found.get("layers_measured", 0), found.get("layers", 0)
    if 0 < measured < layers:
        words += f" There was time to measure {measured} of {layers} layers; the others are assumed to lose the least."
    if "predicted_ms" in found:
        words += (
            f" {significant(found['predicted_ms'])} ms were predicted and "
            f"{significant(found['measured_ms'])} measured."
        )
    return words


def _figure(step: StepRecord, layers: list[Mapping[str, Any]]) -> Figure:
    shown = layers[:MOST_BARS]
    bars = tuple(Bar(one["layer"], max(one["divergence"], 0.0), bool(one["given_back"])) for one in shown)
    cut = "" if len(shown) == len(layers) else f", the worst {len(shown)} of {len(layers)}"
    worst = ", ".join(f"{bar.label} {significant(bar.value)}" for bar in bars[:3])
    return Figure(
        Bars("change of the outputs with only this layer in integers", bars, "floating point", "in integers"),
        caption=f"{step.step}: sensitivity of the layers{cut}",
        alt=f"Bars of the sensitivity of {len(layers)} layers; the largest: {worst}.",
    )


def _table(step: StepRecord, layers: list[Mapping[str, Any]]) -> Table:
    rows = tuple(
        row(
            one["layer"],
            one["kind"],
            count(one["weights"]),
            significant(one["divergence"]),
            "floating point" if one["given_back"] else "integers",
        )
        for one in layers
    )
    columns = ("Layer", "kind", "weights", "change of the outputs", "arithmetic")
    return Table(f"{step.step}: every layer", columns, rows, frozenset({1, 4}))


def blocks(run: RunRecord) -> Section:
    """Report the steps that quantized weights in blocks: rounding errors by kind of layer."""
    paragraphs, tables = [], []
    for step in ordered(run):
        kinds: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for one in step.facts.get("blocks", ()):
            kinds.setdefault((re.sub(r"\d+", "*", one["layer"]), one["bits"]), []).append(one)
        lines = [
            row(
                kind,
                count(bits),
                count(len(found)),
                count(sum(one["weights"] for one in found)),
                f"{100 * sum(one['error'] for one in found) / len(found):.1f}",
                f"{100 * worst['error']:.1f} ({worst['layer']})",
            )
            for (kind, bits), found in sorted(kinds.items())
            for worst in [max(found, key=lambda one: one["error"])]
        ]
        if lines:
            head = ("Layers", "bits", "number", "weights", "mean error, %", "largest error, %")
            tables.append(
                Table(f"{step.step}: by kind of layer", head, tuple(lines), frozenset({1, 2, 3, 4}))
            )
        if isinstance(chosen := step.facts.get("eight_bits"), Mapping):
            worst_first = sorted(chosen["weights"], key=lambda one: -(one["divergence"] or 0.0))
            eight = [
                f"{one['layer']} ({significant(one['divergence'] or 0.0)})"
                for one in worst_first
                if one["eight_bits"]
            ]
            paragraphs.append(
                f"{step.step}: of {len(worst_first)} weights, {chosen['measured']} of them measured, {len(eight)} have "
                f"8 bits within {significant(chosen['size_mb'])} MB; in brackets the divergence (nats) with only that "
                f"one in 4 bits: {', '.join(eight) or 'none'}."
            )
    if tables:
        paragraphs.insert(
            0,
            "Error: the root mean square of the change by rounding, relative to that of the original values: of the "
            "layer outputs on the calibration examples, or of the weights if the method uses only these.",
        )
    return Section("blocks", "Rounding error of block-quantized weights", tuple(paragraphs), tuple(tables))
