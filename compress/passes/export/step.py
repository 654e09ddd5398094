"""export: package an ONNX model with everything needed to use it, and verify that its outputs are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.bundles.answers import bundle_code_of
from compress.bundles.layout import GOLDEN, LABELS, OPERATORS, RUNNER
from compress.bundles.manifest import write_manifest
from compress.core.artifacts import ONNX_MODEL, ORT_MODEL, TASK, TOKENIZER
from compress.core.disk.files import copy_file, write_json
from compress.core.forms import NumberFormat
from compress.core.units import megabytes
from compress.lowering.files import check_onnx, write_optimized
from compress.lowering.parity import RELATIVE_TOLERANCE, compare_outputs, onnx_predictor, real_batches
from compress.passes.export.golden import choose_items, golden_examples
from compress.passes.export.mobile import mobile_usability, operators_in, write_operators
from compress.passes.export.spec import ExportSpec
from compress.runtimes import runner
from compress.step import StepContext, StepResult

QUANTIZED_LIMIT = 0.02
"""Allowed difference over the largest output of a quantized model, in which summation order may change a rounding."""


def run(ctx: StepContext) -> StepResult:
    """Copy the measured model, add the requested formats, compare them with the input model, and describe everything.

    Raises:
        PassError: a file is not valid, or does not reproduce the outputs of the input model.
    """
    spec, source = ctx.spec, ctx.inputs["model"]
    assert isinstance(spec, ExportSpec)
    task = source.read_json(TASK)
    for file in source.files:
        if file.startswith(ONNX_MODEL) or file in (TOKENIZER, TASK):
            copy_file(source.path / file, ctx.out / file)
    check_onnx(ctx.out / ONNX_MODEL)
    models = [ONNX_MODEL]
    if "ort" in spec.formats:
        write_optimized(ctx.out / ONNX_MODEL, ctx.out / ORT_MODEL, hardware_specific=False, ort_format=True)
        write_operators(ctx.out / ORT_MODEL, ctx.out / OPERATORS)
        models.append(ORT_MODEL)
    limit = RELATIVE_TOLERANCE if source.form.numbers is NumberFormat.FLOAT else QUANTIZED_LIMIT
    expected = onnx_predictor(source.path / ONNX_MODEL)
    shapes = real_batches(ctx.task, ctx.data.validation, source)
    parity = {file: compare_outputs(ctx.out / file, shapes, expected, limit) for file in models}
    format_facts: dict[str, Any] = {}
    if spec.has_language_format:
        from compress.passes.export.language import write_formats

        format_facts = write_formats(ctx, spec)
    if task["labels"]:
        write_json(ctx.out / LABELS, task["labels"])
    copy_file(Path(runner.__file__), ctx.out / RUNNER)
    bundle_code = bundle_code_of(ctx.task.kind)
    for name, code in bundle_code.code().items():
        copy_file(code, ctx.out / name)
    tolerance = bundle_code.tolerance_for(source.form)
    items = choose_items(ctx.data.validation, spec.golden, ctx.seed)
    write_json(ctx.out / GOLDEN, golden_examples(ctx.out, items, bundle_code, tolerance))
    form = source.form.with_fields(bundled=True)
    facts: dict[str, Any] = {
        **source.facts,
        **format_facts,
        "formats": models,
        "export_parity": parity,
        "golden": len(items),
    }
    if ORT_MODEL in models:
        facts["ort_size_mb"] = megabytes((ctx.out / ORT_MODEL).stat().st_size)
        facts["operators"] = operators_in(ctx.out / OPERATORS)
        facts["mobile"] = mobile_usability(ctx.out / ONNX_MODEL)
    write_manifest(ctx.out, form, facts, task, tolerance, name=str(task["task"]))
    return StepResult(form, facts)
