"""Probe the INT8 speed-up on a target: products of the model's own shapes, timed for seconds before the actual work.

A processor with instructions that accumulate byte products in 32 bits (VNNI, AMX; dot products on ARM) multiplies
integers faster than floats. Others may not, and on x86 they accumulate two products in 16 bits, which overflows: there
weights get one bit less.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.encoding.inputs import Batch
from compress.lowering.graph import MS_DOMAIN
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.disturbance import any_disturbed
from compress.measuring.timing.latency import milliseconds, time_models
from compress.passes.quantize.calibration.activation_capture import capture_activations
from compress.passes.quantize.layers import Layer, MatMulLayer, input_names, weighted_layers
from compress.profile.schema import MeasureSpec
from compress.step import StepContext
from compress.targets.local import ResolvedTarget

Shape = tuple[int, int]
"""Inputs and outputs of a linear layer."""

MIN_SPEEDUP = 1.1
"""A smaller speed-up of the products is no gain once the rest of the model is counted."""
SECONDS_PER_SHAPE = 0.2
MAX_SHAPES = 8
NUM_LENGTH_EXAMPLES = 256
"""Number of training examples from which the median length is taken."""
_DOT_PRODUCT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instructions that multiply bytes and accumulate in 32 bits."""


@dataclass(frozen=True)
class ShapeTiming:
    """Times of one shape in ms, float32 and integer product, and the number of layers that have it."""

    inputs: int
    outputs: int
    layers: int
    float_ms: float
    integer_ms: float


@dataclass(frozen=True)
class Probe:
    """Result of a probe: relevant CPU flags, rows per product, times by shape, and whether it was disturbed."""

    flags: tuple[str, ...]
    rows: int
    timings: tuple[ShapeTiming, ...]
    disturbed: bool = False

    @property
    def speedup(self) -> float | None:
        """Float time of all products over integer time; None without timings."""
        floats = sum(one.layers * one.float_ms for one in self.timings)
        integers = sum(one.layers * one.integer_ms for one in self.timings)
        return floats / integers if integers else None

    def facts(self) -> dict[str, Any]:
        """Return the probe as plain JSON values."""
        speedup = self.speedup
        return {
            "flags": list(self.flags),
            "rows": self.rows,
            "speedup": None if speedup is None else round(speedup, 3),
            "timings": [asdict(one) for one in self.timings],
            "timing_disturbed": self.disturbed,
        }


def shapes_of(quantized: Sequence[Layer]) -> Counter[Shape]:
    """Count the linear layers by shape (inputs, outputs)."""
    found = [layer.shape for layer in quantized if isinstance(layer, MatMulLayer)]
    return Counter((int(inputs), int(outputs)) for inputs, outputs in found)


def typical_rows(ctx: StepContext, source: Artifact) -> int:
    """Return the rows of the model's products on a typical training example.

    For texts, the median number of tokens as tokenized by the model `source`; for images, the most rows of any linear
    layer.
    """
    some = ctx.data.train.take(range(min(NUM_LENGTH_EXAMPLES, len(ctx.data.train))))
    inputs = ctx.task.encode(some, source.path)
    if ctx.task.kind.items != "image":
        return int(np.median(inputs.lengths))
    return max_rows(source.path / ONNX_MODEL, inputs.batch([0]), ctx.work)


