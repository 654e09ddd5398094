"""Result of a quantization to ONNX, and its check."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.core.artifacts import ONNX_MODEL
from compress.core.errors import PassError
from compress.passes.quantize.int8.coverage import count_products
from compress.passes.quantize.layers import other_products
from compress.passes.quantize.size_check import check_smaller, model_bytes


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model: folder, scheme, names of the floating weights, and facts."""

    folder: Path
    scheme: str
    float_weights: Collection[str]
    facts: dict[str, Any]


def check_result(source: Path, model: QuantizedModel) -> dict[str, Any]:
    """Check that the file is smaller and that every product with a constant weight is quantized unless excluded.

    Args:
        source: folder of the float model.

    Returns:
        The counted products and the sizes of both files, for the facts.

    Raises:
        PassError: either check fails.
    """
    hint = "Nothing in this model is worth quantizing, or `exclude` leaves too much of it out."
    sizes = check_smaller(model_bytes(source), model_bytes(model.folder), model.scheme, hint)
    products = count_products(model.folder / ONNX_MODEL, model.float_weights)
    if products.float_names:
        # A session renames what it fuses, but `exclude` refers to the names in the file.
        others = other_products(ir.load(model.folder / ONNX_MODEL).graph)
        named = [node.name or "" for node, weight in others.items() if weight not in model.float_weights]
        names = ", ".join((named or products.float_names)[:5])
        raise PassError(
            f"{len(products.float_names)} products with a constant weight are still in floating point: {names}",
            where="quantize",
            hint="If that is intended, list them in `exclude`.",
        )
    return {
        "integer_matmuls": products.integer,
        "weight_only_matmuls": products.weight_only,
        "float_matmuls": len(products.float_names),
        **sizes,
    }
