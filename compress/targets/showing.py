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
    found = probe()
    if as_json:
        echo(json.dumps(found, indent=2))
        return
    for name, facts in found.items():
        echo(f"{name}: {_in_words(facts)}")


def show_targets(specs: Sequence[TargetSpec], as_json: bool) -> None:
    """Print a description of each target, or why it cannot be used.

    Raises:
        TargetError: a target cannot be used.
    """
    surveyed = survey(specs)
    if as_json:
        echo(json.dumps([one.as_dict() for one in surveyed], indent=2))
    else:
        shown = Table("target", "device", "runtime", "what it is", box=None, header_style="bold")
        for one in surveyed:
            said = words_of(one.found) if one.found else f"error: {one.fault.message}" if one.fault else ""
            hint = f"\n{one.fault.hint}" if one.fault and one.fault.hint else ""
            shown.add_row(one.spec.label, one.spec.device, one.spec.runtime, said + hint)
        Terminal().print(shown)
    wrong = [one.spec.label for one in surveyed if one.fault]
    if wrong:
        raise TargetError(f"{len(wrong)} of {len(surveyed)} targets cannot be used: {', '.join(wrong)}")


def _in_words(facts: object) -> str:
    if isinstance(facts, dict):
        return ", ".join(f"{key} {_in_words(value)}" for key, value in facts.items())
    if isinstance(facts, list):
        return ", ".join(map(_in_words, facts)) or "none"
    return str(facts)


def words_of(target: ResolvedTarget) -> str:
    """Describe a target in one line."""
    said = target.description
    cpu, gpu = said["cpu"], said.get("gpu")
    cores = f"{cpu['cores']} core{'s' * (cpu['cores'] != 1)}"
    if said.get("pinned_to"):
        cores += f" (kept to {', '.join(map(str, said['pinned_to']))})"
    memory = f"{said['memory_mb'] / MB_PER_GB:.1f} GB"
    if said.get("memory_limit_mb"):
        memory += f" ({said['memory_limit_mb']} MB allowed)"
    parts = [
        said.get("board"),
        f"{gpu['name']}, driver {gpu['driver']}" if gpu else None,
        cpu["model"],
        cores,
        " ".join(cpu["flags"]),
        memory,
        f"{said['os']} {said['arch']}",
        f"Python {said['python']}" if "python" in said else None,
        f"numpy {said['numpy']}" if "numpy" in said else None,
        *(f"{name} {version}" for name, version in said["runtime"].items()),
        *(f"warning: {warning}" for warning in said["warnings"]),
    ]
    return ", ".join(part for part in parts if part)
