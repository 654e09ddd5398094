"""Rows of `compress plan`: whether each step is cached and, if not, what changed since the most similar one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from compress.core.numerics import local_numerics
from compress.core.plugins import call
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
    files = fingerprints(loaded, plan)
    known = cached_content_digests(loaded, files, cache)
    all_of_them = all_parts(plan, known, numerics)
    keys = {name: key_of(parts) for name, parts in all_of_them.items()}
    rows = []
    for step in plan.steps:
        parts, key = all_of_them[step.name], keys[step.name]
        made = cache.find(key) if key else None
        if key is None:
            state, reason = "unresolved", _unresolved(step, files, keys)
        elif made is not None:
            state, reason = "cached", ""
        else:
            state, reason = "to do", _difference(parts, cache.parts_of(step.name, plan.profile.name))
        parameters = made.artifact.facts.get("parameters") if made else _predicted(step, cache, keys)
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


def _predicted(step: PlannedStep, cache: Cache, keys: Mapping[str, str | None]) -> int | None:
    """Predict the number of parameters after a pass; None if it cannot be predicted or its input is not cached."""
    predicted = PASSES[step.spec.kind].predicted if isinstance(step.spec, PassSpec) else None
    key = keys[step.inputs["model"]] if predicted else None
    source = cache.find(key) if key else None
    if predicted is None or source is None:
        return None
    parameters: int | None = call(predicted, step.spec, source.artifact.path)
    return parameters


def _unresolved(step: PlannedStep, known: Fingerprints, keys: Mapping[str, str | None]) -> str:
    waiting = [name for name in step.inputs.values() if keys[name] is None]
    if waiting:
        return f"{', '.join(waiting)} is not resolved"
    spec = step.spec
    if isinstance(spec, TeacherSpec) and known.models[spec.model, spec.revision] is None:
        return "the model is not on this machine yet"
    if known.data is not None:
        return "the data cannot be read as declared; `compress validate` says why"
    return "the data is not on this machine yet"


def _difference(parts: dict[str, object], earlier: list[dict[str, object]]) -> str:
    """Describe what changed since the most similar recorded step of the same name."""
    if not earlier:
        return "not made yet"
    nearest = min((_changed(parts, other) for other in earlier), key=len)
    own = [name for name in nearest if not name.startswith("inputs.")]
    return f"changed: {', '.join(own or nearest)}" if nearest else "its artifact was removed or damaged"


def _changed(parts: object, other: object, path: str = "") -> list[str]:
    if isinstance(parts, dict) and isinstance(other, dict):
        names = sorted(parts.keys() | other.keys())
        return [
            change
            for name in names
            for change in _changed(parts.get(name), other.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if json.dumps(parts, sort_keys=True) == json.dumps(other, sort_keys=True) else [path]
