"""This machine as a target: check that it meets the target's requirements, and describe it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from compress.core.disk.files import digest_of
from compress.core.errors import TargetError
from compress.core.numerics import core_count, flags_in, local_processor, visible_gpu
from compress.core.units import megabytes
from compress.profile.device import is_ssh
from compress.profile.schema import TargetSpec
from compress.targets.patience import Patience
from compress.targets.ssh.device import SshDevice

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""Instruction sets that decide which kernels run."""

_UNTIMED_KEYS = frozenset({"memory_limit_mb", "memory_mb", "warnings"})
"""Parts of a target's description that do not affect timings; the memory limit is checked after the model ran."""

_CUDA_SECONDS = 300
"""Timeout for torch to look for a CUDA device."""
_TORCH_CUDA = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"


@dataclass(frozen=True)
class ResolvedTarget:
    """A target that was found.

    `fingerprint`: sha256 of everything that a measurement on it depends on, including batch sizes and lengths; part of
    the key of measurements. `description`: JSON values for reports, including `warnings`. `device`: the machine that
    measures; None for this one. `patience`: how long timings may wait for the machine to become quiet.
    """

    spec: TargetSpec
    label: str
    fingerprint: str
    description: dict[str, Any]
    device: SshDevice | None = field(default=None, compare=False, repr=False)
    patience: Patience = field(default_factory=Patience, compare=False, repr=False)

    @property
    def machine_digest(self) -> str:
        """sha256 of everything that affects the speed of a model there, including threads and cores; timings of the
        same batch size and lengths are comparable if it is equal."""
        return digest_of({key: value for key, value in self.description.items() if key not in _UNTIMED_KEYS})

    @property
    def cores(self) -> int:
        """Number of cores that a process on the target may use."""
        return int(self.description["cpu"]["cores"]) if self.spec.cores is None else len(self.spec.cores)

    @property
    def machine_name(self) -> str:
        """Name of the machine in messages."""
        return "this machine" if self.device is None else self.label

    @property
    def can_tokenize(self) -> bool:
        """Whether tokenization can be timed there."""
        return self.device is None or self.description["tokenizers"] is not None

    def close(self) -> str | None:
        """Close the connection to the device, if any; return a note on files kept there, if the target asks for it."""
        return None if self.device is None else self.device.close()


def resolve(spec: TargetSpec) -> ResolvedTarget:
    """Resolve a target on this machine, without importing torch or loading a model.

    Raises:
        TargetError: the runtime is not installed, the device is cuda and one of its requirements is missing, or a core
            does not exist.
        ValueError: the target is another machine (`targets.resolving` handles those too).
    """
    if is_ssh(spec.device):
        raise ValueError(f"{spec.device} is not this machine")
    versions = _runtime_versions(spec)
    processor = cpu()
    description: dict[str, Any] = {
        "device": spec.device,
        "threads": spec.threads,
        "runtime": versions,
        "cpu": processor,
    }
    description["os"], description["arch"] = platform.system(), platform.machine()
    if spec.device == "cuda":
        description["gpu"] = _require_cuda(spec)
    description |= resource_limits(spec, usable_cores())
    return build_target(spec, description, psutil.virtual_memory().total, processor["cores"])


def build_target(
    spec: TargetSpec,
    description: dict[str, Any],
    memory_bytes: int,
    cores: int,
    device: SshDevice | None = None,
) -> ResolvedTarget:
    """Build the target from the description that measurements depend on, the machine's memory and its core count."""
    untimed = {"memory_mb": round(megabytes(memory_bytes)), "warnings": warnings_of(spec, cores)}
    return ResolvedTarget(
        spec, spec.label, fingerprint_of(spec, description), {**description, **untimed}, device
    )


def fingerprint_of(spec: TargetSpec, description: dict[str, Any]) -> str:
    """Return the sha256 of a target's description, batch sizes and lengths."""
    timed = {"batch_sizes": spec.batch_sizes, "sequence_lengths": spec.sequence_lengths}
    return digest_of({**description, **timed})


def resource_limits(spec: TargetSpec, usable: Collection[int]) -> dict[str, Any]:
    """Return the core and memory restrictions of a target, for its description.

    Raises:
        TargetError: a core is not among the `usable` ones.
    """
    limits: dict[str, Any] = {}
    if spec.cores is not None:
        missing = sorted(set(spec.cores) - set(usable))
        if missing:
            raise TargetError(
                f"core{'s' * (len(missing) > 1)} {_listed(missing)} cannot be used there; these can: "
                f"{_listed(sorted(usable)) or 'none, as the system cannot pin processes'}",
                where=spec.label,
            )
        limits["pinned_to"] = sorted(spec.cores)
    if spec.memory_limit_mb is not None:
        limits["memory_limit_mb"] = spec.memory_limit_mb
    return limits


