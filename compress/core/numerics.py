"""Properties of this machine that change the results of training: device, threads, precision. Does not import torch."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]
Processor = tuple[Collection[str], str]
"""The flags of a processor (`avx512_vnni`) and its architecture."""
_AMPERE = 8
"""First major compute capability with bfloat16 multiplication in hardware; older GPUs emulate it."""
_CAPABILITY_MAJOR = 75
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of cuda.h."""


@dataclass(frozen=True)
class Numerics:
    """How this machine trains; `bf16`: the training device multiplies bfloat16 in hardware."""

    device: Literal["cpu", "cuda"]
    threads: int
    bf16: bool

    def precision(self, requested: Precision) -> Literal["fp32", "bf16"]:
        """Resolve `auto` to the precision used on this machine."""
        if requested == "auto":
            return "bf16" if self.bf16 else "fp32"
        return requested


@cache
def local_numerics() -> Numerics:
    """Return the numerics of this machine, read from the operating system."""
    threads, gpu = core_count(), visible_gpu() if _torch_has_cuda() else None
    if gpu is not None:
        return Numerics("cuda", threads, gpu[1] >= _AMPERE)
    return Numerics("cpu", threads, bool(processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"}))


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processor_flags() -> frozenset[str]:
    """Return the instruction sets that Linux reports for the first processor; empty on other systems."""
    return flags_in(local_processor())


def local_processor() -> dict[str, str]:
    """Return the /proc/cpuinfo fields of the first processor; empty on other systems."""
    try:
        return first_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def first_processor(cpuinfo: str) -> dict[str, str]:
    """Parse the fields of the first processor from the text of /proc/cpuinfo."""
    pairs = (line.partition(":") for line in cpuinfo.strip().split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def flags_in(processor: Mapping[str, str]) -> frozenset[str]:
    """Return the instruction sets among the fields that `first_processor` returned."""
    return frozenset((processor.get("flags") or processor.get("Features") or "").split())


def int8_saturates(flags: Collection[str], architecture: str) -> bool:
    """Whether a processor sums two int8 products in 16 bits, which saturates with full-range 8-bit weights.

    True for x86 without VNNI or AMX, including x86 with unknown instruction sets.
    """
    x86 = architecture.lower() in ("x86_64", "amd64", "i386", "i686", "x86")
    return x86 and not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(flags)


def reduced_range(requested: bool | Literal["auto"]) -> bool:
    """Whether 8-bit weights are limited to 7 bits; `auto` decides by this processor."""
    return int8_saturates(processor_flags(), platform.machine()) if requested == "auto" else requested


def visible_gpu() -> tuple[str, int] | None:
    """Return the name and major compute capability of the first GPU visible to programs; None without one.

    Asks the driver, which respects CUDA_VISIBLE_DEVICES and numbers the cards as programs see them; nvidia-smi does
    neither. No CUDA context is created, so no GPU memory is used.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, major, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetName(name, len(name), device)
    )
    return None if failed else (name.value.decode(errors="replace"), major.value)


def _torch_has_cuda() -> bool:
    """Whether the installed torch is not a CPU-only build."""
    try:
        return "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
