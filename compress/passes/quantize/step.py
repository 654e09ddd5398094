"""quantize: 8-bit integers or blocks of 4 or 8 bits; where the profile leaves a choice, variants are measured."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL, Artifact, copy_interface
from compress.core.disk.files import make_empty_folder, publish, remove
from compress.lowering.files import save_onnx
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import convolutions
from compress.passes.quantize.int8.step import ATTEMPTS, quantize_int8
from compress.passes.quantize.kv_cache import quantize_kv_cache
from compress.passes.quantize.layers import excluded_weights, layers_to_quantize
from compress.passes.quantize.result import QuantizedModel, check_result
from compress.passes.quantize.schemes import schemes_for
from compress.passes.quantize.spec import OnnxSpec
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.mixed import with_eight_bits
from compress.passes.quantize.weight_only.rotation import ROTATIONS, rotate
from compress.passes.quantize.weight_only.spec import DECODER_TOKENS, WeightOnlySpec
from compress.step import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Quantize by the requested scheme, or by the better one, and count the products that really run in integers.

    Raises:
        PassError: the file did not shrink, or a product with a constant weight is still in floating point.
        ModelError: a pattern in `exclude` matches nothing, or the scheme does not fit a layer.
    """
    spec, source = ctx.spec_as(OnnxSpec), ctx.inputs["model"]
    graph = ir.load(source.path / ONNX_MODEL).graph
    schemes = schemes_for(spec, convolutions(layers_to_quantize(graph, spec)))
    if isinstance(spec, Int8Spec):
        model = quantize_int8(ctx, source, spec, schemes, graph)
    else:
        assert isinstance(spec, WeightOnlySpec)
        model = _quantize_blocks(ctx, source, spec, schemes[0])
    checked = check_result(source.path, model)
    for file in model.folder.iterdir():
        publish(file, ctx.out / file.name)
    copy_interface(source.path, ctx.out)
    for folder in (ctx.work / ATTEMPTS, model.folder):
        remove(folder)
    facts = {**source.facts, **model.facts, "bits": spec.bits, "scheme": model.scheme, **checked}
    return StepResult(spec.produces(source.form), facts)


def _quantize_blocks(ctx: StepContext, source: Artifact, spec: WeightOnlySpec, scheme: str) -> QuantizedModel:
    tokens = None if spec.calibration.examples is not None or not ctx.task.kind.generates else DECODER_TOKENS
    batches = calibration_batches(ctx, source, spec.calibration_examples, tokens)
    folder, path = ctx.work / ATTEMPTS / scheme, source.path / ONNX_MODEL
    make_empty_folder(folder)
    facts: dict[str, Any] = {}
    if spec.mixed is not None:
        spec, facts["eight_bits"] = with_eight_bits(ctx, source, spec)
    model = ir.load(path)
    if spec.rotate:
        rotate(model.graph)
        make_empty_folder(rotated := folder.parent / "rotated")
        path = save_onnx(model, rotated)
        spec = spec.model_copy(update={"exclude": (*spec.exclude, *ROTATIONS)})
    float_weights = excluded_weights(model.graph, spec)
    results = quantize_weights(model, path, spec, batches, folder.parent)
    facts["blocks"] = [one._asdict() for one in results]
    if spec.cache is not None:
        quantize_kv_cache(model, batches, folder.parent)
    save_onnx(model, folder)
    return QuantizedModel(folder, scheme, float_weights, facts)
