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
    previous = "the teacher"
    averaged_by: str | None = None
    torch_only_reason: str | None = None
    for index, entry in enumerate(passes):
        kind = single_key(entry)
        if kind is None or kind not in PASS_ENTRIES.table:
            continue
        spec = _spec_or_defaults(kind, entry[kind])
        if not spec.fits(form):
            reason = f"needs {spec.needs()}, but {previous} gives a model that is {form}"
            faults.append(source.fault(("passes", index, kind), reason))
            continue
        if torch_only_reason is not None:
            reason = f"{previous} gives a model that cannot become ONNX: {torch_only_reason}"
            faults.append(source.fault(("passes", index, kind), reason))
            continue
        torch_only_reason = spec.onnx_fault()
        if torch_only_reason is not None:
            faults += _torch_only_faults(source, index, kind, torch_only_reason)
        conflict = spec.ensemble_fault()
        if averaged_by is not None and conflict is not None:
            key, reason = conflict
            faults.append(source.fault(("passes", index, kind, key), reason.format(averaged_by)))
        form, previous = spec.produces(form), f"passes.{index}.{kind}"
        leaves_average = spec.returns_ensemble()
        if leaves_average is not None:
            averaged_by = previous if leaves_average else None
    if form.framework is Framework.ONNX:
        reason = "torch cannot run the ONNX files that the passes end with; use onnxruntime"
        faults += _runtime_faults(source, "torch", reason)
    return faults


def _torch_only_faults(source: ProfileSource, index: int, kind: str, torch_only_reason: str) -> list[Fault]:
    """Return a fault for each target that cannot run a torch-only model; without targets, for the default one."""
    targets = source.values.get("targets")
    if not isinstance(targets, list):
        message = f"needs a target with `runtime: torch`: {torch_only_reason}"
        return [source.fault(("passes", index, kind, "library"), message)]
    message = f"onnxruntime cannot run the model that passes.{index}.{kind} gives: {torch_only_reason}"
    return _runtime_faults(source, "onnxruntime", message)


def _runtime_faults(source: ProfileSource, runtime: str, reason: str) -> list[Fault]:
    """Return a fault for each target that uses this runtime."""
    targets = source.values.get("targets")
    return [
        source.fault(("targets", index, "runtime"), reason)
        for index, target in enumerate(targets if isinstance(targets, list) else ())
        if isinstance(target, dict) and target.get("runtime", "onnxruntime") == runtime
    ]


def _spec_or_defaults(kind: str, body: Any) -> PassSpec:
    try:
        return PASS_ENTRIES.parse(kind, body)
    except ValidationError:
        # The faults of the body itself are reported by schema validation.
        pass_kind = PASSES[kind]
        if pass_kind.parse_leniently is None:
            return pass_kind.spec.model_construct()
        return pass_kind.parse_leniently(body if isinstance(body, dict) else {})
