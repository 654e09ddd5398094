"""What of this machine changes the numbers that training gives: processor, threads, precision. Imports no torch."""

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
"""Compute capability from which GPUs multiply bfloat16; older ones do it in many steps."""
_CAPABILITY_MAJOR = 75
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of cuda.h."""


@dataclass(frozen=True)
class Numerics:
    """How this machine trains: `bf16` says whether what trains there multiplies bfloat16 in hardware."""

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
    threads, gpu = core_count(), visible_gpu() if _torch_has_cuda() else None
    if gpu is not None:
        return Numerics("cuda", threads, gpu[1] >= _AMPERE)
    return Numerics("cpu", threads, bool(processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"}))


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processor_flags() -> frozenset[str]:
    """The instruction sets that Linux reports for the first processor; empty elsewhere."""
    return flags_in(local_processor())


def local_processor() -> dict[str, str]:
    """What Linux reports of the first processor, by its own names; empty elsewhere."""
    try:
        return first_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def first_processor(cpuinfo: str) -> dict[str, str]:
    """What the text of /proc/cpuinfo says of the first processor, by its own names."""
    pairs = (line.partition(":") for line in cpuinfo.strip().split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def flags_in(processor: Mapping[str, str]) -> frozenset[str]:
    """The instruction sets of a processor of `first_processor`."""
    return frozenset((processor.get("flags") or processor.get("Features") or "").split())


def bytes_overflow(flags: Collection[str], architecture: str) -> bool:
    """Whether a processor adds two products of bytes in 16 bits, where full 8-bit weights overflow.

    That is x86 without VNNI or AMX, one whose instruction sets nobody knows included.
    """
    x86 = architecture.lower() in ("x86_64", "amd64", "i386", "i686", "x86")
    return x86 and not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(flags)


def reduced_range(asked: bool | Literal["auto"]) -> bool:
    """Whether 8-bit weights use 7 bits: as asked, or as this processor needs it."""
    return bytes_overflow(processor_flags(), platform.machine()) if asked == "auto" else asked


def visible_gpu() -> tuple[str, int] | None:
    """Name and major compute capability of the GPU that programs are given here as their first; None: they get none.

    The driver is asked, which looks at CUDA_VISIBLE_DEVICES and counts the cards as they are given to programs, where
    nvidia-smi does neither; it makes no context, so this holds no memory of the card.
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
    """Whether the torch that is installed was not built for CPUs alone."""
    try:
        return "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
