"""quantize: 8-bit integers or 4-bit blocks, chosen by measuring where the profile leaves the choice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.artifacts import ONNX_MODEL, Artifact, copy_interface
from compress.errors import ModelError, PassError
from compress.lowering.files import save_onnx
from compress.measure.variants import compare_variants
from compress.numerics import reduced_range
from compress.passes.quantize.bias import correct_biases
from compress.passes.quantize.calibration import calibrate
from compress.passes.quantize.choice import Candidate, choose
from compress.passes.quantize.counting import Products, count_products
from compress.passes.quantize.dynamic import quantize_dynamic
from compress.passes.quantize.four_bits import quantize_to_four_bits
from compress.passes.quantize.integers import INT8_LIMIT, REDUCED_LIMIT
from compress.passes.quantize.layers import (
    Convolution,
    Layer,
    Table,
    layers,
    layers_to_quantize,
    split_excluded,
    weight_of,
)
from compress.passes.quantize.pairs import write_pairs
from compress.passes.quantize.preparation import prepare
from compress.passes.quantize.probe import probe, shapes_of, warning
from compress.passes.quantize.ranges import Range
from compress.passes.quantize.shrinking import model_bytes, sizes_in_facts
from compress.passes.quantize.static import convolutions, quantize_static, ranged_values
from compress.profile.pass_specs import QuantizeSpec
from compress.step import StepContext, StepResult
from compress.targets.local import cpu
from compress.tasks.base import Batch, Inputs, Truth

TYPICAL = 256
"""Training examples whose median length is the typical one."""


def run(ctx: StepContext) -> StepResult:
    """Quantize by the scheme asked for, or by the better one, and count what really runs in integers.

    Raises:
        PassError: the file did not shrink, or a product with a constant weight still multiplies floats.
        ModelError: `exclude` names nothing, or the scheme does not fit a layer.
    """
    spec, source = ctx.spec, ctx.inputs["model"]
    assert isinstance(spec, QuantizeSpec)
    chosen_layers = layers_to_quantize(
        ir.load(source.path / ONNX_MODEL).graph, spec.exclude, spec.exclude_kinds
    )
    schemes = schemes_for(spec, convolutions(chosen_layers))
    facts = {**source.facts, **(_probed(ctx, source, chosen_layers) if spec.bits == 8 else {})}
    batches = calibration_batches(ctx, source, spec.calibration_examples)
    prepared, done = prepare(source.path, spec, batches, ctx.work)
    folders = {scheme: ctx.work / scheme for scheme in schemes}
    for scheme, folder in folders.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done |= _write(ctx, spec, prepared, batches, scheme, folder)
    variants = _measured(ctx, source, folders) if len(folders) > 1 else {}
    chosen = choose(variants) if variants else schemes[0]
    products, sizes = check_promise(source.path, folders[chosen], left_floating(source.path, spec), chosen)
    for file in folders[chosen].iterdir():
        shutil.move(file, ctx.out / file.name)
    copy_interface(source.path, ctx.out)
    for folder in {*folders.values(), prepared} - {source.path}:
        shutil.rmtree(folder)
    facts |= {
        **done,
        "bits": spec.bits,
        "scheme": chosen,
        "integer_matmuls": products.integer,
        "weight_only_matmuls": products.weight_only,
        "float_matmuls": len(products.floating),
        **sizes,
    }
    if variants:
        facts["variants"] = {name: asdict(one) for name, one in variants.items()}
    return StepResult(spec.produces(source.form), facts)


def _probed(ctx: StepContext, source: Artifact, chosen: Sequence[Layer]) -> dict[str, Any]:
    """What 8 bits gain on this machine, for the facts; says so where it is nothing."""
    some = ctx.data.train.take(range(min(TYPICAL, len(ctx.data.train))))
    rows = int(np.median(ctx.task.encode(some, source.path).lengths))
    found = probe(shapes_of(chosen), rows, ctx.threads, cpu()["flags"])
    message = warning(found)
    if message is not None:
        ctx.progress.say(f"quantize: {message}")
    return {"probe": found.facts()}


def schemes_for(spec: QuantizeSpec, convolutions: Sequence[Convolution]) -> list[str]:
    """The schemes that a spec asks for, of a model with these convolutions to quantize; several are measured.

    Raises:
        ModelError: the scheme has no convolutions.
    """
    if not convolutions:
        if spec.bits == 4:
            return ["weight_only"]
        measured = ["static"] if spec.format == "qdq" else ["dynamic", "static"]
        return measured if spec.scheme == "auto" else [spec.scheme]
    names = ", ".join(layer.node.name or "" for layer in convolutions[:3])
    found = f"{len(convolutions)} convolutions ({names}{', ...' if len(convolutions) > 3 else ''})"
    if spec.bits == 4:
        raise ModelError(
            f"this model has {found}, and weights in 4-bit blocks exist for matrix products only",
            where="quantize.bits",
            hint="Set `bits: 8`, or name the convolutions in `exclude` to leave them floating.",
        )
    if spec.scheme == "dynamic":
        raise ModelError(
            f"this model has {found}, which are slower with ranges found at run time than in floating point",
            where="quantize.scheme",
            hint="Set `scheme: static` (or `auto`, which takes it), or name the convolutions in `exclude`.",
        )
    return ["static"]


def _write(
    ctx: StepContext,
    spec: QuantizeSpec,
    prepared: Path,
    batches: Callable[[], Iterator[Batch]],
    scheme: str,
    folder: Path,
) -> dict[str, Any]:
    """Write the model quantized by one scheme into `folder`; what was done besides, for the facts."""
    path = prepared / ONNX_MODEL
    model = ir.load(path)
    if scheme == "weight_only":
        quantize_to_four_bits(model, path, spec, batches, ctx.work)
        save_onnx(model, folder)
        return {}
    chosen = layers_to_quantize(model.graph, spec.exclude, spec.exclude_kinds)
    tables: dict[str, Any] = {"embeddings": bool(spec.embeddings), "table_bits": spec.table_bits}
    limit = REDUCED_LIMIT if reduced_range(spec.reduce_range) else INT8_LIMIT
    done: dict[str, Any] = {"reduced_range": limit == REDUCED_LIMIT}
    ranges: dict[str, Range] = {}
    if scheme == "static":
        ranges = calibrate(
            path,
            ranged_values(model.graph, chosen),
            batches,
            spec.calibration.method,
            ctx.work,
            percentile=spec.calibration.percentile,
            symmetric=spec.calibration.symmetric,
        )
    if spec.bias_correction:
        done["corrected_biases"] = correct_biases(
            model, chosen, ranges, path, batches, ctx.work, per_channel=spec.per_channel, limit=limit
        )
        chosen = layers_to_quantize(model.graph, spec.exclude, spec.exclude_kinds)
    if scheme == "dynamic":
        quantize_dynamic(model, chosen, per_channel=spec.per_channel, limit=limit, **tables)
    else:
        quantize_static(model, chosen, ranges, per_channel=spec.per_channel, limit=limit, **tables)
    if spec.format == "qdq":
        write_pairs(model)
    save_onnx(model, folder)
    return done


def calibration_batches(ctx: StepContext, source: Artifact, count: int) -> Callable[[], Iterator[Batch]]:
    """Starts an iteration over `count` training examples, drawn by the seed, one at a time and so without padding."""
    train = ctx.data.train
    drawn = np.sort(np.random.default_rng(ctx.seed).permutation(len(train))[:count])

    @cache
    def inputs() -> Inputs:
        # Encoded once, and only where a method reads examples at all.
        return ctx.task.encode(train.take(drawn), source.path)

    return lambda: (inputs().batch([index]) for index in range(len(drawn)))


def _measured(ctx: StepContext, source: Artifact, folders: dict[str, Path]) -> dict[str, Candidate]:
    """Score and latency of each scheme on the validation split; the float model is the reference of embeddings."""
    validation = ctx.data.validation
    ctx.progress.say(f"quantize: measuring {' and '.join(folders)} on {len(validation)} validation examples")
    found = compare_variants(
        {scheme: folder / ONNX_MODEL for scheme, folder in folders.items()},
        ctx.task.encode(validation, source.path),
        Truth.of(validation),
        ctx.task,
        ctx.threads,
        seed=ctx.seed,
        reference=source.path / ONNX_MODEL if ctx.task.needs_reference(validation) else None,
    )
    return {scheme: Candidate(score, p50_ms) for scheme, (score, p50_ms) in found.items()}


def left_floating(source: Path, spec: QuantizeSpec) -> list[str]:
    """Names of the weights that the user excluded."""
    found = list(layers(ir.load(source / ONNX_MODEL).graph))
    _, excluded = split_excluded(found, spec.exclude, spec.exclude_kinds)
    return [weight_of(layer).name or "" for layer in excluded if not isinstance(layer, Table)]


def check_promise(
    before: Path, after: Path, allowed: list[str], scheme: str
) -> tuple[Products, dict[str, float]]:
    """The file is smaller, and every product with a constant weight is quantized unless it was excluded.

    Returns:
        The products, and the sizes of both files for the facts.

    Raises:
        PassError: one of the two does not hold.
    """
    hint = "Nothing of this model is worth quantizing, or `exclude` leaves too much of it out."
    sizes = sizes_in_facts(model_bytes(before), model_bytes(after), scheme, hint)
    products = count_products(after / ONNX_MODEL, allowed)
    if products.floating:
        names = ", ".join(products.floating[:5])
        raise PassError(
            f"{len(products.floating)} products with a constant weight still multiply floats: {names}",
            where="quantize",
            hint="If that is wanted, name them in `exclude`.",
        )
    return products, sizes
