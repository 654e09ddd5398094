"""quantize: 8-bit integers or 4-bit blocks, chosen by measuring where the profile leaves the choice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.artifacts import ONNX_MODEL, TASK, TOKENIZER, Artifact
from compress.data.splits import Examples
from compress.errors import PassError
from compress.forms import Numbers
from compress.lowering.files import save_onnx
from compress.measure.variants import compare_variants
from compress.passes.quantize.calibration import calibrate
from compress.passes.quantize.choice import Candidate, choose
from compress.passes.quantize.counting import Products, count_products
from compress.passes.quantize.dynamic import quantize_dynamic
from compress.passes.quantize.layers import Table, layers, split_excluded, weight_of
from compress.passes.quantize.static import quantize_static, ranged_values
from compress.passes.quantize.weight_only import quantize_weights
from compress.profile.pass_specs import QuantizeSpec
from compress.step import StepContext, StepResult
from compress.tasks.base import Batch
from compress.units import megabytes


def run(ctx: StepContext) -> StepResult:
    """Quantize by the scheme asked for, or by the better one, and count what really runs in integers.

    Raises:
        PassError: the file did not shrink, or a product with a constant weight still multiplies floats.
        ModelError: `exclude` names nothing, or a layer cannot be stored in 4 bits.
    """
    spec, source = ctx.spec, ctx.inputs["model"]
    assert isinstance(spec, QuantizeSpec)
    if spec.bits == 4:
        schemes = ["weight_only"]
    else:
        schemes = ["dynamic", "static"] if spec.scheme == "auto" else [spec.scheme]
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
    for name in (TOKENIZER, TASK):
        shutil.copyfile(source.path / name, ctx.out / name)
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


def _write(ctx: StepContext, spec: QuantizeSpec, source: Artifact, scheme: str, folder: Path) -> None:
    """Write the model quantized by one scheme into `folder`."""
    model = ir.load(source.path / ONNX_MODEL)
    chosen, _ = split_excluded(list(layers(model.graph)), spec.exclude)
    if scheme == "weight_only":
        quantize_weights(
            model,
            chosen,
            block_size=spec.block_size,
            symmetric=spec.symmetric,
            embeddings=spec.embeddings,
        )
    elif scheme == "dynamic":
        quantize_dynamic(model, chosen, per_channel=spec.per_channel, embeddings=spec.embeddings)
    else:
        batches = calibration_batches(ctx, source, spec.calibration.examples)
        ranges = calibrate(
            source.path / ONNX_MODEL, ranged_values(chosen), batches, spec.calibration.method, ctx.work
        )
        quantize_static(model, chosen, ranges, per_channel=spec.per_channel, embeddings=spec.embeddings)
    save_onnx(model, folder)


def calibration_batches(ctx: StepContext, source: Artifact, count: int) -> Callable[[], Iterator[Batch]]:
    """Starts an iteration over `count` training examples, drawn by the seed, one at a time and so without padding."""
    train = ctx.data.train
    drawn = np.sort(np.random.default_rng(ctx.seed).permutation(len(train))[:count])
    some = Examples(tuple(train.texts[index] for index in drawn), train.labels[drawn])
    inputs = ctx.task.encode(some, source.path)
    return lambda: (inputs.batch([index]) for index in range(len(inputs)))


def _measured(ctx: StepContext, source: Artifact, folders: dict[str, Path]) -> dict[str, Candidate]:
    """Score and latency of each scheme on the validation split."""
    validation = ctx.data.validation
    ctx.progress.say(f"quantize: measuring {' and '.join(folders)} on {len(validation)} validation examples")
    found = compare_variants(
        {scheme: folder / ONNX_MODEL for scheme, folder in folders.items()},
        ctx.task.encode(validation, source.path),
        validation.labels,
        ctx.task,
        ctx.threads,
        seed=ctx.seed,
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
