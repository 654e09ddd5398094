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
from compress.measuring.timing.disturbance import chosen_while_disturbed
from compress.measuring.timing.feeds import sample_indices
from compress.measuring.variants import scored_sample, variant_answers, variant_ms, variant_outputs
from compress.passes.quantize.int8.gain.probe import probe, shapes_of, typical_length
from compress.passes.quantize.int8.writing import Writer
from compress.passes.quantize.layers import KINDS, Layer, MatMulLayer, Table, weight_name
from compress.passes.quantize.mixed.search import (
    FITS,
    OUT_OF_TIME,
    Found,
    Trial,
    predicted_layers,
    requantize_until,
    restore_until,
    restore_within,
)
from compress.passes.quantize.mixed.spec import MixedSpec
from compress.passes.quantize.size_check import model_bytes
from compress.step import StepContext
from compress.tasks.base import Truth

SHARE_FOR_SENSITIVITIES = 0.5
"""Maximum share of the time limit; the rest is for trials."""
FEWEST = 16
"""Minimum number of examples for a useful sensitivity, whatever the time."""


@dataclass(frozen=True)
class MixedModel:
    """Result: the folder of the chosen model, the names of the weights in floating point, and the facts."""

    folder: Path
    given_back: tuple[str, ...]
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


def mix(ctx: StepContext, spec: MixedSpec, writer: Writer, scheme: str, source: Artifact) -> MixedModel:
    """Choose the layers that stay in floating point, and write that model.

    Args:
        scheme: of the layers in integers.
        source: the float model that the step received.

    Raises:
        PassError: the requested size or latency is below that of the model with every layer in integers, or the
            latencies of this model's layers cannot be predicted.
    """
    return _MixedSearch(ctx, spec, writer, scheme, source).mix()


