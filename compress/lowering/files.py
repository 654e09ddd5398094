"""Writing and checking ONNX files, and writing the graph that an onnxruntime session optimizes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime

from compress.core.artifacts import ONNX_MODEL
from compress.core.disk.files import replacing
from compress.core.errors import PassError
from compress.runtimes.runner import DISABLED_OPTIMIZERS

EXTERNAL_DATA_FROM_BYTES = 1_900_000_000
"""A protobuf message is limited to 2^31 bytes; a larger model stores its weights as external data."""


def save_onnx(model: ir.Model, folder: Path) -> Path:
    """Write `model.onnx` (and `model.onnx.data` for more than 1.9 GB of weights) into `folder`, and check it.

    Raises:
        PassError: onnx finds the model invalid.
    """
    path = folder / ONNX_MODEL
    weights = sum(
        tensor.nbytes for value in model.graph.initializers.values() if (tensor := value.const_value)
    )
    if weights > EXTERNAL_DATA_FROM_BYTES:
        ir.save(model, path, external_data=f"{ONNX_MODEL}.data")
    else:
        # External data of the source file would be looked for beside the new one.
        ir.external_data.load_to_model(model)
        with replacing(path) as temporary:
            ir.save(model, temporary)
    check_onnx(path)
    return path


def check_onnx(path: Path) -> None:
    """Run the onnx checker, which skips operators of other domains; onnxruntime checks those on loading.

    Raises:
        PassError: the file is not valid.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise PassError(f"the ONNX file is not valid: {error}", where=str(path)) from error


def write_optimized(
    source: Path,
    target: Path,
    *,
    hardware_specific: bool,
    ort_format: bool = False,
    without: Collection[str] = (),
) -> None:
    """Write the graph that a session optimizes from `source`.

    Args:
        source: an ONNX file.
        target: path of the optimized graph.
        hardware_specific: include layouts and kernels that only fit this machine, not just portable optimizations.
        ort_format: write an ORT flatbuffer instead of ONNX.
        without: names of further onnxruntime optimizers to disable besides those that sessions disable.

    Raises:
        PassError: onnxruntime rejects the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if hardware_specific else levels.ORT_ENABLE_EXTENDED
    )
    options.add_session_config_entry("session.save_model_format", "ORT" if ort_format else "ONNX")
    with replacing(target) as temporary:
        options.optimized_model_filepath = str(temporary)
        try:
            onnxruntime.InferenceSession(
                str(source),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[*DISABLED_OPTIMIZERS, *without],
            )
        except Exception as error:
            # onnxruntime raises its own classes, which share no base class but Exception.
            raise PassError(f"onnxruntime rejects the model: {error}", where=str(source)) from error
