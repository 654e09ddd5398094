"""A device over ssh as a target: check that it meets the target's requirements, and describe it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from compress.core.errors import TargetError
from compress.core.numerics import first_processor
from compress.profile.schema import TargetSpec
from compress.targets.local import (
    ResolvedTarget,
    build_target,
    describe_processor,
    resource_limits,
)
from compress.targets.ssh.connection import printable_line
from compress.targets.ssh.device import DeviceFacts, SshDevice


def resolve(spec: TargetSpec) -> ResolvedTarget:
    """Resolve a target by probing its device; the connection is closed again, since training may take hours.

    Raises:
        TargetError: it cannot be reached, or a requirement of measurements is missing there.
    """
    with closing(SshDevice(spec)) as device:
        facts = device.facts()
    return target_from_facts(spec, facts, device)


def target_from_facts(spec: TargetSpec, facts: DeviceFacts, device: SshDevice) -> ResolvedTarget:
    """Build the target of a device from its facts.

    Raises:
        TargetError: its Python cannot import numpy and onnxruntime, or a core does not exist.
    """
    if not {"numpy", "onnxruntime"} <= facts.libraries.keys():
        raise TargetError(
            f"Python {printable_line(facts.python)} ({spec.python}) of the device cannot load numpy and onnxruntime: "
            f"{printable_line(facts.fault or 'no reason given')}",
            where=spec.label,
            hint="Install them there (python3 -m venv compress; compress/bin/pip install numpy onnxruntime), and set "
            "the target's `python` to that Python (compress/bin/python).",
        )
    processor = describe_processor(first_processor(facts.cpuinfo))
    cpu = {
        "model": printable_line(processor["model"]) or printable_line(facts.machine),
        "cores": len(facts.cores),
        "flags": processor["flags"],
    }
    description: dict[str, Any] = {
        "device": spec.device,
        "threads": spec.threads,
        "runtime": {"onnxruntime": printable_line(facts.libraries["onnxruntime"])},
        "cpu": cpu,
        "os": printable_line(facts.system),
        "arch": printable_line(facts.machine),
        "board": printable_line(facts.board),
        "python": printable_line(facts.python),
        "numpy": printable_line(facts.libraries["numpy"]),
        "tokenizers": None if facts.tokenizers is None else printable_line(facts.tokenizers),
        **resource_limits(spec, facts.cores),
    }
    return build_target(spec, description, facts.memory_bytes, len(facts.cores), device)