def max_rows(path: Path, example: Batch, work: Path) -> int:
    """Return the largest number of rows that a linear layer of a float model reads for one example; 1 if it has none.

    Args:
        work: folder for a temporary copy of the model.
    """
    names = input_names(weighted_layers(ir.load(path).graph))
    (found,) = capture_activations(path, names, iter([example]), work)
    return max((values.size // values.shape[-1] for values in found.values()), default=1)


def probe(
    shapes: Mapping[Shape, int],
    rows: int,
    target: ResolvedTarget,
    *,
    max_shapes: int = MAX_SHAPES,
    patient: bool = False,
) -> Probe:
    """Time random weights and inputs of the `max_shapes` most expensive shapes on a target.

    Runs in a child process and alternates between float and integer products.

    Args:
        shapes: (inputs, outputs) -> number of layers.
        rows: rows of each product: tokens of a typical example.
        target: with the runtime onnxruntime; a device's connection stays open.
        patient: wait for a quiet machine because a choice depends on the times; not worth it for a mere warning.

    Raises:
        TargetError: the device is lost, or the target cannot run such a product.
    """
    flags = tuple(target.description["cpu"]["flags"])
    by_cost = sorted(shapes, key=lambda shape: -shapes[shape] * shape[0] * shape[1])[:max_shapes]
    times, disturbed = _times(by_cost, rows, target, patient=patient) if by_cost else ([], False)
    timings = (ShapeTiming(*shape, shapes[shape], *pair) for shape, pair in zip(by_cost, times, strict=True))
    return Probe(flags, rows, tuple(timings), disturbed)


def warning(
    result: Probe, *, machine: str = "this machine", shapes: str = "this model's shapes"
) -> str | None:
    """Return why 8 bits will not make a model faster on a machine; None if they will.

    Args:
        result: the probe; without timings only the CPU flags decide.
        machine: name of the machine in the message; the target may be another.
        shapes: name of the timed shapes in the message.
    """
    speedup = result.speedup
    if speedup is None:
        if _DOT_PRODUCT_FLAGS.intersection(result.flags):
            return None
        return (
            f"{machine}'s processor has {missing_instructions(result.flags)}: INT8 may be no faster than FP32"
        )
    if speedup >= MIN_SPEEDUP:
        return None
    reason = (
        ""
        if _DOT_PRODUCT_FLAGS.intersection(result.flags)
        else f"; its processor has {missing_instructions(result.flags)}"
    )
    reason += "; other processes disturbed this timing" if result.disturbed else ""
    return (
        f"8-bit products of {shapes} run {speedup:.2f} times as fast as FP32 on {machine} "
        f"({result.rows} rows){reason}: expect a smaller file, not a faster model"
    )


def missing_instructions(flags: Collection[str]) -> str:
    """Describe the instructions that a processor lacks, for messages."""
    known = f" (it has {', '.join(sorted(flags))})" if flags else ""
    return f"no INT8 dot-product instructions{known}"


def _times(
    shapes: Sequence[Shape], rows: int, target: ResolvedTarget, *, patient: bool
) -> tuple[list[tuple[float, float]], bool]:
    """Return the fastest float32 and integer ms of each shape, and whether the timing was disturbed."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="compress-probe-") as name:
        folder = Path(name)
        jobs = JobFolder.of_target(folder, target)
        models, feeds = [], []
        for shape in shapes:
            x = random.normal(size=(rows, shape[0])).astype(np.float32)
            suffix = f"{shape[0]}-{shape[1]}"
            feed = jobs.feeds(f"rows-{suffix}", [{"x": x}])
            for kind, model in (("float", _float_product(shape)), ("integer", _integer_product(shape))):
                models.append(str(folder / f"{kind}-{suffix}.onnx"))
                feeds.append(feed)
                onnx.save(model, models[-1])
        spec = MeasureSpec(examples=1, min_seconds=SECONDS_PER_SHAPE * len(shapes), min_rounds=3)
        (result,) = time_models(jobs, models, [feeds], spec, processes=1, patient=patient)
    fastest = [float(milliseconds(result, 0, which).min()) for which in range(len(models))]
    return list(zip(fastest[::2], fastest[1::2], strict=True)), any_disturbed([result])


def _float_product(shape: Shape) -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return _model(shape, helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": weight})


def _integer_product(shape: Shape) -> onnx.ModelProto:
    weight = np.random.default_rng(0).integers(-64, 65, shape).astype(np.int8)
    scales = np.full(shape[1], 0.01, np.float32)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "scales"], ["y"], domain=MS_DOMAIN)
    return _model(shape, node, {"w": weight, "scales": scales})


def _model(shape: Shape, node: onnx.NodeProto, constants: Mapping[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", shape[1]])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MS_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
