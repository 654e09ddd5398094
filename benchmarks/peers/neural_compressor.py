"""Neural Compressor's successor for ONNX: https://github.com/onnx/neural-compressor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from peers.calling import Quantize, Reader, call, padded, read_feeds, reader

REQUIREMENTS = (
    "onnx-neural-compressor==1.0",
    # Made for numpy 1, and so for the onnx and the onnxruntime of that time.
    "onnx==1.16.2",
    "onnxruntime==1.18.1",
    # Imported without being asked for.
    "prettytable==3.17.0",
    "scipy==1.13.1",
)


def dynamic(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """Ranges at run time."""
    from onnx_neural_compressor.quantization import config

    _run(model, out, config.DynamicQuantConfig(**options))


def dynamic_per_channel(model: Path, calibration: Path, out: Path) -> None:
    """A scale for each channel; what picks tokens out of an activation stays, as the tool makes a broken file of it."""
    import onnx

    graph = onnx.load(str(model)).graph
    constant = {tensor.name for tensor in graph.initializer}
    picks = [node.name for node in graph.node if node.op_type == "Gather" and node.input[0] not in constant]
    dynamic(model, calibration, out, per_channel=True, nodes_to_exclude=picks)


def static(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """Calibrated on the first hundred examples, which is what it takes."""
    from onnx_neural_compressor.quantization import config

    _run(model, out, config.StaticQuantConfig(calibration_data_reader=reader(calibration), **options))


def static_per_channel(model: Path, calibration: Path, out: Path, *, smooth: bool = False) -> None:
    """Calibrated on all examples; with SmoothQuant they are padded, as it takes examples of one length."""
    from onnx_neural_compressor.quantization import config

    examples = list(read_feeds(calibration))
    if smooth:
        examples = padded(examples)
    count = len(examples)
    found = config.StaticQuantConfig(
        calibration_data_reader=Reader(lambda: examples),
        per_channel=True,
        calibration_sampling_size=count,
        extra_options={"SmoothQuant": True, "SmoothQuantCalibIter": count} if smooth else None,
    )
    _run(model, out, found)


def _run(model: Path, out: Path, config: Any) -> None:
    import onnx
    from onnx_neural_compressor.quantization import quantize

    found = Path("found")
    found.mkdir()
    quantize(str(model), str(found / "model.onnx"), config)
    # In one file, without what nothing reads; what it says of inner values is still that of the float model.
    quantized = onnx.load(str(found / "model.onnx"))
    del quantized.graph.value_info[:]
    onnx.save(quantized, str(out))


SETTINGS: dict[str, Quantize] = {
    "INT8 dynamic, default": dynamic,
    "INT8 dynamic, per channel": dynamic_per_channel,
    "INT8 static, default": static,
    "INT8 static, per channel": static_per_channel,
    "INT8 static, per channel, SmoothQuant": partial(static_per_channel, smooth=True),
}

if __name__ == "__main__":
    call(SETTINGS)
