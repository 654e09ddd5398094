"""Terminal output for targets: what this machine offers, and a profile's targets."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.table import Table

from compress.core.errors import TargetError
from compress.core.terminal.console import Terminal
from compress.core.terminal.printing import echo
from compress.core.units import MB_PER_GB
from compress.profile.schema import TargetSpec
from compress.targets.local import ResolvedTarget, probe
from compress.targets.resolving import survey


def show_machine(as_json: bool) -> None:
    """Print what this machine offers."""
    machine_facts = probe()
    if as_json:
        echo(json.dumps(machine_facts, indent=2))
        return
    for name, facts in machine_facts.items():
        echo(f"{name}: {_fact_words(facts)}")


def show_targets(specs: Sequence[TargetSpec], as_json: bool) -> None:
    """Print a description of each target, or why it cannot be used.

    Raises:
        TargetError: a target cannot be used.
    """
    surveyed = survey(specs)
    if as_json:
        echo(json.dumps([entry.as_dict() for entry in surveyed], indent=2))
    else:
        table = Table("target", "device", "runtime", "what it is", box=None, header_style="bold")
        for entry in surveyed:
            description = (
                describe_target(entry.resolved)
                if entry.resolved
                else f"error: {entry.error.message}"
                if entry.error
                else ""
            )
            hint = f"\n{entry.error.hint}" if entry.error and entry.error.hint else ""
            table.add_row(entry.spec.label, entry.spec.device, entry.spec.runtime, description + hint)
        Terminal().print(table)
    unusable = [entry.spec.label for entry in surveyed if entry.error]
    if unusable:
        raise TargetError(f"{len(unusable)} of {len(surveyed)} targets cannot be used: {', '.join(unusable)}")


def _fact_words(facts: object) -> str:
    if isinstance(facts, dict):
        return ", ".join(f"{key} {_fact_words(value)}" for key, value in facts.items())
    if isinstance(facts, list):
        return ", ".join(map(_fact_words, facts)) or "none"
    return str(facts)


def describe_target(target: ResolvedTarget) -> str:
    """Describe a target in one line."""
    description = target.description
    cpu, gpu = description["cpu"], description.get("gpu")
    cores = f"{cpu['cores']} core{'s' * (cpu['cores'] != 1)}"
    if description.get("pinned_to"):
        cores += f" (kept to {', '.join(map(str, description['pinned_to']))})"
    memory = f"{description['memory_mb'] / MB_PER_GB:.1f} GB"
    if description.get("memory_limit_mb"):
        memory += f" ({description['memory_limit_mb']} MB allowed)"
    parts = [
        description.get("board"),
        f"{gpu['name']}, driver {gpu['driver']}" if gpu else None,
        cpu["model"],
        cores,
        " ".join(cpu["flags"]),
        memory,
        f"{description['os']} {description['arch']}",
        f"Python {description['python']}" if "python" in description else None,
        f"numpy {description['numpy']}" if "numpy" in description else None,
        *(f"{name} {version}" for name, version in description["runtime"].items()),
        *(f"warning: {warning}" for warning in description["warnings"]),
    ]
    return ", ".join(part for part in parts if part)