def usable_cores() -> list[int]:
    """Return the cores that this process may be pinned to; empty if the system does not support pinning."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def probe() -> dict[str, Any]:
    """Describe this machine: processor, memory, GPUs, runtimes, and whether they can use CUDA."""
    runtimes = {
        name: version
        for name in ("onnxruntime", "onnxruntime-gpu", "torch")
        if (version := _installed(name)) is not None
    }
    return {
        "cpu": cpu(),
        "os": platform.system(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "memory_mb": round(megabytes(psutil.virtual_memory().total)),
        "gpus": gpus(),
        "runtimes": runtimes,
        "cuda": {runtime: _cuda_fault(runtime) or "ready" for runtime in ("onnxruntime", "torch")},
    }


def cpu() -> dict[str, Any]:
    """Return the processor's model, the number of usable cores, and those instruction sets of `FLAGS` that it has."""
    facts = describe_processor(local_processor())
    model = facts["model"] or platform.processor() or platform.machine()
    return {"model": model, "cores": core_count(), "flags": facts["flags"]}


def describe_processor(values: Mapping[str, str]) -> dict[str, Any]:
    """Describe a processor from the fields that `first_processor` returned.

    Returns:
        `model` (name, family, model, stepping; implementer and part on ARM) and `flags`, those of `FLAGS` it has.
    """
    numbers = [values[key] for key in ("cpu family", "model", "stepping") if key in values]
    if numbers:
        model = f"{values.get('model name', values.get('vendor_id', ''))} ({'/'.join(numbers)})"
    else:
        arm = [values[key] for key in ("CPU implementer", "CPU part") if key in values]
        model = values.get("model name") or " ".join(arm)
    return {"model": model, "flags": [flag for flag in FLAGS if flag in flags_in(values)]}


def gpus() -> list[dict[str, str]]:
    """Return name and driver of each NVIDIA GPU that nvidia-smi lists; empty without one."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer)


def parse_gpus(answer: str) -> list[dict[str, str]]:
    """Parse `NVIDIA A10G, 550.54` lines into name and driver of each GPU."""
    rows = [[part.strip() for part in line.rsplit(",", 1)] for line in answer.splitlines() if "," in line]
    return [{"name": name, "driver": driver} for name, driver in rows]


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runtime_versions(spec: TargetSpec) -> dict[str, str]:
    """Return the installed distributions that run the model, with their versions."""
    distributions = (
        ("torch", "transformers") if spec.runtime == "torch" else ("onnxruntime", "onnxruntime-gpu")
    )
    versions = {name: version for name in distributions if (version := _installed(name)) is not None}
    if spec.runtime not in {name.removesuffix("-gpu") for name in versions}:
        raise TargetError(
            f"the runtime {spec.runtime} is not installed",
            where=spec.label,
            hint=f"Install it: pip install {spec.runtime}",
        )
    return versions


def _require_cuda(spec: TargetSpec) -> dict[str, str]:
    """Return name and driver of the GPU that models run on.

    Raises:
        TargetError: there is none, or the runtime cannot use it.
    """
    fault = _cuda_fault(spec.runtime)
    if fault is not None:
        raise TargetError(f"device cuda with runtime {spec.runtime}: {fault}", where=spec.label)
    first, used = gpus()[0], visible_gpu()
    # nvidia-smi ignores CUDA_VISIBLE_DEVICES and may list the GPUs in another order than CUDA.
    return first if used is None else {**first, "name": used[0]}


def _cuda_fault(runtime: str) -> str | None:
    """Return why a runtime cannot use CUDA and what to install; None if it can."""
    faults = []
    if not gpus():
        faults.append(
            "no NVIDIA GPU was found (nvidia-smi is missing or lists none): one is needed, and its driver"
        )
    if runtime == "onnxruntime":
        if _installed("onnxruntime-gpu") is None:
            faults.append(
                "the installed onnxruntime is the CPU build: replace it with onnxruntime-gpu "
                "(pip uninstall onnxruntime; pip install onnxruntime-gpu)"
            )
    elif "+cpu" in (_installed("torch") or ""):
        faults.append(
            f"torch {_installed('torch')} is a CPU build: install one for CUDA from https://pytorch.org/get-started"
        )
    elif not faults:
        command = [sys.executable, "-c", _TORCH_CUDA]
        try:
            if subprocess.run(command, capture_output=True, check=False, timeout=_CUDA_SECONDS).returncode:
                faults.append("torch sees no CUDA device: its CUDA version may be newer than the driver")
        except subprocess.TimeoutExpired:
            faults.append(f"torch did not find a CUDA device within {_CUDA_SECONDS} s: the driver may hang")
    return "; ".join(faults) or None


def warnings_of(spec: TargetSpec, cores: int) -> list[str]:
    """Return warnings about settings that make timings on a target with `cores` cores less reliable."""
    cores = cores if spec.cores is None else len(spec.cores)
    if spec.threads <= cores:
        return []
    return [f"{spec.threads} threads on {cores} core{'s' * (cores != 1)}: they wait for each other"]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
