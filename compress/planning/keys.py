"""Cache keys of steps: equal keys mean equal results. Computed from files and package metadata, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from compress.core.disk.files import digest_of
from compress.core.numerics import Numerics, Precision
from compress.core.spec import Spec
from compress.core.task_kind import TaskKind
from compress.core.versions import installed_version
from compress.losses.table import LOSSES, losses_in, name_of
from compress.passes.contract import PassSpec
from compress.passes.table import PASSES, step_kind
from compress.planning.code import code_digest
from compress.planning.steps import Plan, PlannedStep
from compress.profile.schema import DataSpec, TeacherSpec
from compress.profile.specs.recovery import recovery_losses, recovery_of
from compress.profile.specs.training import TrainingSpec
from compress.profile.timing_target import timing_target
from compress.tasks.table import TASKS, task_kind

GENERATION_MODULE = "compress.generation.by_label"
_LOCATION_KEYS = ("path", "name", "revision")
_READING_KEYS = (
    *_LOCATION_KEYS,
    "separator",
    "encoding",
    "text_column",
    "label_column",
    "splits",
    "unlabeled",
)
"""Keys of `data` that affect only what is read."""


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of the external inputs of a plan; None if not known yet.

    `models`: fingerprint of each model, and of user code that passes name, by (source, revision); `data`: sha256 of the
    data files; `unlabeled`: sha256 of those together with the files of `data.unlabeled`, if any. `by_content`: both
    cover the parsed data that steps receive instead, so that how it was found and read does not matter; `test` is then
    the sha256 of the test split.
    """

    models: Mapping[tuple[str, str | None], str | None]
    data: str | None
    unlabeled: str | None = None
    test: str | None = None
    by_content: bool = False


def all_parts(plan: Plan, fingerprints: Fingerprints, numerics: Numerics) -> dict[str, dict[str, object]]:
    """Return the parts of each step's key, by step name.

    A key is the sha256 over the keys of the inputs by role, the spec, the source code of the pass and of everything it
    imports from this package, the versions of its libraries and, if the step reads data or trains, the fingerprint of
    the data, the seed and the numerics.
    """
    keys: dict[str, str | None] = {}
    parts: dict[str, dict[str, object]] = {}
    for step in plan.steps:
        parts[step.name] = step_parts(step, plan, fingerprints, numerics, keys)
        keys[step.name] = key_of(parts[step.name])
    return parts


def key_of(parts: dict[str, object]) -> str | None:
    """Return the key for these parts; None if one of them is not resolved yet."""
    if _is_unresolved(parts):
        return None
    return digest_of(parts)


def step_parts(
    step: PlannedStep,
    plan: Plan,
    fingerprints: Fingerprints,
    numerics: Numerics,
    keys: Mapping[str, str | None],
) -> dict[str, object]:
    """Return the named parts of a step's key; the differences between two versions explain why a step is redone."""
    kind = step_kind(step.kind)
    task = step.task(plan.profile)
    spec = step.spec.model_dump(mode="json", by_alias=True)
    parts: dict[str, object] = {
        "kind": step.kind,
        "inputs": {role: keys[name] for role, name in step.inputs.items()},
        "spec": spec,
        "code": code_digest(kind.run.partition(":")[0]),
        "libraries": {name: installed_version(name) or "not installed" for name in kind.libraries}
        | _plugin_versions(step),
    }
    if isinstance(step.spec, TeacherSpec):
        # The fingerprint identifies the commit, however the profile names it.
        del spec["model"], spec["revision"]
        parts["model"] = fingerprints.models[step.spec.model, step.spec.revision]
        if (adapter := spec.pop("adapter")) is not None:
            parts["adapter"] = fingerprints.models[adapter, None]
    losses = {name_of(loss) for loss in losses_in(step.spec)}
    if (recovery := recovery_of(step.spec)) is not None:
        has_teacher = "teacher" in step.inputs
        losses = {
            name_of(loss) for loss in recovery_losses(recovery[1], task_kind(task), has_teacher=has_teacher)
        }
    label_loss = task_kind(task).label_loss
    if kind.trains and not losses and label_loss is not None and "teacher" not in step.inputs:
        losses = {label_loss}
    if losses:
        parts["losses"] = {name: _loss_digest(name) for name in sorted(losses)}
    if kind.reads_data:
        data = plan.profile.data.model_dump(mode="json", exclude=set(plan.profile.data.MEASUREMENT_KEYS))
        reads_further = kind.reads_unlabeled and plan.profile.data.existing_unlabeled is not None
        if not reads_further:
            del data["unlabeled"]
        parts["data"] = {
            "fingerprint": fingerprints.unlabeled if reads_further else fingerprints.data,
            "task": task,
            "code": [
                code_digest(part)
                for part in code_of_task(
                    task,
                    with_reader=not fingerprints.by_content,
                    with_source=isinstance(step.spec, TeacherSpec),
                )
            ],
            **_task_plugin_parts(task),
            **(_generation_parts(plan.profile.data) if step.is_generator else {}),
            "seed": plan.profile.seed,
            **_without_keys(_READING_KEYS if fingerprints.by_content else _LOCATION_KEYS, data),
        }
        if step.generates_texts:
            parts["judged_by"] = fingerprints.test
    if kind.trains:
        parts["numerics"] = {
            **asdict(numerics),
            "precision": numerics.precision(training_precision(step.spec)),
        }
        if plan.profile.train.world_size > 1:
            # The order of reductions depends on the number of processes, so the last digits differ, as with threads.
            parts["processes"] = plan.profile.train.world_size
    if isinstance(step.spec, PassSpec):
        if step.spec.depends_on_timing:
            parts["timed_on"] = timing_target(plan.profile.targets).model_dump(
                include={"device", "threads", "cores"}
            )
        parts |= step.spec.machine_facts()
        if code := step.spec.code():
            parts["judges"] = {source: fingerprints.models[source, None] for source in code}
    return parts


