"""Report sections: sensitivity of layers in mixed precision, and rounding errors of block-quantized weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Bar, BarPlot, Figure, Section, Table, row
from compress.reporting.render.numbers import count, percent, signed, significant
from compress.reporting.render.scores import metric_format
from compress.tasks.table import metric_kind

MAX_BARS = 40


def sensitivity(run: RunRecord) -> Section:
    """Report the mixed-precision steps: their search, and the layers by decreasing sensitivity."""
    paragraphs, figures, tables = [], [], []
    for step in ordered_steps(run):
        facts = step.facts.get("mixed")
        if not isinstance(facts, Mapping):
            continue
        paragraphs.append(_paragraph(step, facts, run))
        layers = sorted(facts["sensitivities"], key=lambda one: -one["divergence"])
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


def _paragraph(step: StepRecord, facts: Mapping[str, Any], run: RunRecord) -> str:
    scale, relative = metric_format(run.metric), metric_kind(run.metric).relative

    def change(loss: float) -> str:
        return f"{signed(-100 * loss, 1)} %" if relative else scale.change(-loss)

    if "max_drop" in facts:
        most = percent(facts["max_drop"]) if relative else scale.value(facts["max_drop"])
        goal = f"a loss of at most {most} of validation score"
    elif "size_mb" in facts:
        goal = f"a file of at most {significant(facts['size_mb'])} MB"
    else:
        goal = f"at most {significant(facts['latency_ms'])} ms per example"
    words = (
        f"The goal of {step.step} was {goal}: {facts['reason']}. On the validation split the score changes by "
        f"{change(facts['score_lost_in_integers'])} with every layer in integers, and by "
        f"{change(facts['score_lost'])} with {len(facts['given_back'])} of them kept in floating point "
        f"({len(facts['trials'])} models were tried)."
    )
    measured, layers = facts.get("layers_measured", 0), facts.get("layers", 0)
    if 0 < measured < layers:
        words += f" There was time to measure {measured} of {layers} layers; the others are assumed to lose the least."
    if "predicted_ms" in facts:
        words += (
            f" {significant(facts['predicted_ms'])} ms were predicted and "
            f"{significant(facts['measured_ms'])} measured."
        )
    return words


def _figure(step: StepRecord, layers: list[Mapping[str, Any]]) -> Figure:
    bar_layers = layers[:MAX_BARS]
    bars = tuple(
        Bar(one["layer"], max(one["divergence"], 0.0), bool(one["given_back"])) for one in bar_layers
    )
    truncation_note = (
        "" if len(bar_layers) == len(layers) else f", the worst {len(bar_layers)} of {len(layers)}"
    )
    worst = ", ".join(f"{bar.label} {significant(bar.value)}" for bar in bars[:3])
    return Figure(
        BarPlot(
            "change of the outputs with only this layer in integers", bars, "floating point", "in integers"
        ),
        caption=f"{step.step}: sensitivity of the layers{truncation_note}",
        alt=f"Bars of the sensitivity of {len(layers)} layers; the largest: {worst}.",
    )


def _table(step: StepRecord, layers: list[Mapping[str, Any]]) -> Table:
    rows = tuple(
        row(
            layer["layer"],
            layer["kind"],
            count(layer["weights"]),
            significant(layer["divergence"]),
            "floating point" if layer["given_back"] else "integers",
        )
        for layer in layers
    )
    columns = ("Layer", "kind", "weights", "change of the outputs", "arithmetic")
    return Table(f"{step.step}: every layer", columns, rows, frozenset({1, 4}))


def blocks(run: RunRecord) -> Section:
    """Report the steps that quantized weights in blocks: rounding errors by kind of layer."""
    paragraphs, tables = [], []
    for step in ordered_steps(run):
        kinds: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for weight in step.facts.get("blocks", ()):
            kinds.setdefault((re.sub(r"\d+", "*", weight["layer"]), weight["bits"]), []).append(weight)
        rows = [
            row(
                kind,
                count(bits),
                count(len(group)),
                count(sum(weight["weights"] for weight in group)),
                f"{100 * sum(weight['error'] for weight in group) / len(group):.1f}",
                f"{100 * worst['error']:.1f} ({worst['layer']})",
            )
            for (kind, bits), group in sorted(kinds.items())
            for worst in [max(group, key=lambda one: one["error"])]
        ]
        if rows:
            head = ("Layers", "bits", "number", "weights", "mean error, %", "largest error, %")
            tables.append(Table(f"{step.step}: by kind of layer", head, tuple(rows), frozenset({1, 2, 3, 4})))
        if isinstance(eight_bit_facts := step.facts.get("eight_bits"), Mapping):
            worst_first = sorted(eight_bit_facts["weights"], key=lambda one: -(one["divergence"] or 0.0))
            eight_bit_names = [
                f"{weight['layer']} ({significant(weight['divergence'] or 0.0)})"
                for weight in worst_first
                if weight["eight_bits"]
            ]
            paragraphs.append(
                f"{step.step}: of {len(worst_first)} weights, {eight_bit_facts['measured']} of them "
                f"measured, {len(eight_bit_names)} have "
                f"8 bits within {significant(eight_bit_facts['size_mb'])} MB; in brackets the divergence "
                "(nats) with only that "
                f"one in 4 bits: {', '.join(eight_bit_names) or 'none'}."
            )
    if tables:
        paragraphs.insert(
            0,
            "Error: the root mean square of the change by rounding, relative to that of the original values: of the "
            "layer outputs on the calibration examples, or of the weights if the method uses only these.",
        )
    return Section("blocks", "Rounding error of block-quantized weights", tuple(paragraphs), tuple(tables))
