"""Neural Compressor's successor for ONNX: https://github.com/onnx/neural-compressor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from peers.calling import Quantize, Reader, call, read_feeds

# Made for numpy 1, and so for the onnx and the onnxruntime of that time.
REQUIREMENTS = ("onnx-neural-compressor==1.0", "onnx==1.16.2", "onnxruntime==1.18.1", "setuptools<81")


def dynamic(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """Ranges at run time."""
    from onnx_neural_compressor.quantization import config, quantize

    quantize(str(model), str(out), config.DynamicQuantConfig(**options))


def static(model: Path, calibration: Path, out: Path, *, every: bool = False, **options: Any) -> None:
    """Calibrated on the first hundred examples, or on every one."""
    from onnx_neural_compressor.quantization import config, quantize

    if every:
        options["calibration_sampling_size"] = sum(1 for _ in read_feeds(calibration))
    found = config.StaticQuantConfig(calibration_data_reader=Reader(calibration), **options)
    quantize(str(model), str(out), found)


SETTINGS: dict[str, Quantize] = {
    "INT8 dynamic, default": dynamic,
    "INT8 dynamic, per channel": partial(dynamic, per_channel=True),
    "INT8 static, default": static,
    "INT8 static, per channel": partial(static, per_channel=True, every=True),
    "INT8 static, per channel, SmoothQuant": partial(
        static, per_channel=True, every=True, extra_options={"SmoothQuant": True}
    ),
}

if __name__ == "__main__":
    call(SETTINGS)