def _generation_parts(data: DataSpec) -> dict[str, object]:
    """Return the key parts that determine how training texts are presented to the generating model."""
    assert data.generate_spec is not None
    settings = data.generate_spec.model_dump(mode="json", include={"ask", "most"})
    return {"lesson": settings, "lesson_code": code_digest(GENERATION_MODULE)}


def training_precision(spec: Spec) -> Precision:
    """Return the training precision that the spec of a step requests."""
    if isinstance(spec, TrainingSpec):
        return spec.precision
    return spec.training_precision() if isinstance(spec, PassSpec) else "auto"


def _plugin_versions(step: PlannedStep) -> dict[str, str]:
    """Return the versions of the distributions that provide the step's pass and losses; empty for built-in ones."""
    providers = [PASSES.plugins.get(step.kind.partition(".")[0])]
    providers += [LOSSES.plugins.get(name_of(loss)) for loss in losses_in(step.spec)]
    return {plugin.distribution: plugin.version for plugin in providers if plugin is not None}


def _loss_digest(name: str) -> str:
    """Return the sha256 over the source code of a loss: its spec, its term, and what they import."""
    kind = LOSSES[name]
    modules = {kind.spec.__module__, kind.term.partition(":")[0]}
    return hashlib.sha256("".join(map(code_digest, sorted(modules))).encode()).hexdigest()


def _task_plugin_parts(name: str) -> dict[str, object]:
    """Return the distribution that provides a task and the digest of its label loss; empty for a built-in task."""
    plugin, loss = TASKS.plugins.get(name), task_kind(name).label_loss
    if plugin is None:
        return {}
    return {
        "distribution": [plugin.distribution, plugin.version],
        "label_loss": None if loss is None else _loss_digest(loss),
    }


def code_of_task(name: str, *, with_reader: bool = True, with_source: bool = False) -> tuple[str, ...]:
    """Return the modules of a task that encode examples and score outputs.

    Args:
        name: the task.
        with_reader: include the module that reads its data.
        with_source: include the module that writes its source models.
    """
    kind = task_kind(name)
    references = (*([kind.data] if with_reader else []), kind.task, *([kind.source] if with_source else []))
    return tuple(reference.partition(":")[0] for reference in references)


def task_key_parts(name: str) -> dict[str, object]:
    """Return the parts of a measurement's key that come from the task.

    For a task of a plugin, its distribution and code. Built-in tasks are covered by the version of the protocol; only a
    memory workload of their own is added.
    """
    plugin, kind = TASKS.plugins.get(name), task_kind(name)
    has_own_workload = kind.memory_workloads != TaskKind.memory_workloads
    if plugin is None:
        return {"weighed": kind.memory_workloads} if has_own_workload else {}
    references = [
        kind.task,
        kind.record,
        kind.workloads,
        *filter(None, [kind.prompts_for]),
        *([kind.memory_workloads] if has_own_workload else []),
    ]
    modules = [reference.partition(":")[0] for reference in references]
    return {
        "distribution": [plugin.distribution, plugin.version],
        "code": [code_digest(module) for module in modules],
    }


def _without_keys(names: tuple[str, ...], data: dict[str, object]) -> dict[str, object]:
    """Return the profile's `data` section without the keys `names`, which a fingerprint covers."""
    kept = {name: value for name, value in data.items() if name not in names}
    if isinstance(unlabeled := kept.get("unlabeled"), dict):
        kept["unlabeled"] = _without_keys((*names, "generate"), unlabeled)
    return kept


def _is_unresolved(parts: dict[str, object]) -> bool:
    """Whether a key or fingerprint among the parts is missing; `None` in a spec is a regular value."""
    data, inputs = parts.get("data"), parts["inputs"]
    assert isinstance(inputs, dict)
    return (
        None in inputs.values()
        or ("model" in parts and parts["model"] is None)
        or (isinstance(data, dict) and data["fingerprint"] is None)
    )
