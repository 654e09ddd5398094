"""Write a float model with all or some of its layers quantized to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL
from compress.core.disk.files import empty_folder
from compress.core.numerics import reduced_range
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.passes.quantize.calibration.activation_ranges import calibrate
from compress.passes.quantize.calibration.ranges import Range
from compress.passes.quantize.half.conversion import store_in_half
from compress.passes.quantize.int8.affine import weight_limit
from compress.passes.quantize.int8.bias_correction import correct_biases
from compress.passes.quantize.int8.dynamic import quantize_dynamic
from compress.passes.quantize.int8.qdq import write_pairs
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.int8.static import needed_values, quantize_static, ranged_values
from compress.passes.quantize.layers import Layer, Table, layers_to_quantize, weight_name


class Writer:
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
        self._seen: set[str] = set()

    def layers(self) -> list[Layer]:
        """Return the layers that are quantized by default; tables only if the spec quantizes them."""
        chosen = self._chosen(ir.load(self.prepared / ONNX_MODEL))
        return [layer for layer in chosen if self._spec.embeddings or not isinstance(layer, Table)]

    def write(self, scheme: str, folder: Path, given_back: Collection[str] = ()) -> dict[str, Any]:
        """Write the model quantized with a scheme into `folder`, which is emptied first.

        Args:
            given_back: names of weights whose layers stay in floating point; those are stored in 16 bits.

        Returns:
            Further facts about the result.
        """
        empty_folder(folder)
        spec, path = self._spec, self.prepared / ONNX_MODEL
        model = ir.load(path)
        chosen = self._chosen(model, given_back)
        reduced = reduced_range(spec.reduce_range)
        limit = weight_limit(reduced)
        done: dict[str, Any] = {"reduced_range": reduced}
        ranges = self._calibrated(model, chosen) if scheme == "static" else {}
        if spec.bias_correction:
            done["corrected_biases"] = correct_biases(
                model,
                chosen,
                ranges,
                path,
                self._batches,
                self._work,
                per_channel=spec.per_channel,
                limit=limit,
            )
            chosen = self._chosen(model, given_back)
        tables: dict[str, Any] = {"embeddings": bool(spec.embeddings), "table_bits": spec.table_bits}
        if scheme == "dynamic":
            quantize_dynamic(model, chosen, per_channel=spec.per_channel, limit=limit, **tables)
        else:
            quantize_static(model, chosen, ranges, per_channel=spec.per_channel, limit=limit, **tables)
        if given_back:
            store_in_half(model, "fp16", given_back)
        if spec.format == "qdq":
            write_pairs(model)
        save_onnx(model, folder)
        return done

    def _chosen(self, model: ir.Model, given_back: Collection[str] = ()) -> list[Layer]:
        chosen = layers_to_quantize(model.graph, self._spec)
        return [layer for layer in chosen if weight_name(layer) not in given_back]

    def _calibrated(self, model: ir.Model, chosen: list[Layer]) -> Mapping[str, Range]:
        spec = self._spec
        wanted = ranged_values(model.graph, chosen)
        unknown = [name for name in wanted if name not in self._seen]
        if unknown:
            self._ranges |= calibrate(
                self.prepared / ONNX_MODEL,
                unknown,
                self._batches,
                spec.calibration.method,
                self._work,
                percentile=spec.calibration.percentile,
                symmetric=spec.calibration.symmetric,
                optional=set(unknown) - needed_values(chosen),
            )
            self._seen |= set(unknown)
        return {name: self._ranges[name] for name in wanted if name in self._ranges}
