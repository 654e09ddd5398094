"""quantize: 8-bit integers or 4-bit blocks, chosen by measuring where the profile leaves the choice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.artifacts import ONNX_MODEL, Artifact, copy_interface
from compress.errors import ModelError, PassError
from compress.forms import Numbers
from compress.lowering.files import save_onnx
from compress.measure.variants import compare_variants
from compress.passes.quantize.calibration import calibrate
from compress.passes.quantize.choice import Candidate, choose
from compress.passes.quantize.counting import Products, count_products
from compress.passes.quantize.dynamic import quantize_dynamic
from compress.passes.quantize.layers import Convolution, Layer, Table, layers, split_excluded, weight_of
from compress.passes.quantize.static import convolutions, quantize_static, ranged_values
from compress.passes.quantize.weight_only import quantize_weights
from compress.profile.pass_specs import QuantizeSpec
from compress.step import StepContext, StepResult
from compress.tasks.base import Batch, Truth
from compress.units import megabytes


def run(ctx: StepContext) -> StepResult:
    """Quantize by the scheme asked for, or by the better one, and count what really runs in integers.

    Raises:
        PassError: the file did not shrink, or a product with a constant weight still multiplies floats.
        ModelError: `exclude` names nothing, or the scheme does not fit a layer.
    """
    spec, source = ctx.spec, ctx.inputs["model"]
    assert isinstance(spec, QuantizeSpec)
    schemes = schemes_for(spec, convolutions(_chosen(ir.load(source.path / ONNX_MODEL), spec)))
    folders = {scheme: ctx.work / scheme for scheme in schemes}
    for scheme, folder in folders.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(ctx, spec, source, scheme, folder)
    variants = _measured(ctx, source, folders) if len(folders) > 1 else {}
    chosen = choose(variants) if variants else schemes[0]
    products = check_promise(source.path, folders[chosen], left_floating(source.path, spec), chosen)
    for file in folders[chosen].iterdir():
        shutil.move(file, ctx.out / file.name)
    copy_interface(source.path, ctx.out)
    for folder in folders.values():
        shutil.rmtree(folder)
    facts: dict[str, Any] = {
        **source.facts,
        "bits": spec.bits,
        "scheme": chosen,
        "integer_matmuls": products.integer,
        "weight_only_matmuls": products.weight_only,
        "float_matmuls": len(products.floating),
        "size_mb_before": megabytes(_bytes(source.path)),
        "size_mb_after": megabytes(_bytes(ctx.out)),
    }
    if variants:
        facts["variants"] = {name: asdict(one) for name, one in variants.items()}
    numbers = Numbers.WEIGHT_ONLY if spec.bits == 4 else Numbers.OPERATOR
    return StepResult(source.form.with_(numbers=numbers), facts)


def schemes_for(spec: QuantizeSpec, convolutions: Sequence[Convolution]) -> list[str]:
    """The schemes that a spec asks for, of a model with these convolutions to quantize; several are measured.

    Raises:
        ModelError: the scheme has no convolutions.
    """
    if not convolutions:
        if spec.bits == 4:
            return ["weight_only"]
        return ["dynamic", "static"] if spec.scheme == "auto" else [spec.scheme]
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


def _chosen(model: ir.Model, spec: QuantizeSpec) -> list[Layer]:
    return split_excluded(list(layers(model.graph)), spec.exclude)[0]


def _write(ctx: StepContext, spec: QuantizeSpec, source: Artifact, scheme: str, folder: Path) -> None:
    """Write the model quantized by one scheme into `folder`."""
    model = ir.load(source.path / ONNX_MODEL)
    chosen = _chosen(model, spec)
    tables: dict[str, Any] = {"embeddings": bool(spec.embeddings), "table_bits": spec.table_bits}
    if scheme == "weight_only":
        quantize_weights(model, chosen, block_size=spec.block_size, symmetric=spec.symmetric, **tables)
    elif scheme == "dynamic":
        quantize_dynamic(model, chosen, per_channel=spec.per_channel, **tables)
    else:
        batches = calibration_batches(ctx, source, spec.calibration.examples)
        ranges = calibrate(
            source.path / ONNX_MODEL,
            ranged_values(model.graph, chosen),
            batches,
            spec.calibration.method,
            ctx.work,
        )
        quantize_static(model, chosen, ranges, per_channel=spec.per_channel, **tables)
    save_onnx(model, folder)


def calibration_batches(ctx: StepContext, source: Artifact, count: int) -> Callable[[], Iterator[Batch]]:
    """Starts an iteration over `count` training examples, drawn by the seed, one at a time and so without padding."""
    train = ctx.data.train
    drawn = np.sort(np.random.default_rng(ctx.seed).permutation(len(train))[:count])
    inputs = ctx.task.encode(train.take(drawn), source.path)
    return lambda: (inputs.batch([index]) for index in range(len(inputs)))


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
    _, excluded = split_excluded(found, spec.exclude)
    return [weight_of(layer).name or "" for layer in excluded if not isinstance(layer, Table)]


def check_promise(before: Path, after: Path, allowed: list[str], scheme: str) -> Products:
    """The file is smaller, and every product with a constant weight is quantized unless it was excluded.

    Raises:
        PassError: one of the two does not hold.
    """
    sizes = _bytes(before), _bytes(after)
    if sizes[1] >= sizes[0]:
        raise PassError(
            f"the {scheme} file has {megabytes(sizes[1]):.3f} MB, the float one {megabytes(sizes[0]):.3f} MB",
            where="quantize",
            hint="Nothing of this model is worth quantizing, or `exclude` leaves too much of it out.",
        )
    products = count_products(after / ONNX_MODEL, allowed)
    if products.floating:
        names = ", ".join(products.floating[:5])
        raise PassError(
            f"{len(products.floating)} products with a constant weight still multiply floats: {names}",
            where="quantize",
            hint="If that is wanted, name them in `exclude`.",
        )
    return products


def _bytes(folder: Path) -> int:
    """Bytes of the model and its external data."""
    return sum(file.stat().st_size for file in folder.glob(f"{ONNX_MODEL}*"))
