"""Olive: workflows of its ONNX quantization passes, https://microsoft.github.io/Olive."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from peers.calling import Quantize, call, read_feeds

REQUIREMENTS = (
    "olive-ai==0.13.0",
    "torch==2.13.0",
    "transformers==5.23.0",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "requests==2.34.2",  # imported without being asked for
)
PRODUCTS = ["MatMul", "Gemm", "Attention", "Gather"]
FLOAT = {"DefaultTensorType": 1}
"""What onnxruntime's tool, which does the work, asks for where it does not know an operator's outputs."""


def dynamic(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """`OnnxDynamicQuantization`."""
    _run(model, out, {"type": "OnnxDynamicQuantization", **options}, [])


def static(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    """`OnnxStaticQuantization`."""
    from olive.data.registry import Registry

    @Registry.register_dataset("examples")
    def examples(**_: Any) -> list[tuple[Any, int]]:
        # Olive batches examples itself, and reads a label with each.
        return [({name: each[0] for name, each in feed.items()}, 0) for feed in read_feeds(calibration)]

    data = {
        "name": "examples",
        "load_dataset_config": {"type": "examples"},
        "dataloader_config": {"params": {"batch_size": 1}},
    }
    _run(model, out, {"type": "OnnxStaticQuantization", "data_config": "examples", **options}, [data])


def _run(model: Path, out: Path, step: dict[str, Any], data: list[dict[str, Any]]) -> None:
    import olive

    accelerator = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    workflow = {
        "input_model": {"type": "ONNXModel", "model_path": str(model)},
        "systems": {"local_system": {"type": "LocalSystem", "accelerators": [accelerator]}},
        "data_configs": data,
        "passes": {"quantization": step},
        "host": "local_system",
        "target": "local_system",
        "cache_dir": "cache",
        "output_dir": "found",
        "no_artifacts": True,
    }
    Path("workflow.json").write_text(json.dumps(workflow))
    found = olive.run(workflow)
    if not found.has_output_model():
        raise RuntimeError("Olive ran and left no model")
    (path,) = Path(found.get_best_candidate().model_path).parent.glob("*.onnx")
    for file in path.parent.glob(f"{path.name}.data"):
        raise RuntimeError(f"Olive left weights beside the model: {file.name}")
    shutil.copyfile(path, out)


SETTINGS: dict[str, Quantize] = {
    "INT8 dynamic, default": dynamic,
    "INT8 dynamic, per channel": partial(
        dynamic, per_channel=True, quant_preprocess=False, extra_options=FLOAT
    ),
    "INT8 static, default": static,
    "INT8 static QDQ, products u8s8 per channel": partial(
        static,
        per_channel=True,
        quant_preprocess=False,
        prepare_qdq_config=False,
        activation_type="uint8",
        op_types_to_quantize=PRODUCTS,
        extra_options=FLOAT,
    ),
}

if __name__ == "__main__":
    call(SETTINGS)
