"""Optimum's quantizer for onnxruntime: https://huggingface.co/docs/optimum-onnx."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from peers.calling import Quantize, call, read_feeds

# Its newest release takes no transformers 5.
REQUIREMENTS = (
    "optimum-onnx==0.1.0",
    "torch==2.13.0",
    "transformers==4.57.6",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "datasets==5.0.1",
)
PRODUCTS = ["MatMul", "Gemm", "Attention", "Gather"]


def dynamic(model: Path, calibration: Path, out: Path, *, per_channel: bool) -> None:
    """`optimum-cli onnxruntime quantize --avx512_vnni`, and with `--per_channel`."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=per_channel)
    _save(ORTQuantizer(model), config, out)


def static(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """Calibrated by the extremes."""
    from datasets import Dataset
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig

    rows = [{name: each[0].tolist() for name, each in feed.items()} for feed in read_feeds(calibration)]
    examples = Dataset.from_list(rows)
    config = AutoQuantizationConfig.avx512_vnni(is_static=True, **options)
    quantizer = ORTQuantizer(model)
    ranges = quantizer.fit(
        examples,
        AutoCalibrationConfig.minmax(examples),
        operators_to_quantize=config.operators_to_quantize,
    )
    _save(quantizer, config, out, calibration_tensors_range=ranges)


def _save(quantizer: Any, config: Any, out: Path, **options: Any) -> None:
    folder = Path("found")
    quantizer.quantize(config, folder, file_suffix=None, **options)
    (path,) = folder.glob("*.onnx")
    shutil.copyfile(path, out)


SETTINGS: dict[str, Quantize] = {
    "INT8 dynamic avx512_vnni, default": partial(dynamic, per_channel=False),
    "INT8 dynamic avx512_vnni, per channel": partial(dynamic, per_channel=True),
    "INT8 static avx512_vnni, default": static,
    "INT8 static avx512_vnni, products": partial(static, operators_to_quantize=PRODUCTS),
}

if __name__ == "__main__":
    call(SETTINGS)
