"""Write a float model with all or some of its layers quantized to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL
from compress.core.disk.files import make_empty_folder
from compress.core.numerics import reduced_range
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.passes.quantize.calibration.activation_ranges import calibrate
from compress.passes.quantize.calibration.ranges import Range
from compress.passes.quantize.half.conversion import store_in_half
from compress.passes.quantize.int8.affine import weight_limit
from compress.passes.quantize.int8.bias_correction import correct_biases
from compress.passes.quantize.int8.dynamic import quantize_dynamic
from compress.passes.quantize.int8.qdq import convert_to_qdq
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import calibrated_value_names, quantize_static, required_value_names
from compress.passes.quantize.layers import Layer, Table, layers_to_quantize, weight_name


class QuantizedWriter:
    """Writes a prepared model in quantized variants; each range is calibrated once."""

    def __init__(
        self,
        prepared: Path,
        spec: Int8Spec,
        batches: Callable[[], Iterator[Batch]],
        work: Path,
    ) -> None:
        """
        Args:
            prepared: folder of the float model.
            spec: how to quantize.
            batches: starts an iteration over the calibration examples.
            work: folder for temporary instrumented graphs.
        """
        self.prepared = prepared
        self._spec = spec
        self._batches = batches
        self._work = work
        self._ranges: dict[str, Range] = {}
        self._calibrated_names: set[str] = set()

    def layers(self) -> list[Layer]:
        """Return the layers that are quantized by default; tables only if the spec quantizes them."""
        chosen = self._layers_to_quantize(ir.load(self.prepared / ONNX_MODEL))
        return [layer for layer in chosen if self._spec.embeddings or not isinstance(layer, Table)]

    def write(self, scheme: str, folder: Path, float_weights: Collection[str] = ()) -> dict[str, Any]:
        """Write the model quantized with a scheme into `folder`, which is emptied first.

        Args:
            float_weights: names of weights whose layers stay in floating point; those are stored in 16 bits.

        Returns:
            Further facts about the result.
        """
        make_empty_folder(folder)
        spec, path = self._spec, self.prepared / ONNX_MODEL
        model = ir.load(path)
        layers = self._layers_to_quantize(model, float_weights)
        reduced = reduced_range(spec.reduce_range)
        limit = weight_limit(reduced)
        facts: dict[str, Any] = {"reduced_range": reduced}
        ranges = self._calibrate(model, layers) if scheme == "static" else {}
        if spec.bias_correction:
            facts["corrected_biases"] = correct_biases(
                model,
                layers,
                ranges,
                path,
                self._batches,
                self._work,
                per_channel=spec.per_channel,
                limit=limit,
            )
            layers = self._layers_to_quantize(model, float_weights)
        tables: dict[str, Any] = {"embeddings": bool(spec.embeddings), "table_bits": spec.table_bits}
        if scheme == "dynamic":
            quantize_dynamic(model, layers, per_channel=spec.per_channel, limit=limit, **tables)
        else:
            quantize_static(model, layers, ranges, per_channel=spec.per_channel, limit=limit, **tables)
        if float_weights:
            store_in_half(model, "fp16", float_weights)
        if spec.format == "qdq":
            convert_to_qdq(model)
        save_onnx(model, folder)
        return facts

    def _layers_to_quantize(self, model: ir.Model, float_weights: Collection[str] = ()) -> list[Layer]:
        chosen = layers_to_quantize(model.graph, self._spec)
        return [layer for layer in chosen if weight_name(layer) not in float_weights]

    def _calibrate(self, model: ir.Model, layers: list[Layer]) -> Mapping[str, Range]:
        spec = self._spec
        names = calibrated_value_names(model.graph, layers)
        uncalibrated = [name for name in names if name not in self._calibrated_names]
        if uncalibrated:
            self._ranges |= calibrate(
                self.prepared / ONNX_MODEL,
                uncalibrated,
                self._batches,
                spec.calibration.method,
                self._work,
                percentile=spec.calibration.percentile,
                symmetric=spec.calibration.symmetric,
                optional=set(uncalibrated) - required_value_names(layers),
            )
            self._calibrated_names |= set(uncalibrated)
        return {name: self._ranges[name] for name in names if name in self._ranges}