class _MixedSearch:
    """One search, with the measurements that it reuses."""

    def __init__(
        self, ctx: StepContext, spec: MixedSpec, writer: Writer, scheme: str, source: Artifact
    ) -> None:
        self.ctx, self.spec, self.writer, self.scheme, self.source = ctx, spec, writer, scheme, source
        self.deadline = time.monotonic() + 60 * spec.minutes
        # Whether any timing was disturbed beyond use.
        self.disturbed = False
        self.metric = ctx.task.kind.metric
        self.layers = distinct(writer.layers())
        self.written: frozenset[int] | None = None
        validation = ctx.data.validation
        self.inputs = ctx.task.encode(validation, source.path)
        self.scored, self.truth = scored_sample(self.inputs, Truth.of(validation), ctx.seed)
        started = time.monotonic()
        self.reference = self.outputs(source.path / ONNX_MODEL, self.scored)
        self.seconds_an_example = (time.monotonic() - started) / max(1, len(self.scored))
        if ctx.task.needs_reference(validation):
            self.truth = Truth(self.truth.labels, self.truth.scores, self.reference)
        self.float_score = self.score(source.path / ONNX_MODEL)

    def mix(self) -> MixedModel:
        if self.spec.max_drop is not None:
            return self.restore_until_score_holds(self.spec.max_drop)
        if self.spec.size_mb is not None:
            return self.restore_within_size(self.spec.size_mb)
        assert self.spec.latency_ms is not None
        return self.restore_within_latency(self.spec.latency_ms)

    def restore_until_score_holds(self, max_drop: float) -> MixedModel:
        started, unit = self.score_lost(frozenset()), self.metric.loss_unit
        known = [] if started <= max_drop else self.sensitivities()
        losses = [one.divergence for one in known]
        ranked = sorted(range(len(known)), key=lambda place: -losses[place])
        # Layers not measured in time come last, as if they lost least.
        worst_first = [*ranked, *range(len(known), len(self.layers))] if known else []
        with self.ctx.progress.bar("returning layers to floating point", len(worst_first)) as advance:

            def drop_of(given: frozenset[int]) -> float:
                if not given:
                    return started
                found = self.score_lost(given)
                advance(note=f"{len(given)} in floating point, {100 * found:.2f} {unit} lost")
                return found

            guess = predicted_layers(ranked, losses, started, max_drop)
            found = restore_until(worst_first, max_drop, drop_of, self.has_time, guess)
        if not found.held:
            self.ctx.progress.say(
                f"quantize: the loss limit of {100 * max_drop:g} {unit} was not met: {found.reason}; "
                f"{100 * found.best.drop:.2f} {unit} are lost with {len(found.best.given_back)} of {len(self.layers)} "
                "layers in floating point"
            )
        return self.result(found, known, {"max_drop": max_drop})

    def restore_within_size(self, size_mb: float) -> MixedModel:
        least = megabytes(model_bytes(self.write(frozenset())))
        if least > size_mb:
            raise PassError(
                f"{size_mb:g} MB cannot be reached: with every layer in integers the file has {least:.3f} MB",
                where="quantize.mixed.size_mb",
                hint="Raise the limit, or make the model smaller first (`distill`, `prune`, `embeddings: 4`).",
            )
        known = self.sensitivities()
        room = BYTES_PER_MB * (size_mb - least)
        losses, costs = [one.divergence for one in known], [float(one.extra_bytes) for one in known]
        # Constants shared between layers are missing from their individual costs: the written file decides.
        given, _ = requantize_until(
            restore_within(losses, costs, room),
            losses,
            costs,
            size_mb,
            lambda given: megabytes(model_bytes(self.write(given))),
        )
        return self.result(self.compare_with_integers(given, FITS), known, {"size_mb": size_mb})

    def restore_within_latency(self, latency_ms: float) -> MixedModel:
        if not all(isinstance(layer, MatMulLayer | Table) for layer in self.layers):
            raise PassError(
                "latencies of integer convolutions depend on the neighbouring layers and cannot be predicted",
                where="quantize.mixed.latency_ms",
                hint="Use `max_drop` or `size_mb` instead.",
            )
        least = self.latency(frozenset())
        if least > latency_ms:
            raise PassError(
                f"{latency_ms:g} ms cannot be reached: with every layer in integers the model takes {least:.3f} ms",
                where="quantize.mixed.latency_ms",
                hint="Raise the limit, or make the model faster first (`distill`, `prune`).",
            )
        known = self.sensitivities()
        rows = typical_length(self.ctx, self.source)
        shapes = shapes_of(self.layers)
        products_timed = probe(shapes, rows, self.ctx.timing_target, most=len(shapes), patient=True)
        self.disturbed |= products_timed.disturbed
        extra = {(one.inputs, one.outputs): one.float_ms - one.integer_ms for one in products_timed.timings}
        costs = [0.0 if isinstance(layer, Table) else extra[_shape(layer)] for layer in self.layers]
        costs = costs[: len(known)]
        losses = [one.divergence for one in known]
        given = restore_within(losses, costs, latency_ms - least)
        predicted = least + sum(max(0.0, costs[place]) for place in given)
        given, measured = requantize_until(given, losses, costs, latency_ms, self.latency, self.has_time)
        facts = {
            "latency_ms": latency_ms,
            "predicted_ms": predicted,
            "measured_ms": measured,
            "timed_on": self.ctx.timing_target.label,
            "timing_disturbed": self.disturbed,
        }
        if self.disturbed:
            self.ctx.progress.say(chosen_while_disturbed("quantize", self.ctx.timing_target.place))
        return self.result(
            self.compare_with_integers(given, FITS if measured <= latency_ms else OUT_OF_TIME), known, facts
        )

    def compare_with_integers(self, given: frozenset[int], reason: str) -> Found:
        """Return the choice as the best trial, next to the trial with every layer in integers."""
        trials = tuple(Trial(each, self.score_lost(each)) for each in (frozenset[int](), given))
        return Found(trials[-1], trials, reason)

    def sensitivities(self) -> list[Sensitivity]:
        """Measure each layer alone in integers, on as many examples as half of the time allows.

        Covers the layers in graph order until the time is up, but at least one.
        """
        folder = self.ctx.work / "one-layer"
        names = {weight_name(layer) for layer in self.layers}
        started = time.monotonic()
        self.writer.write(self.scheme, folder, names)
        now = time.monotonic()
        share = SHARE_FOR_SENSITIVITIES * (self.deadline - now) / max(1, len(self.layers))
        affordable = int(max(0.0, share - (now - started)) / max(self.seconds_an_example, 1e-9))
        count = max(FEWEST, min(self.spec.examples, affordable))
        places = np.sort(sample_indices(len(self.scored), count, self.ctx.seed))
        reference, floating_bytes = self.reference[places], model_bytes(folder)
        found: list[Sensitivity] = []
        with self.ctx.progress.bar("sensitivity of each layer", len(self.layers)) as advance:
            for layer in self.layers:
                if found and not self.has_time():
                    break
                name = weight_name(layer)
                self.writer.write(self.scheme, folder, names - {name})
                outputs = self.outputs(folder / ONNX_MODEL, self.scored[places])
                found.append(
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
        if len(found) < len(self.layers):
            self.ctx.progress.say(
                f"quantize: within `mixed.minutes` only {len(found)} of {len(self.layers)} layers could be measured; "
                "the others are assumed to lose the least"
            )
        return found

    def score_lost(self, given: frozenset[int]) -> float:
        """Return the loss of validation score against the float model."""
        return self.metric.lost(self.float_score, self.score(self.write(given) / ONNX_MODEL))

    def score(self, file: Path) -> float:
        """Return the validation score of a file, larger is better."""
        threads = self.ctx.timing_target.spec.threads
        answers = variant_answers(file, self.inputs, self.scored, self.ctx.task, threads)
        return self.ctx.task.score(answers, self.truth).rank

    def latency(self, given: frozenset[int]) -> float:
        """Return the median latency of one example on the timing target, ms."""
        file = self.write(given) / ONNX_MODEL
        (found,), disturbed = variant_ms(file, self.inputs, self.ctx.timing_target, seed=self.ctx.seed)
        self.disturbed |= disturbed
        return found

    def outputs(self, file: Path, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        return variant_outputs([file], self.inputs, chosen, self.ctx.timing_target.spec.threads)[0]

    def write(self, given: frozenset[int]) -> Path:
        """Write the model with these layers in floating point unless it was the last one; return its folder."""
        folder = self.ctx.work / "mixed"
        if self.written != given:
            self.writer.write(self.scheme, folder, self.weight_names(given))
            self.written = given
        return folder

    def weight_names(self, given: frozenset[int]) -> tuple[str, ...]:
        return tuple(weight_name(self.layers[place]) for place in sorted(given))

    def has_time(self) -> bool:
        return time.monotonic() < self.deadline

    def result(self, found: Found, known: Sequence[Sensitivity], target: dict[str, Any]) -> MixedModel:
        """Write the model of the best trial again if another was written since, and return it with its facts."""
        best = found.best
        folder = self.write(best.given_back)
        facts = {
            **target,
            "held": found.held,
            "reason": found.reason,
            "score_lost": best.drop,
            "score_lost_in_integers": found.trials[0].drop,
            "given_back": [self.layers[place].node.name or "" for place in sorted(best.given_back)],
            "layers": len(self.layers),
            "layers_measured": len(known),
            "sensitivities": [
                {
                    "layer": one.layer,
                    "kind": one.kind,
                    "weights": one.weights,
                    "divergence": one.divergence,
                    "given_back": place in best.given_back,
                }
                for place, one in enumerate(known)
            ],
            "trials": [{"given_back": len(one.given_back), "score_lost": one.drop} for one in found.trials],
        }
        return MixedModel(folder, self.weight_names(best.given_back), facts)


def distinct(layers: Sequence[Layer]) -> list[Layer]:
    """Return the first layer of each weight: layers that share a weight are returned to floating point together."""
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(weight_name(layer), layer)
    return list(first.values())


def _kind(layer: Layer) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(layer, kind))


def _shape(layer: Layer) -> tuple[int, int]:
    assert isinstance(layer, MatMulLayer)
    return layer.shape[0], layer.shape[1]
