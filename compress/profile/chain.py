"""Check the order of the passes: each pass must accept the form of the model that the previous one produces."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from compress.core.entries import single_key
from compress.core.errors import Fault
from compress.core.forms import Form, Framework
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES
from compress.profile.pass_entries import PASS_ENTRIES
from compress.profile.yaml_lines import ProfileSource


def chain_faults(source: ProfileSource, form: Form) -> list[Fault]:
    """Return the faults in pass order, including passes whose own body is invalid.

    Args:
        form: form of the teacher.
    """
    passes = source.values.get("passes")
    if not isinstance(passes, list):
        return []
    faults: list[Fault] = []
    before = "the teacher"
    averaged: str | None = None
    never_onnx: str | None = None
    for index, entry in enumerate(passes):
        kind = single_key(entry)
        if kind is None or kind not in PASS_ENTRIES.table:
            continue
        spec = _spec_or_defaults(kind, entry[kind])
        if not spec.fits(form):
            why = f"needs {spec.needs()}, but {before} gives a model that is {form}"
            faults.append(source.fault(("passes", index, kind), why))
            continue
        if never_onnx is not None:
            why = f"{before} gives a model that cannot become ONNX: {never_onnx}"
            faults.append(source.fault(("passes", index, kind), why))
            continue
        never_onnx = spec.never_onnx()
        if never_onnx is not None:
            faults += _onnx_targets(source, index, kind, never_onnx)
        refused = spec.refuses_average()
        if averaged is not None and refused is not None:
            key, why = refused
            faults.append(source.fault(("passes", index, kind, key), why.format(averaged)))
        form, before = spec.produces(form), f"passes.{index}.{kind}"
        leaves_average = spec.leaves_average()
        if leaves_average is not None:
            averaged = before if leaves_average else None
    if form.framework is Framework.ONNX:
        why = "torch cannot run the ONNX files that the passes end with; use onnxruntime"
        faults += _targets_on(source, "torch", why)
    return faults


def _onnx_targets(source: ProfileSource, index: int, kind: str, never_onnx: str) -> list[Fault]:
    """Return a fault for each target that cannot run a torch-only model; without targets, for the default one."""
    targets = source.values.get("targets")
    if not isinstance(targets, list):
        why = f"needs a target with `runtime: torch`: {never_onnx}"
        return [source.fault(("passes", index, kind, "library"), why)]
    why = f"onnxruntime cannot run the model that passes.{index}.{kind} gives: {never_onnx}"
    return _targets_on(source, "onnxruntime", why)


def _targets_on(source: ProfileSource, runtime: str, why: str) -> list[Fault]:
    """Return a fault for each target that uses this runtime."""
    targets = source.values.get("targets")
    return [
        source.fault(("targets", place, "runtime"), why)
        for place, target in enumerate(targets if isinstance(targets, list) else ())
        if isinstance(target, dict) and target.get("runtime", "onnxruntime") == runtime
    ]


def _spec_or_defaults(kind: str, body: Any) -> PassSpec:
    try:
        return PASS_ENTRIES.parse(kind, body)
    except ValidationError:
        # The faults of the body itself are reported by schema validation.
        found = PASSES[kind]
        if found.roughly is None:
            return found.spec.model_construct()
        return found.roughly(body if isinstance(body, dict) else {})
