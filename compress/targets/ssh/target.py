"""A device over ssh as a target: check that it meets the target's requirements, and describe it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from compress.core.errors import TargetError
from compress.core.numerics import first_processor
from compress.profile.schema import TargetSpec
from compress.targets.local import (
    ResolvedTarget,
    confinement,
    described_processor,
    resolved,
)
from compress.targets.ssh.connection import plain
from compress.targets.ssh.device import Facts, SshDevice


def resolve(spec: TargetSpec) -> ResolvedTarget:
    """Resolve a target by probing its device; the connection is closed again, since training may take hours.

    Raises:
        TargetError: it cannot be reached, or a requirement of measurements is missing there.
    """
    with closing(SshDevice(spec)) as device:
        facts = device.facts()
    return described(spec, facts, device)


def described(spec: TargetSpec, facts: Facts, device: SshDevice) -> ResolvedTarget:
    """Build the target of a device from its facts.

    Raises:
        TargetError: its Python cannot import numpy and onnxruntime, or a core does not exist.
    """
    if not {"numpy", "onnxruntime"} <= facts.libraries.keys():
        raise TargetError(
            f"Python {plain(facts.python)} ({spec.python}) of the device cannot load numpy and onnxruntime: "
            f"{plain(facts.fault or 'no reason given')}",
            where=spec.label,
            hint="Install them there (python3 -m venv compress; compress/bin/pip install numpy onnxruntime), and set "
            "the target's `python` to that Python (compress/bin/python).",
        )
    processor = described_processor(first_processor(facts.cpuinfo))
    cpu = {
        "model": plain(processor["model"]) or plain(facts.machine),
        "cores": len(facts.cores),
        "flags": processor["flags"],
    }
    description: dict[str, Any] = {
        "device": spec.device,
        "threads": spec.threads,
        "runtime": {"onnxruntime": plain(facts.libraries["onnxruntime"])},
        "cpu": cpu,
        "os": plain(facts.system),
        "arch": plain(facts.machine),
        "board": plain(facts.board),
        "python": plain(facts.python),
        "numpy": plain(facts.libraries["numpy"]),
        "tokenizers": None if facts.tokenizers is None else plain(facts.tokenizers),
        **confinement(spec, facts.cores),
    }
    return resolved(spec, description, facts.memory_bytes, len(facts.cores), device)
