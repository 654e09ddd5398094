"""Step keys: equal keys, equal results. Computed from files and package metadata alone, without importing torch."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from compress.core.numerics import Numerics, Precision, reduced_range
from compress.core.spec import Spec
from compress.plan.steps import STEP_KINDS, Plan, PlannedStep
from compress.profile.low_rank_spec import LowRankSpec
from compress.profile.pass_specs import QuantizeSpec
from compress.profile.prune_spec import PruneSpec
from compress.profile.schema import TeacherSpec
from compress.profile.timed_on import timed_on
from compress.profile.training_spec import TrainingSpec

_ROOT = Path(__file__).parents[1]
_PLACES = ("path", "name", "revision")
_CONTRACT = frozenset(
    # What every step is run through; its own behaviour does not enter a result.
    (
        "compress/core/errors.py",
        "compress/core/plugins.py",
        "compress/core/exhaustion.py",
        "compress/core/files.py",
        "compress/core/progress.py",
        "compress/core/units.py",
        "compress/core/records.py",
        "compress/core/spec.py",
        "compress/core/entries.py",
        "compress/profile/",
    )
)


@dataclass(frozen=True)
class Fingerprints:
    """What the outside world gives a plan; None: not known yet.

    `models`: the fingerprint of each model by (source, revision); `data`: sha256 of the data's files.
    """

    models: Mapping[tuple[str, str | None], str | None]
    data: str | None


def all_parts(plan: Plan, fingerprints: Fingerprints, numerics: Numerics) -> dict[str, dict[str, object]]:
    """What the key of each step is made of, by the step's name.

    A key is the sha256 of the keys of the inputs by role, the spec, the source of the pass and of all that it
    imports from this package, the versions of its libraries, and, where it reads data or trains, of the data's
    fingerprint, the seed and the numerics.
    """
    keys: dict[str, str | None] = {}
    parts: dict[str, dict[str, object]] = {}
    for step in plan.steps:
        parts[step.name] = step_parts(step, plan, fingerprints, numerics, keys)
        keys[step.name] = key_of(parts[step.name])
    return parts


def key_of(parts: dict[str, object]) -> str | None:
    """The key that these parts make; None where one of them is not resolved yet."""
    if _unresolved(parts):
        return None
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def step_parts(
    step: PlannedStep,
    plan: Plan,
    fingerprints: Fingerprints,
    numerics: Numerics,
    keys: Mapping[str, str | None],
) -> dict[str, object]:
    """What the key of a step is made of, by name; a difference between two of them says why a step is redone."""
    kind = STEP_KINDS[step.kind]
    spec = step.spec.model_dump(mode="json", by_alias=True)
    spec.pop("control", None)
    if step.kind == "source":
        spec.pop("model", None)
    parts: dict[str, object] = {
        "kind": step.kind,
        "inputs": {role: keys[name] for role, name in step.inputs.items()},
        "spec": spec,
        "code": code_digest(kind.module),
        "libraries": {name: _version(name) for name in kind.libraries},
    }
    if isinstance(step.spec, TeacherSpec):
        parts["model"] = fingerprints.models[step.spec.model, step.spec.revision]
    if kind.reads_data:
        data = plan.profile.data.model_dump(mode="json")
        parts["data"] = {
            "fingerprint": fingerprints.data,
            "task": plan.profile.task,
            "code": [code_digest(f"compress.{part}") for part in ("data", "tasks")],
            "seed": plan.profile.seed,
            **_without_places(data),
        }
    if kind.trains:
        parts["numerics"] = {**asdict(numerics), "precision": numerics.precision(asked_precision(step.spec))}
        if plan.profile.train.world > 1:
            # Sums over processes have another order, so the last digits differ, as with another number of threads.
            parts["processes"] = plan.profile.train.world
    timed = isinstance(step.spec, PruneSpec) and step.spec.target is not None and step.spec.target.timed
    if timed or (isinstance(step.spec, QuantizeSpec) and step.spec.timed):
        # `auto` picks by timing there, and a latency that is to be reached is reached there.
        parts["timed_on"] = timed_on(plan.profile.targets).model_dump(include={"device", "threads", "cores"})
    if isinstance(step.spec, QuantizeSpec) and step.spec.bits == 8:
        parts["reduced_range"] = reduced_range(step.spec.reduce_range)
    return parts


def asked_precision(spec: Spec) -> Precision:
    """The precision that the training of a step asks for."""
    training: Spec | None = spec
    if isinstance(spec, PruneSpec | LowRankSpec):
        training = spec.recover
    elif isinstance(spec, QuantizeSpec):
        training = spec.train
    return training.precision if isinstance(training, TrainingSpec) else "auto"


def _without_places(data: dict[str, object]) -> dict[str, object]:
    """What a profile says of its data but where it lies, which its fingerprint stands for."""
    kept = {name: value for name, value in data.items() if name not in _PLACES}
    if isinstance(further := kept.get("unlabeled"), dict):
        kept["unlabeled"] = _without_places(further)
    return kept


@cache
def code_digest(module: str) -> str:
    """sha256 over the source of a module (of a package: all its files) and of all it imports from this package."""
    digest = hashlib.sha256()
    for file in sorted(_imported_files(module)):
        digest.update(file.encode() + b"\0" + (_ROOT.parent / file).read_bytes() + b"\0")
    return digest.hexdigest()


def _imported_files(module: str) -> set[str]:
    found: set[str] = set()
    folder = _ROOT.parent.joinpath(*module.split("."))
    waiting = [module, *(f"{module}.{file.stem}" for file in folder.glob("*.py"))]
    while waiting:
        file = _file_of(waiting.pop())
        if file is None:
            continue
        name = str(file.relative_to(_ROOT.parent))
        if name in found or any(name.startswith(prefix) for prefix in _CONTRACT):
            continue
        found.add(name)
        waiting += _imports(file.read_text(encoding="utf-8"))
    return found


def _imports(source: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.split(".")[0] == "compress"]


def _file_of(module: str) -> Path | None:
    base = _ROOT.parent.joinpath(*module.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _unresolved(parts: dict[str, object]) -> bool:
    """Whether a key or a fingerprint among the parts is still missing; a spec may hold `None` freely."""
    data, inputs = parts.get("data"), parts["inputs"]
    assert isinstance(inputs, dict)
    return (
        None in inputs.values()
        or ("model" in parts and parts["model"] is None)
        or (isinstance(data, dict) and data["fingerprint"] is None)
    )
