"""Rows of `compress plan`: whether each step is cached and, if not, what changed since the most similar one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from compress.core.numerics import local_numerics
from compress.core.plugins import call_named
from compress.engine.contents import cached_content_digests
from compress.engine.deployment import resolve_if_reachable
from compress.engine.resolve import fingerprints
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES
from compress.planning.keys import Fingerprints, all_parts, key_of
from compress.planning.steps import PlannedStep, build_plan
from compress.profile.load import LoadedProfile
from compress.profile.schema import TeacherSpec
from compress.store.cache import Cache


@dataclass(frozen=True)
class PlanRow:
    """A step as `compress plan` shows it. `state` is `cached`, `to do`, or `unresolved`; `parameters` are those of the
    cached result, or those that the pass is predicted to leave."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    form: str
    parameters: int | None
    state: str
    reason: str
    key: str | None

    def as_dict(self) -> dict[str, object]:
        """Return the row as JSON values."""
        return {**vars(self), "inputs": list(self.inputs)}


def explain_plan(loaded: LoadedProfile) -> list[PlanRow]:
    """Return a row for each step, in execution order."""
    plan, numerics, cache = (
        build_plan(resolve_if_reachable(loaded.profile)),
        local_numerics(),
        Cache.default(),
    )
    file_fingerprints = fingerprints(loaded, plan)
    content_fingerprints = cached_content_digests(loaded, file_fingerprints, cache)
    parts_by_step = all_parts(plan, content_fingerprints, numerics)
    keys = {name: key_of(parts) for name, parts in parts_by_step.items()}
    rows = []
    for step in plan.steps:
        parts, key = parts_by_step[step.name], keys[step.name]
        cached = cache.find(key) if key else None
        if key is None:
            state, reason = "unresolved", _unresolved_reason(step, file_fingerprints, keys)
        elif cached is not None:
            state, reason = "cached", ""
        else:
            state, reason = "to do", _change_reason(parts, cache.parts_of(step.name, plan.profile.name))
        parameters = (
            cached.artifact.facts.get("parameters") if cached else _predicted_parameters(step, cache, keys)
        )
        rows.append(
            PlanRow(
                step.name,
                step.kind,
                tuple(step.inputs.values()),
                str(step.form),
                parameters,
                state,
                reason,
                key,
            )
        )
    return rows


def _predicted_parameters(step: PlannedStep, cache: Cache, keys: Mapping[str, str | None]) -> int | None:
    """Predict the number of parameters after a pass; None if it cannot be predicted or its input is not cached."""
    predicted = PASSES[step.spec.kind].parameters_after if isinstance(step.spec, PassSpec) else None
    key = keys[step.inputs["model"]] if predicted else None
    source = cache.find(key) if key else None
    if predicted is None or source is None:
        return None
    parameters: int | None = call_named(predicted, step.spec, source.artifact.path)
    return parameters


def _unresolved_reason(
    step: PlannedStep, file_fingerprints: Fingerprints, keys: Mapping[str, str | None]
) -> str:
    unresolved = [name for name in step.inputs.values() if keys[name] is None]
    if unresolved:
        return f"{', '.join(unresolved)} is not resolved"
    spec = step.spec
    if isinstance(spec, TeacherSpec) and file_fingerprints.models[spec.model, spec.revision] is None:
        return "the model is not on this machine yet"
    if file_fingerprints.data is not None:
        return "the data cannot be read as declared; `compress validate` says why"
    return "the data is not on this machine yet"


def _change_reason(parts: dict[str, object], earlier: list[dict[str, object]]) -> str:
    """Describe what changed since the most similar recorded step of the same name."""
    if not earlier:
        return "not made yet"
    closest = min((_changed_paths(parts, other) for other in earlier), key=len)
    direct = [name for name in closest if not name.startswith("inputs.")]
    return f"changed: {', '.join(direct or closest)}" if closest else "its artifact was removed or damaged"


def _changed_paths(parts: object, earlier: object, path: str = "") -> list[str]:
    if isinstance(parts, dict) and isinstance(earlier, dict):
        names = sorted(parts.keys() | earlier.keys())
        return [
            change
            for name in names
            for change in _changed_paths(
                parts.get(name), earlier.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if json.dumps(parts, sort_keys=True) == json.dumps(earlier, sort_keys=True) else [path]
