"""Mobile deployment: the operators of a reduced build, and what accelerators of phones could run."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.tools.mobile_helpers import usability_checker
from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo
from onnxruntime.tools.ort_format_model import create_config_from_models
from onnxruntime.tools.reduced_build_config_parser import parse_config

from compress.bundles.layout import OPERATORS
from compress.core.artifacts import ORT_MODEL
from compress.core.disk.files import write_text
from compress.lowering.files import write_optimized

# onnxruntime's tools log each file that they write, at levels that they set themselves when imported.
logging.getLogger("ort_format_model.utils").setLevel(logging.ERROR)

_COREML = "coreml_supported_mlprogram_ops.md"
_ACCELERATORS: dict[str, Callable[[onnx.ModelProto, bool], Any]] = {
    "nnapi": usability_checker.check_nnapi_partitions,
    "coreml": lambda model, fixed: usability_checker.check_coreml_partitions(model, fixed, _COREML),
}


def write_operators(ort_model: Path, out: Path) -> None:
    """Write the operators and types of an ORT file as read by `--include_ops_by_config` of onnxruntime's build.

    They are read from the shipped file, so the list contains exactly what its optimization left.
    """
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        # onnxruntime's reader leaves closing the file to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        config = Path(work) / OPERATORS
        create_config_from_models([ort_model], config, True)
        lines = [line for line in config.read_text().splitlines() if not line.startswith("#")]
    write_text(out, "\n".join((f"# Operators of {ORT_MODEL}", *lines)) + "\n")


def operators_in(config: Path) -> dict[str, list[str]]:
    """Return the names of the operators in such a list, sorted, by domain."""
    required, _ = parse_config(str(config))
    return {
        domain: sorted({name for names in opsets.values() for name in names})
        for domain, opsets in required.items()
    }


def mobile_usability(model: Path) -> dict[str, Any]:
    """Run onnxruntime's mobile usability check on the portable, optimized graph of an ONNX file.

    Returns `opset` of ai.onnx, `dynamic_inputs` by name, `nodes`; for `nnapi` and `coreml` (MLProgram) the number of
    nodes that the accelerator could run and of `partitions` as the file is, the same with fixed shapes (`nodes_fixed`,
    `partitions_fixed`), and the better `verdict` of the two: no, maybe or yes. The check uses onnxruntime's tables;
    nothing runs on a phone.
    """
    with tempfile.TemporaryDirectory() as work:
        optimized = Path(work) / "optimized.onnx"
        write_optimized(model, optimized, hardware_specific=False)
        shaped = ModelProtoWithShapeInfo(optimized).model_with_shape_info
    dynamic, _ = usability_checker.check_shapes(shaped.graph)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in shaped.opset_import}
    facts: dict[str, Any] = {
        "opset": opsets["ai.onnx"],
        "dynamic_inputs": [value.name for value in dynamic],
        "nodes": len(shaped.graph.node),
    }
    for name, partitions_of in _ACCELERATORS.items():
        as_exported, fixed = partitions_of(shaped, True), partitions_of(shaped, False)
        facts[name] = {
            "nodes": as_exported.num_supported_nodes,
            "partitions": as_exported.num_partitions,
            "nodes_fixed": fixed.num_supported_nodes,
            "partitions_fixed": fixed.num_partitions,
            "verdict": max(as_exported.suitability(), fixed.suitability()).name.lower(),
        }
    return facts
