"""INT8 quantization: choose the scheme and the remedies for a loss of score by measuring on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.core.disk.files import make_folder
from compress.encoding.inputs import Batch
from compress.measuring.timing.disturbance import disturbed_choice_warning
from compress.measuring.variants import Variant, VariantComparison
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.gain.probe import probe, shapes_of, typical_rows, warning
from compress.passes.quantize.int8.preparation import prepare
from compress.passes.quantize.int8.remedies import PLAIN, apply_remedies
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.writing import QuantizedWriter
from compress.passes.quantize.layers import Layer, excluded_weights, layers_to_quantize
from compress.passes.quantize.mixed.step import choose_mixed_precision
from compress.passes.quantize.result import QuantizedModel
from compress.passes.quantize.schemes import choose_scheme
from compress.step import StepContext
from compress.tasks.base import Truth

ATTEMPTS = "attempts"
"""Folder of the candidate models."""


def quantize_int8(
    ctx: StepContext, source: Artifact, spec: Int8Spec, schemes: Sequence[str], graph: ir.Graph
) -> QuantizedModel:
    """Quantize by the best of the schemes, with remedies and mixed precision if the spec requests them.

    Args:
        source: the float model.
        graph: its graph, which stays unchanged.
    """
    facts = _probe_gain(ctx, source, layers_to_quantize(graph, spec))
    search = _Search(ctx, source, calibration_batches(ctx, source, spec.calibration_examples))
    candidate = search.write(spec, schemes, PLAIN)
    variants = search.compare(candidate.folders) if len(schemes) > 1 else {}
    scheme = choose_scheme(variants, ctx.task.kind.metric) if variants else schemes[0]
    known = variants[scheme].score if variants else None
    candidate, facts["on_validation"] = search.try_remedies(candidate, scheme, known)
    facts |= candidate.facts
    folder, float_weights = candidate.folders[scheme], excluded_weights(graph, spec)
    if spec.mixed is not None:
        mixture = choose_mixed_precision(ctx, spec.mixed, candidate.writer, scheme, source)
        folder, float_weights = mixture.folder, [*float_weights, *mixture.float_weights]
        facts["mixed"] = mixture.facts
    if variants:
        facts["variants"] = {name: one._asdict() for name, one in variants.items()}
        facts["timed_on"] = ctx.timing_target.label
        facts["timing_disturbed"] = any(one.disturbed for one in variants.values())
    return QuantizedModel(folder, scheme, float_weights, facts)


@dataclass(frozen=True)
class _Candidate:
    """A model quantized by a spec: its writer, the folder of each scheme, and further facts."""

    spec: Int8Spec
    writer: QuantizedWriter
    folders: dict[str, Path]
    facts: dict[str, Any]


class _Search:
    """Writes candidates and compares them on the validation split."""

    def __init__(self, ctx: StepContext, source: Artifact, batches: Callable[[], Iterator[Batch]]) -> None:
        """
        Args:
            source: the float model; it is the reference of embeddings.
            batches: returns an iterator over the calibration examples.
        """
        self.ctx, self.source, self.batches = ctx, source, batches
        validation = ctx.data.validation
        self.comparison = VariantComparison(
            ctx.task.encode(validation, source.path),
            Truth.of(validation),
            ctx.task,
            ctx.timing_target,
            ctx.seed,
            source.path / ONNX_MODEL if ctx.task.needs_reference(validation) else None,
        )

    def write(self, spec: Int8Spec, schemes: Sequence[str], name: str) -> _Candidate:
        """Quantize by each scheme into subfolders of the folder `name`."""
        work = self.ctx.work / ATTEMPTS / name
        make_folder(work)
        prepared, facts = prepare(self.source.path, spec, self.batches, work)
        writer = QuantizedWriter(prepared, spec, self.batches, work)
        folders = {scheme: work / scheme for scheme in schemes}
        for scheme, folder in folders.items():
            facts |= writer.write(scheme, folder)
        return _Candidate(spec, writer, folders, facts)

    def compare(self, folders: dict[str, Path]) -> dict[str, Variant]:
        """Return score and latency of each scheme on the validation split."""
        target_name = self.ctx.timing_target.machine_name
        self.ctx.progress.say(
            f"quantize: measuring {' and '.join(folders)} on {len(self.comparison.inputs)} validation examples, on "
            f"{target_name}"
        )
        variants = self.comparison.compare(
            {scheme: folder / ONNX_MODEL for scheme, folder in folders.items()}
        )
        if any(one.disturbed for one in variants.values()):
            self.ctx.progress.say(disturbed_choice_warning("quantize", target_name))
        return variants

    def try_remedies(
        self, plain: _Candidate, scheme: str, plain_score: float | None
    ) -> tuple[_Candidate, dict[str, Any]]:
        """Return the final candidate, and the validation scores of all candidates.

        Args:
            plain_score: the score of the plain candidate if it has been measured.
        """
        candidates = {plain.spec: plain}
        files = {"float": self.source.path / ONNX_MODEL}
        if plain_score is None:
            files[PLAIN] = plain.folders[scheme] / ONNX_MODEL
        scores = self.comparison.scores(files)

        def score(spec: Int8Spec) -> float:
            candidates[spec] = self.write(spec, [scheme], f"remedy-{len(candidates)}")
            return self.comparison.scores({PLAIN: candidates[spec].folders[scheme] / ONNX_MODEL})[PLAIN]

        outcome = apply_remedies(
            plain.spec,
            plain.writer.layers(),
            self.ctx.task.kind,
            scores["float"],
            scores[PLAIN] if plain_score is None else plain_score,
            score,
        )
        if outcome.message is not None:
            self.ctx.progress.say(f"quantize: {outcome.message}")
        return candidates[outcome.spec], outcome.facts


def _probe_gain(ctx: StepContext, source: Artifact, layers: Sequence[Layer]) -> dict[str, Any]:
    """Measure the INT8 speed-up on the timing target and warn if there is none; return the facts.

    Skipped for GPUs, which the probe does not cover.
    """
    target = ctx.timing_target
    if target.spec.device == "cuda":
        return {}
    result = probe(shapes_of(layers), typical_rows(ctx, source), target)
    message = warning(result, machine=target.machine_name)
    if message is not None:
        ctx.progress.say(f"quantize: {message}")
    return {"probe": {"processor": target.description["cpu"]["model"], **result.facts()}}
