"""The card, the versions, and its ceilings as they are measured here: a copy within its memory, bytes read
and written counted; a product of two square matrices of random numbers; the time that one small kernel takes
to be launched."""

from __future__ import annotations

import subprocess
from importlib import metadata

from cuda_parts.part import Part, digits

LIBRARIES = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "bitsandbytes",
    "triton",
    "accelerate",
)


def run(part: Part) -> None:
    import torch

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    part.tell(what="versions", value=", ".join(f"{name} {version}" for name, version in versions.items()))
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,memory.used,compute_mode",
        "--format=csv,noheader",
    ]
    try:
        part.tell(
            what="card",
            value=subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip(),
        )
    except (OSError, subprocess.CalledProcessError) as error:
        part.tell(what="card", value=f"nvidia-smi says nothing: {error}")
    if part.device == "cuda":
        said = torch.cuda.get_device_properties(0)
        part.tell(
            what="torch sees",
            value=f"{said.name}, compute capability {said.major}.{said.minor}, CUDA {torch.version.cuda}",
        )
    part.tell(what="compress targets", value="; ".join(part.compress("targets").stdout.splitlines()))
    with part.case(what="copy"):
        numbers = torch.rand(2**12 if part.dry else 2**30, device=part.device)
        target = torch.empty_like(numbers)
        took = part.timed(lambda: target.copy_(numbers), seconds=0.3)
        part.tell(what="copy", value=f"{digits(2 * numbers.nbytes / 1e9 / (took.gpu or took.wall))} TB/s")
    width = 64 if part.dry else 8192
    for name, dtype, tf32 in (
        ("FP16", torch.float16, False),
        ("bf16", torch.bfloat16, False),
        ("TF32", torch.float32, True),
        ("FP32", torch.float32, False),
    ):
        with part.case(what=f"product in {name}"):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            left, right = (torch.randn(width, width, device=part.device).to(dtype) for _ in range(2))
            took = part.timed(lambda left=left, right=right: left @ right, seconds=0.5)
            part.tell(
                what=f"product in {name}",
                value=f"{digits(2 * width**3 / 1e9 / (took.gpu or took.wall))} TFLOP/s",
            )
    with part.case(what="launch"):
        small, count = torch.zeros(32, device=part.device), 1000

        def launches() -> None:
            for _ in range(count):
                small.add_(1)

        took = part.timed(launches, seconds=0.3)
        part.tell(what="launch of a small kernel", value=f"{digits(1e3 * took.wall / count)} us")
