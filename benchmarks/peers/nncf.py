"""NNCF's post-training quantization of ONNX models: https://github.com/openvinotoolkit/nncf."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from peers.calling import Quantize, call, read_feeds

REQUIREMENTS = ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.31.1")


def quantize(model: Path, calibration: Path, out: Path, *, transformer: bool, smooth: bool = True) -> None:
    """`nncf.quantize`, told or not that this is a transformer; `smooth`: with SmoothQuant, as it does then."""
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    options: dict[str, Any] = {}
    if transformer:
        options["model_type"] = nncf.ModelType.TRANSFORMER
    if not smooth:
        # -1 says that nothing is smoothed.
        off = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off)
    examples = list(read_feeds(calibration))
    found = nncf.quantize(onnx.load(str(model)), nncf.Dataset(examples), subset_size=len(examples), **options)
    onnx.save(found, str(out))


SETTINGS: dict[str, Quantize] = {
    "INT8, default": partial(quantize, transformer=False),
    "INT8, transformer": partial(quantize, transformer=True),
    "INT8, transformer, no SmoothQuant": partial(quantize, transformer=True, smooth=False),
}

if __name__ == "__main__":
    call(SETTINGS)
