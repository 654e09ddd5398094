"""quantize: 8-bit integers or 4-bit blocks; where the profile leaves a choice, variants are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL, Artifact, copy_interface
from compress.core.disk.files import empty_folder, make_folder, publish, remove
from compress.core.errors import ModelError, PassError
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.measuring.timing.disturbance import chosen_while_disturbed
from compress.measuring.variants import Contest, Variant
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.choice import choose
from compress.passes.quantize.int8.coverage import Products, count_products
from compress.passes.quantize.int8.gain.probe import probe, shapes_of, typical_length, warning
from compress.passes.quantize.int8.remedies import PLAIN, remedied
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import convolutions
from compress.passes.quantize.int8.writing import Writer
from compress.passes.quantize.kv_cache import store_cache
from compress.passes.quantize.layers import (
    Convolution,
    Layer,
    excluded_weights,
    layers_to_quantize,
    other_products,
)
from compress.passes.quantize.mixed.step import mix
from compress.passes.quantize.preparation import prepare
from compress.passes.quantize.size_check import model_bytes, sizes_in_facts
from compress.passes.quantize.spec import OnnxSpec
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.mixed import widened
from compress.passes.quantize.weight_only.rotation import TURNS, rotate
from compress.passes.quantize.weight_only.spec import DECODER_TOKENS, WeightOnlySpec
from compress.step import StepContext, StepResult
from compress.tasks.base import Truth

ATTEMPTS = "attempts"
"""Folder of the candidate models."""


def run(ctx: StepContext) -> StepResult:
    """Quantize by the requested scheme, or by the better one, and count the products that really run in integers.

    Raises:
        PassError: the file did not shrink, or a product with a constant weight is still in floating point.
        ModelError: a pattern in `exclude` matches nothing, or the scheme does not fit a layer.
    """
    spec, source = ctx.asked(OnnxSpec), ctx.inputs["model"]
    chosen = layers_to_quantize(ir.load(source.path / ONNX_MODEL).graph, spec)
    schemes = schemes_for(spec, convolutions(chosen))
    if isinstance(spec, Int8Spec):
        made = _integers(ctx, source, spec, schemes, chosen)
    else:
        assert isinstance(spec, WeightOnlySpec)
        made = _blocks(ctx, source, spec, schemes[0])
    products, sizes = check_promise(source.path, made.folder, made.floating, made.scheme)
    for file in made.folder.iterdir():
        publish(file, ctx.out / file.name)
    copy_interface(source.path, ctx.out)
    for folder in (ctx.work / ATTEMPTS, made.folder):
        remove(folder)
    facts = {
        **source.facts,
        **made.facts,
        "bits": spec.bits,
        "scheme": made.scheme,
        "integer_matmuls": products.integer,
        "weight_only_matmuls": products.weight_only,
        "float_matmuls": len(products.floating),
        **sizes,
        **made.choice,
    }
    return StepResult(spec.produces(source.form), facts)


@dataclass(frozen=True)
class _Made:
    """A quantized model: folder, scheme, names of the floating weights, facts, and measurements for `scheme: auto`."""

    folder: Path
    scheme: str
    floating: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)


def _blocks(ctx: StepContext, source: Artifact, spec: WeightOnlySpec, scheme: str) -> _Made:
    tokens = None if spec.calibration.examples is not None or not ctx.task.kind.writes else DECODER_TOKENS
    batches = calibration_batches(ctx, source, spec.calibration_examples, tokens)
    folder, path = ctx.work / ATTEMPTS / scheme, source.path / ONNX_MODEL
    empty_folder(folder)
    facts: dict[str, Any] = {}
    if spec.mixed is not None:
        spec, facts["eight_bits"] = widened(ctx, source, spec)
    model = ir.load(path)
    if spec.rotate:
        rotate(model.graph)
        empty_folder(turned := folder.parent / "rotated")
        path = save_onnx(model, turned)
        spec = spec.model_copy(update={"exclude": (*spec.exclude, *TURNS)})
    rounded = quantize_weights(model, path, spec, batches, folder.parent)
    facts["blocks"] = [one._asdict() for one in rounded]
    if spec.cache is not None:
        store_cache(model, batches, folder.parent)
    save_onnx(model, folder)
    return _Made(folder, scheme, excluded_weights(ir.load(path).graph, spec), facts)


def _integers(
    ctx: StepContext, source: Artifact, spec: Int8Spec, schemes: Sequence[str], of_integers: Sequence[Layer]
) -> _Made:
    facts = _probed(ctx, source, of_integers)
    batches = calibration_batches(ctx, source, spec.calibration_examples)
    attempt = _attempt(ctx, source, spec, schemes, batches, PLAIN)
    contest = _contest(ctx, source)
    variants = _measured(ctx, contest, attempt.folders) if len(schemes) > 1 else {}
    chosen = choose(variants, ctx.task.kind.metric) if variants else schemes[0]
    known = variants[chosen].score if variants else None
    attempt, facts["on_validation"] = _remedied(ctx, source, attempt, chosen, batches, known, contest)
    facts |= attempt.done
    result = attempt.folders[chosen]
    floating = excluded_weights(ir.load(source.path / ONNX_MODEL).graph, spec)
    if spec.mixed is not None:
        mixture = mix(ctx, spec.mixed, attempt.writer, chosen, source)
        result, floating = mixture.folder, [*floating, *mixture.given_back]
        facts["mixed"] = mixture.facts
    choice: dict[str, Any] = {}
    if variants:
        choice["variants"] = {name: one._asdict() for name, one in variants.items()}
        choice["timed_on"] = ctx.timing_target.label
        choice["timing_disturbed"] = any(one.disturbed for one in variants.values())
    return _Made(result, chosen, floating, facts, choice)


@dataclass(frozen=True)
class _Attempt:
    """A model quantized by a spec: its writer, the folder of each scheme, and further facts."""

    spec: Int8Spec
    writer: Writer
    folders: dict[str, Path]
    done: dict[str, Any]


def _attempt(
    ctx: StepContext,
    source: Artifact,
    spec: Int8Spec,
    schemes: Sequence[str],
    batches: Callable[[], Iterator[Batch]],
    name: str,
) -> _Attempt:
    work = ctx.work / ATTEMPTS / name
    make_folder(work)
    prepared, done = prepare(source.path, spec, batches, work)
    writer = Writer(prepared, spec, batches, work)
    folders = {scheme: work / scheme for scheme in schemes}
    for scheme, folder in folders.items():
        done |= writer.write(scheme, folder)
    return _Attempt(spec, writer, folders, done)


def _remedied(
    ctx: StepContext,
    source: Artifact,
    plain: _Attempt,
    scheme: str,
    batches: Callable[[], Iterator[Batch]],
    known: float | None,
    contest: Contest,
) -> tuple[_Attempt, dict[str, Any]]:
    """Return the final attempt, and the validation scores of all candidates.

    Args:
        known: the score of the plain attempt if it has been measured.
    """
    made = {plain.spec: plain}
    files = {"float": source.path / ONNX_MODEL}
    if known is None:
        files[PLAIN] = plain.folders[scheme] / ONNX_MODEL
    scores = contest.scores(files)

    def score(spec: Int8Spec) -> float:
        made[spec] = _attempt(ctx, source, spec, [scheme], batches, f"remedy-{len(made)}")
        return contest.scores({PLAIN: made[spec].folders[scheme] / ONNX_MODEL})[PLAIN]

    chosen_layers = plain.writer.layers()
    plain_score = scores[PLAIN] if known is None else known
    outcome = remedied(plain.spec, chosen_layers, ctx.task.kind, scores["float"], plain_score, score)
    if outcome.message is not None:
        ctx.progress.say(f"quantize: {outcome.message}")
    return made[outcome.spec], outcome.facts


def _contest(ctx: StepContext, source: Artifact) -> Contest:
    """Set up the comparison of variants on validation data; the float model is the reference of embeddings."""
    validation = ctx.data.validation
    return Contest(
        ctx.task.encode(validation, source.path),
        Truth.of(validation),
        ctx.task,
        ctx.timing_target,
        ctx.seed,
        source.path / ONNX_MODEL if ctx.task.needs_reference(validation) else None,
    )


def _probed(ctx: StepContext, source: Artifact, chosen: Sequence[Layer]) -> dict[str, Any]:
    """Measure the INT8 speed-up on the timing target and warn if there is none; return the facts.

    Skipped for GPUs, which the probe does not cover.
    """
    target = ctx.timing_target
    if target.spec.device == "cuda":
        return {}
    found = probe(shapes_of(chosen), typical_length(ctx, source), target)
    message = warning(found, machine=target.place)
    if message is not None:
        ctx.progress.say(f"quantize: {message}")
    return {"probe": {"processor": target.description["cpu"]["model"], **found.facts()}}


def schemes_for(spec: OnnxSpec, convolutions: Sequence[Convolution]) -> list[str]:
    """Return the schemes to try for a spec and a model with these convolutions; several are measured.

    Raises:
        ModelError: the requested scheme does not support convolutions.
    """
    if not convolutions:
        if not isinstance(spec, Int8Spec):
            return ["weight_only"]
        measured = ["static"] if spec.format == "qdq" else ["dynamic", "static"]
        return measured if spec.scheme == "auto" else [spec.scheme]
    names = ", ".join(layer.node.name or "" for layer in convolutions[:3])
    found = f"{len(convolutions)} convolutions ({names}{', ...' if len(convolutions) > 3 else ''})"
    if not isinstance(spec, Int8Spec):
        raise ModelError(
            f"this model has {found}, but 4-bit block weights are supported for matrix products only",
            where="quantize.bits",
            hint="Set `bits: 8`, or list the convolutions in `exclude` to keep them in floating point.",
        )
    if spec.scheme == "dynamic":
        raise ModelError(
            f"this model has {found}, which are slower with dynamic ranges than in floating point",
            where="quantize.scheme",
            hint="Set `scheme: static` (or `auto`, which chooses it), or list the convolutions in `exclude`.",
        )
    return ["static"]


def _measured(ctx: StepContext, contest: Contest, folders: dict[str, Path]) -> dict[str, Variant]:
    """Score and latency of each scheme on the validation split."""
    ctx.progress.say(
        f"quantize: measuring {' and '.join(folders)} on {len(contest.inputs)} validation examples, on "
        f"{ctx.timing_target.place}"
    )
    found = contest.compare({scheme: folder / ONNX_MODEL for scheme, folder in folders.items()})
    if any(one.disturbed for one in found.values()):
        ctx.progress.say(chosen_while_disturbed("quantize", ctx.timing_target.place))
    return found


def check_promise(
    before: Path, after: Path, allowed: list[str], scheme: str
) -> tuple[Products, dict[str, float]]:
    """Check that the file is smaller and that every product with a constant weight is quantized unless excluded.

    Args:
        allowed: names of the weights that may stay in floating point.

    Returns:
        The counted products, and the sizes of both files for the facts.

    Raises:
        PassError: either check fails.
    """
    hint = "Nothing in this model is worth quantizing, or `exclude` leaves too much of it out."
    sizes = sizes_in_facts(model_bytes(before), model_bytes(after), scheme, hint)
    products = count_products(after / ONNX_MODEL, allowed)
    if products.floating:
        # A session renames what it fuses, but `exclude` refers to the names in the file.
        others = other_products(ir.load(after / ONNX_MODEL).graph)
        named = [node.name or "" for node, weight in others.items() if weight not in allowed]
        names = ", ".join((named or products.floating)[:5])
        raise PassError(
            f"{len(products.floating)} products with a constant weight are still in floating point: {names}",
            where="quantize",
            hint="If that is intended, list them in `exclude`.",
        )
    return products, sizes
