"""onnxruntime's own tools: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from peers.calling import Quantize, call, reader

REQUIREMENTS = (
    "onnxruntime==1.31.1",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "sympy==1.14.0",
    "torch==2.13.0",  # for HQQ
)
PRODUCTS = ["MatMul", "Gemm", "Attention", "Gather"]


def dynamic(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """Ranges at run time."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    # The tool asks for this option where it does not know an operator's outputs.
    quantize_dynamic(model, out, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT}, **options)


def static(model: Path, calibration: Path, out: Path) -> None:
    """As documented: prepared first, then every operator that the tool knows, in pairs of nodes."""
    import onnx
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = Path("prepared.onnx")
    quant_pre_process(model, prepared, auto_merge=True)
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_static(prepared, out, reader(calibration), extra_options=extra)


def static_products(model: Path, calibration: Path, out: Path, format: str) -> None:
    """Products and embeddings alone, unsigned activations, signed weights, a scale for each channel."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        model,
        out,
        reader(calibration),
        quant_format=QuantFormat[format],
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def round_to_nearest(model: Path, calibration: Path | None, out: Path, **options: Any) -> None:
    """`MatMulNBits` rounded to the nearest."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig

    _weight_only(model, out, DefaultWeightOnlyQuantConfig(**options))


def half_quadratic(model: Path, calibration: Path | None, out: Path, **options: Any) -> None:
    """`MatMulNBits` by HQQ."""
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig

    _weight_only(model, out, HQQWeightOnlyQuantConfig(**options))


def best_round_to_nearest(
    model: Path, calibration: Path | None, out: Path, block_size: int, symmetric: bool
) -> None:
    """`round_to_nearest` with products in 8-bit arithmetic, and the embeddings too."""
    round_to_nearest(
        model,
        calibration,
        out,
        block_size=block_size,
        is_symmetric=symmetric,
        accuracy_level=4,
        op_types_to_quantize=("MatMul", "Gather"),
    )


def _weight_only(model: Path, out: Path, config: Any) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(model)), algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, str(out))


SETTINGS: dict[str, Quantize] = {
    "INT8 dynamic, default": dynamic,
    "INT8 dynamic, per channel": partial(dynamic, per_channel=True),
    "INT8 static, default": static,
    "INT8 static QDQ, products u8s8 per channel": partial(static_products, format="QDQ"),
    "INT8 static QOperator, products u8s8 per channel": partial(static_products, format="QOperator"),
    "INT4 RTN, default": round_to_nearest,
    "INT4 RTN, block 32, 8-bit products, embeddings": partial(
        best_round_to_nearest, block_size=32, symmetric=False
    ),
    "INT4 RTN, block 32 symmetric, 8-bit products, embeddings": partial(
        best_round_to_nearest, block_size=32, symmetric=True
    ),
    "INT4 HQQ, default": half_quadratic,
    "INT4 HQQ, block 32": partial(half_quadratic, block_size=32),
}

if __name__ == "__main__":
    call(SETTINGS)
