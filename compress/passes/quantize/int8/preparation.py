"""Preparation of the float graph before quantization; its outputs do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL
from compress.core.disk.files import make_empty_folder
from compress.core.numerics import reduced_range
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.passes.quantize.int8.affine import weight_limit
from compress.passes.quantize.int8.cross_layer_equalization import equalize
from compress.passes.quantize.int8.smoothquant import smooth
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.layers import layers_to_quantize


def prepare(
    folder: Path, spec: Int8Spec, batches: Callable[[], Iterator[Batch]], work: Path
) -> tuple[Path, dict[str, Any]]:
    """Equalize and smooth the model as the spec requests.

    Args:
        folder: of the float model.
        batches: starts an iteration over the calibration examples.
        work: parent folder of the prepared model.

    Returns:
        The folder of the model to quantize (`folder` if the spec requests nothing), and the facts.
    """
    smoothing = spec.smoothing
    if smoothing is None and not spec.equalize:
        return folder, {}
    prepared = work / "prepared"
    make_empty_folder(prepared)
    model = ir.load(folder / ONNX_MODEL)
    layers = layers_to_quantize(model.graph, spec)
    facts: dict[str, Any] = {}
    if spec.equalize:
        facts["equalized_pairs"] = equalize(layers)
    if smoothing is not None:
        alpha = None if smoothing.alpha == "search" else smoothing.alpha
        facts["smoothed"] = smooth(
            model,
            layers,
            folder / ONNX_MODEL,
            batches,
            work,
            alpha=alpha,
            per_channel=spec.per_channel,
            limit=weight_limit(reduced_range(spec.reduce_range)),
        )
    save_onnx(model, prepared)
    return prepared, facts
