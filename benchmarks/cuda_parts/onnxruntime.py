"""onnxruntime on the GPU: the FP32 file that `compress` makes of the fine-tuned teacher, and its FP16
conversion, 128 tokens. Its CUDA provider multiplies FP32 in TF32 unless it is told not to; `SkipLayerNorm`
fused is what the runner leaves out, for CPUs. `bound` has inputs and outputs on the card, the others copy
them as the runner does. TensorRT where its libraries are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cuda_parts.part import ROOT, Part, Skipped, installed
from cuda_parts.profiles import has_gpu_build

WAYS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "CUDA": ("CUDA", {}, ["SkipLayerNormFusion"]),
    "CUDA without TF32": ("CUDA", {"use_tf32": "0"}, ["SkipLayerNormFusion"]),
    "CUDA, SkipLayerNorm fused": ("CUDA", {}, []),
    "TensorRT": ("Tensorrt", {}, []),
}


def run(part: Part) -> None:
    installed("pydantic", "optimum", "onnx", "onnxscript")
    if not part.dry and not has_gpu_build():
        raise Skipped("onnxruntime here is the CPU build")
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    wide, half = files(part)
    for numbers, file in (("FP32", wide), ("FP16", half)):
        for way, (provider, options, left_out) in WAYS.items():
            with part.case(numbers=numbers, way=way):
                session = opened(part, file, provider, options, left_out)
                for size in (1, 8) if part.dry else (1, 8, 64):
                    feeds = inputs(session, size, 8 if part.dry else 128)
                    took = part.timed(
                        lambda feeds=feeds, session=session: session.run(None, feeds), seconds=0.3
                    )
                    part.tell(numbers=numbers, way=way, batch=size, **took.row())
                    if part.device == "cuda":
                        bound = binding(session, feeds)
                        took = part.timed(
                            lambda bound=bound, session=session: session.run_with_iobinding(bound),
                            seconds=0.3,
                        )
                        part.tell(numbers=numbers, way=f"{way}, bound", batch=size, **took.row())


def files(part: Part) -> tuple[Path, Path]:
    """The teacher in FP32 and in FP16, made by the engine."""
    from running import resolve, teacher_of

    from compress.passes.quantize.half.conversion import compute_in_fp16

    changes = {
        "data": {"path": part.data, "max_length": 16 if part.dry else 128},
        "teacher": {"model": part.model, "finetune": {"epochs": 2, "learning_rate": 1e-4, "batch_size": 32}},
        "passes": [{"quantize": {"bits": 8}}],
        "targets": [{"device": "cpu", "runtime": "onnxruntime"}],
        "budget": {},
    }
    wide = teacher_of(resolve(ROOT / "profiles" / "bert_cuda.yaml", changes), "onnxruntime").model_file
    half = part.work / "fp16.onnx"
    compute_in_fp16(wide, half)
    return wide, half


def opened(part: Part, file: Path, provider: str, options: dict[str, str], left_out: list[str]) -> Any:
    import ctypes

    import onnxruntime

    if provider == "Tensorrt":
        try:
            ctypes.CDLL("libnvinfer.so.10")
        except OSError as error:
            raise Skipped(str(error)) from error
    if part.device == "cpu":
        providers: list[Any] = ["CPUExecutionProvider"]
    else:
        providers = [(f"{provider}ExecutionProvider", options), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(file), providers=providers, disabled_optimizers=left_out)
    wanted = providers[0] if part.device == "cpu" else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise Skipped(f"onnxruntime could not load {wanted}")
    return session


def inputs(session: Any, size: int, tokens: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(1000, 2000, (size, tokens))
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {one.name: known[one.name] for one in session.get_inputs()}


def binding(session: Any, feeds: dict[str, Any]) -> Any:
    import onnxruntime

    bound = session.io_binding()
    for name, array in feeds.items():
        bound.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for one in session.get_outputs():
        bound.bind_output(one.name, "cuda")
    return bound
