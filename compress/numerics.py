"""What of this machine changes the numbers that training gives: processor, threads, precision. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from compress.profile.training_spec import Precision


@dataclass(frozen=True)
class Numerics:
    """How this machine trains: `bf16` says whether its processor multiplies bfloat16 in hardware."""

    device: Literal["cpu", "cuda"]
    threads: int
    bf16: bool

    def precision(self, asked: Precision) -> Literal["fp32", "bf16"]:
        """The precision that `auto` stands for here."""
        if asked == "auto":
            return "bf16" if self.bf16 else "fp32"
        return asked


@cache
def local_numerics() -> Numerics:
    """This machine's numerics, read from the operating system."""
    device: Literal["cpu", "cuda"] = "cuda" if _has_cuda() else "cpu"
    bf16 = device == "cuda" or bool(processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    return Numerics(device, len(os.sched_getaffinity(0)), bf16)


@cache
def processor_flags() -> frozenset[str]:
    """The instruction sets that Linux reports for the first processor; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _has_cuda() -> bool:
    """Whether there is an NVIDIA driver and torch was built for it."""
    try:
        built_for_cpu = "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
    return not built_for_cpu and Path("/proc/driver/nvidia/version").exists()
