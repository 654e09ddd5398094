"""Mixed precision: measure how much each layer loses in integers, and keep the most sensitive ones in floating point.

A layer returned to floating point multiplies in FP32 and is stored in FP16, which costs one more byte per weight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.core.disk.files import remove
from compress.core.errors import PassError
from compress.core.units import BYTES_PER_MB, megabytes
from compress.measuring.timing.disturbance import disturbed_choice_warning
from compress.measuring.timing.feeds import sample_indices
from compress.measuring.variants import sample_for_scoring, variant_answers, variant_ms, variant_outputs
from compress.passes.quantize.int8.gain.probe import probe, shapes_of, typical_rows
from compress.passes.quantize.int8.writing import QuantizedWriter
from compress.passes.quantize.layers import LAYER_KINDS, Layer, MatMulLayer, Table, weight_name
from compress.passes.quantize.mixed.search import (
    FITS_BUDGET,
    OUT_OF_TIME,
    SearchResult,
    Trial,
    predicted_layers,
    requantize_until_limit,
    restore_until_limit,
    restore_within_budget,
)
from compress.passes.quantize.mixed.spec import MixedSpec
from compress.passes.quantize.size_check import model_bytes
from compress.step import StepContext
from compress.tasks.base import Truth

SENSITIVITY_TIME_SHARE = 0.5
"""Maximum share of the time limit; the rest is for trials."""
MIN_EXAMPLES = 16
"""Minimum number of examples for a useful sensitivity, whatever the time."""


@dataclass(frozen=True)
class MixedModel:
    """Result: the folder of the chosen model, the names of the weights in floating point, and the facts."""

    folder: Path
    float_weights: tuple[str, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Sensitivity:
    """Effect of one layer on the outputs while it alone is in integers, and the cost of returning it to floating point.

    `divergence`: the task's divergence from the float model; `extra_bytes`: growth of the file once the layer is
    returned.
    """

    layer: str
    kind: str
    weights: int
    divergence: float
    extra_bytes: int


def choose_mixed_precision(
    ctx: StepContext, spec: MixedSpec, writer: QuantizedWriter, scheme: str, source: Artifact
) -> MixedModel:
    """Choose the layers that stay in floating point, and write that model.

    Args:
        scheme: of the layers in integers.
        source: the float model that the step received.

    Raises:
        PassError: the requested size or latency is below that of the model with every layer in integers, or the
            latencies of this model's layers cannot be predicted.
    """
    return _MixedSearch(ctx, spec, writer, scheme, source).run()


class _MixedSearch:
    """One search, with the measurements that it reuses."""

    def __init__(
        self, ctx: StepContext, spec: MixedSpec, writer: QuantizedWriter, scheme: str, source: Artifact
    ) -> None:
        self.ctx, self.spec, self.writer, self.scheme, self.source = ctx, spec, writer, scheme, source
        self.deadline = time.monotonic() + 60 * spec.minutes
        # Whether any timing was disturbed beyond use.
        self.disturbed = False
        self.metric = ctx.task.kind.metric
        self.layers = distinct_weights(writer.layers())
        self.written_layers: frozenset[int] | None = None
        validation = ctx.data.validation
        self.inputs = ctx.task.encode(validation, source.path)
        self.scored, self.truth = sample_for_scoring(self.inputs, Truth.of(validation), ctx.seed)
        start_time = time.monotonic()
        self.reference = self.outputs(source.path / ONNX_MODEL, self.scored)
        self.seconds_per_example = (time.monotonic() - start_time) / max(1, len(self.scored))
        if ctx.task.needs_reference(validation):
            self.truth = Truth(self.truth.labels, self.truth.scores, self.reference)
        self.float_score = self.score(source.path / ONNX_MODEL)

    def run(self) -> MixedModel:
        if self.spec.max_drop is not None:
            return self.restore_until_limit(self.spec.max_drop)
        if self.spec.size_mb is not None:
            return self.restore_within_size(self.spec.size_mb)
        assert self.spec.latency_ms is not None
        return self.restore_within_latency(self.spec.latency_ms)

    def restore_until_limit(self, max_drop: float) -> MixedModel:
        integer_drop, unit = self.score_lost(frozenset()), self.metric.loss_unit
        sensitivities = [] if integer_drop <= max_drop else self.sensitivities()
        losses = [one.divergence for one in sensitivities]
        ranked = sorted(range(len(sensitivities)), key=lambda place: -losses[place])
        # Layers not measured in time come last, as if they lost least.
        worst_first = [*ranked, *range(len(sensitivities), len(self.layers))] if sensitivities else []
        with self.ctx.progress.bar("returning layers to floating point", len(worst_first)) as advance:

            def drop_of(float_layers: frozenset[int]) -> float:
                if not float_layers:
                    return integer_drop
                found = self.score_lost(float_layers)
                advance(note=f"{len(float_layers)} in floating point, {100 * found:.2f} {unit} lost")
                return found

            guess = predicted_layers(ranked, losses, integer_drop, max_drop)
            search_result = restore_until_limit(worst_first, max_drop, drop_of, self.has_time, guess)
        if not search_result.target_met:
            self.ctx.progress.say(
                f"quantize: the loss limit of {100 * max_drop:g} {unit} was not met: {search_result.reason}; "
                f"{100 * search_result.best.drop:.2f} {unit} are lost with "
                f"{len(search_result.best.float_layers)} of {len(self.layers)} "
                "layers in floating point"
            )
        return self.result(search_result, sensitivities, {"max_drop": max_drop})

    def restore_within_size(self, size_mb: float) -> MixedModel:
        min_mb = megabytes(model_bytes(self.write(frozenset())))
        if min_mb > size_mb:
            raise PassError(
                f"{size_mb:g} MB cannot be reached: with every layer in integers the file has {min_mb:.3f} MB",
                where="quantize.mixed.size_mb",
                hint="Raise the limit, or make the model smaller first (`distill`, `prune`, `embeddings: 4`).",
            )
        sensitivities = self.sensitivities()
        byte_budget = BYTES_PER_MB * (size_mb - min_mb)
        losses, costs = (
            [one.divergence for one in sensitivities],
            [float(one.extra_bytes) for one in sensitivities],
        )
        # Constants shared between layers are missing from their individual costs: the written file decides.
        float_layers, _ = requantize_until_limit(
            restore_within_budget(losses, costs, byte_budget),
            losses,
            costs,
            size_mb,
            lambda given: megabytes(model_bytes(self.write(given))),
        )
        return self.result(
            self.compare_with_integers(float_layers, FITS_BUDGET), sensitivities, {"size_mb": size_mb}
        )

    def restore_within_latency(self, latency_ms: float) -> MixedModel:
        if not all(isinstance(layer, MatMulLayer | Table) for layer in self.layers):
            raise PassError(
                "latencies of integer convolutions depend on the neighbouring layers and cannot be predicted",
                where="quantize.mixed.latency_ms",
                hint="Use `max_drop` or `size_mb` instead.",
            )
        min_ms = self.latency(frozenset())
        if min_ms > latency_ms:
            raise PassError(
                f"{latency_ms:g} ms cannot be reached: with every layer in integers the model takes {min_ms:.3f} ms",
                where="quantize.mixed.latency_ms",
                hint="Raise the limit, or make the model faster first (`distill`, `prune`).",
            )
        sensitivities = self.sensitivities()
        rows = typical_rows(self.ctx, self.source)
        shapes = shapes_of(self.layers)
        timing = probe(shapes, rows, self.ctx.timing_target, max_shapes=len(shapes), patient=True)
        self.disturbed |= timing.disturbed
        extra = {(one.inputs, one.outputs): one.float_ms - one.integer_ms for one in timing.timings}
        costs = [0.0 if isinstance(layer, Table) else extra[_shape(layer)] for layer in self.layers]
        costs = costs[: len(sensitivities)]
        losses = [one.divergence for one in sensitivities]
        float_layers = restore_within_budget(losses, costs, latency_ms - min_ms)
        predicted = min_ms + sum(max(0.0, costs[place]) for place in float_layers)
        float_layers, measured = requantize_until_limit(
            float_layers, losses, costs, latency_ms, self.latency, self.has_time
        )
        facts = {
            "latency_ms": latency_ms,
            "predicted_ms": predicted,
            "measured_ms": measured,
            "timed_on": self.ctx.timing_target.label,
            "timing_disturbed": self.disturbed,
        }
        if self.disturbed:
            self.ctx.progress.say(disturbed_choice_warning("quantize", self.ctx.timing_target.machine_name))
        return self.result(
            self.compare_with_integers(float_layers, FITS_BUDGET if measured <= latency_ms else OUT_OF_TIME),
            sensitivities,
            facts,
        )

    def compare_with_integers(self, float_layers: frozenset[int], reason: str) -> SearchResult:
        """Return the choice as the best trial, next to the trial with every layer in integers."""
        trials = tuple(Trial(each, self.score_lost(each)) for each in (frozenset[int](), float_layers))
        return SearchResult(trials[-1], trials, reason)

    def sensitivities(self) -> list[Sensitivity]:
        """Measure each layer alone in integers, on as many examples as half of the time allows.

        Covers the layers in graph order until the time is up, but at least one.
        """
        folder = self.ctx.work / "one-layer"
        names = {weight_name(layer) for layer in self.layers}
        start_time = time.monotonic()
        self.writer.write(self.scheme, folder, names)
        now = time.monotonic()
        share = SENSITIVITY_TIME_SHARE * (self.deadline - now) / max(1, len(self.layers))
        affordable = int(max(0.0, share - (now - start_time)) / max(self.seconds_per_example, 1e-9))
        count = max(MIN_EXAMPLES, min(self.spec.examples, affordable))
        indices = np.sort(sample_indices(len(self.scored), count, self.ctx.seed))
        reference, floating_bytes = self.reference[indices], model_bytes(folder)
        measurements: list[Sensitivity] = []
        with self.ctx.progress.bar("sensitivity of each layer", len(self.layers)) as advance:
            for layer in self.layers:
                if measurements and not self.has_time():
                    break
                name = weight_name(layer)
                self.writer.write(self.scheme, folder, names - {name})
                outputs = self.outputs(folder / ONNX_MODEL, self.scored[indices])
                measurements.append(
                    Sensitivity(
                        layer=layer.node.name or name,
                        kind=_kind(layer),
                        weights=math.prod(layer.shape),
                        divergence=self.ctx.task.divergence(reference, outputs),
                        extra_bytes=floating_bytes - model_bytes(folder),
                    )
                )
                advance()
        remove(folder)
        if len(measurements) < len(self.layers):
            self.ctx.progress.say(
                f"quantize: within `mixed.minutes` only {len(measurements)} of {len(self.layers)} layers "
                "could be measured; "
                "the others are assumed to lose the least"
            )
        return measurements

    def score_lost(self, float_layers: frozenset[int]) -> float:
        """Return the loss of validation score against the float model."""
        return self.metric.degradation(self.float_score, self.score(self.write(float_layers) / ONNX_MODEL))

    def score(self, file: Path) -> float:
        """Return the validation score of a file, larger is better."""
        threads = self.ctx.timing_target.spec.threads
        answers = variant_answers(file, self.inputs, self.scored, self.ctx.task, threads)
        return self.ctx.task.score(answers, self.truth).rank

    def latency(self, float_layers: frozenset[int]) -> float:
        """Return the median latency of one example on the timing target, ms."""
        file = self.write(float_layers) / ONNX_MODEL
        (found,), disturbed = variant_ms(file, self.inputs, self.ctx.timing_target, seed=self.ctx.seed)
        self.disturbed |= disturbed
        return found

    def outputs(self, file: Path, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return variant_outputs([file], self.inputs, indices, self.ctx.timing_target.spec.threads)[0]

    def write(self, float_layers: frozenset[int]) -> Path:
        """Write the model with these layers in floating point unless it was the last one; return its folder."""
        folder = self.ctx.work / "mixed"
        if self.written_layers != float_layers:
            self.writer.write(self.scheme, folder, self.weight_names(float_layers))
            self.written_layers = float_layers
        return folder

    def weight_names(self, float_layers: frozenset[int]) -> tuple[str, ...]:
        return tuple(weight_name(self.layers[place]) for place in sorted(float_layers))

    def has_time(self) -> bool:
        return time.monotonic() < self.deadline

    def result(
        self, search_result: SearchResult, sensitivities: Sequence[Sensitivity], target: dict[str, Any]
    ) -> MixedModel:
        """Write the model of the best trial again if another was written since, and return it with its facts."""
        best = search_result.best
        folder = self.write(best.float_layers)
        facts = {
            **target,
            "held": search_result.target_met,
            "reason": search_result.reason,
            "score_lost": best.drop,
            "score_lost_in_integers": search_result.trials[0].drop,
            "given_back": [self.layers[index].node.name or "" for index in sorted(best.float_layers)],
            "layers": len(self.layers),
            "layers_measured": len(sensitivities),
            "sensitivities": [
                {
                    "layer": item.layer,
                    "kind": item.kind,
                    "weights": item.weights,
                    "divergence": item.divergence,
                    "given_back": index in best.float_layers,
                }
                for index, item in enumerate(sensitivities)
            ],
            "trials": [
                {"given_back": len(item.float_layers), "score_lost": item.drop}
                for item in search_result.trials
            ],
        }
        return MixedModel(folder, self.weight_names(best.float_layers), facts)


def distinct_weights(layers: Sequence[Layer]) -> list[Layer]:
    """Return the first layer of each weight: layers that share a weight are returned to floating point together."""
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(weight_name(layer), layer)
    return list(first.values())


def _kind(layer: Layer) -> str:
    return next(name for name, kind in LAYER_KINDS.items() if isinstance(layer, kind))


def _shape(layer: Layer) -> tuple[int, int]:
    assert isinstance(layer, MatMulLayer)
    return layer.shape[0], layer.shape[1]
