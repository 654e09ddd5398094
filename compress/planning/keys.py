"""Step keys: equal keys, equal results. Computed from files and package metadata alone, without importing torch."""

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

LESSON = "compress.generation.by_label"
_PLACES = ("path", "name", "revision")
_READING = (*_PLACES, "separator", "encoding", "text_column", "label_column", "splits", "unlabeled")
"""The keys of `data` that only decide what is read."""


@dataclass(frozen=True)
class Fingerprints:
    """What the outside world gives a plan; None: not known yet.

    `models`: the fingerprint of each model by (source, revision), and of the code that passes name; `data`: sha256 of
    the data's files; `unlabeled`: of those together with the files of `data.unlabeled`, where there are any.
    `by_content`: both are of what steps are given of the data instead, so that it does not matter how that was found
    and read; `test` is then of the test split.
    """

    models: Mapping[tuple[str, str | None], str | None]
    data: str | None
    unlabeled: str | None = None
    test: str | None = None
    by_content: bool = False


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
    return digest_of(parts)


def step_parts(
    step: PlannedStep,
    plan: Plan,
    fingerprints: Fingerprints,
    numerics: Numerics,
    keys: Mapping[str, str | None],
) -> dict[str, object]:
    """What the key of a step is made of, by name; a difference between two of them says why a step is redone."""
    kind = step_kind(step.kind)
    task = step.task(plan.profile)
    spec = step.spec.model_dump(mode="json", by_alias=True)
    parts: dict[str, object] = {
        "kind": step.kind,
        "inputs": {role: keys[name] for role, name in step.inputs.items()},
        "spec": spec,
        "code": code_digest(kind.run.partition(":")[0]),
        "libraries": {name: installed_version(name) or "not installed" for name in kind.libraries}
        | _adds(step),
    }
    if isinstance(step.spec, TeacherSpec):
        # The fingerprint names the commit, whatever it was asked for by.
        del spec["model"], spec["revision"]
        parts["model"] = fingerprints.models[step.spec.model, step.spec.revision]
        if (adapter := spec.pop("adapter")) is not None:
            parts["adapter"] = fingerprints.models[adapter, None]
    losses = {name_of(loss) for loss in losses_in(step.spec)}
    if (recovery := recovery_of(step.spec)) is not None:
        taught = "teacher" in step.inputs
        losses = {name_of(loss) for loss in recovery_losses(recovery[1], task_kind(task), taught=taught)}
    alone = task_kind(task).label_loss
    if kind.trains and not losses and alone is not None and "teacher" not in step.inputs:
        losses = {alone}
    if losses:
        parts["losses"] = {name: _loss_digest(name) for name in sorted(losses)}
    if kind.reads_data:
        data = plan.profile.data.model_dump(mode="json", exclude=set(plan.profile.data.MEASURED))
        further = kind.reads_unlabeled and plan.profile.data.further is not None
        if not further:
            del data["unlabeled"]
        parts["data"] = {
            "fingerprint": fingerprints.unlabeled if further else fingerprints.data,
            "task": task,
            "code": [
                code_digest(part)
                for part in code_of_task(
                    task, reads=not fingerprints.by_content, writes=isinstance(step.spec, TeacherSpec)
                )
            ],
            **_adds_task(task),
            **(_lesson(plan.profile.data) if step.writes else {}),
            "seed": plan.profile.seed,
            **_without(_READING if fingerprints.by_content else _PLACES, data),
        }
        if step.makes_up_texts:
            parts["judged_by"] = fingerprints.test
    if kind.trains:
        parts["numerics"] = {**asdict(numerics), "precision": numerics.precision(asked_precision(step.spec))}
        if plan.profile.train.world > 1:
            # Sums over processes have another order, so the last digits differ, as with another number of threads.
            parts["processes"] = plan.profile.train.world
    if isinstance(step.spec, PassSpec):
        if step.spec.timed:
            parts["timed_on"] = timing_target(plan.profile.targets).model_dump(
                include={"device", "threads", "cores"}
            )
        parts |= step.spec.of_this_machine()
        if code := step.spec.code():
            parts["judges"] = {source: fingerprints.models[source, None] for source in code}
    return parts


def _lesson(data: DataSpec) -> dict[str, object]:
    """What decides how the training texts are shown to the model that writes further ones."""
    assert data.generated is not None
    said = data.generated.model_dump(mode="json", include={"ask", "most"})
    return {"lesson": said, "lesson_code": code_digest(LESSON)}


def asked_precision(spec: Spec) -> Precision:
    """The precision that the training of a step asks for."""
    if isinstance(spec, TrainingSpec):
        return spec.precision
    return spec.asked_precision() if isinstance(spec, PassSpec) else "auto"


def _adds(step: PlannedStep) -> dict[str, str]:
    """The versions of the distributions that add the pass of a step and its losses; none for built-in ones."""
    added = [PASSES.added.get(step.kind.partition(".")[0])]
    added += [LOSSES.added.get(name_of(loss)) for loss in losses_in(step.spec)]
    return {plugin.distribution: plugin.version for plugin in added if plugin is not None}


def _loss_digest(name: str) -> str:
    """sha256 over the source of a loss: of its spec and its term, and of what they import."""
    kind = LOSSES[name]
    modules = {kind.spec.__module__, kind.term.partition(":")[0]}
    return hashlib.sha256("".join(map(code_digest, sorted(modules))).encode()).hexdigest()


def _adds_task(name: str) -> dict[str, object]:
    """The distribution that adds a task, and the loss that trains on its data; nothing for a built-in one."""
    plugin, loss = TASKS.added.get(name), task_kind(name).label_loss
    if plugin is None:
        return {}
    return {
        "distribution": [plugin.distribution, plugin.version],
        "label_loss": None if loss is None else _loss_digest(loss),
    }


def code_of_task(name: str, *, reads: bool = True, writes: bool = False) -> tuple[str, ...]:
    """The modules that encode and score the data of a task: those of its own slice, and what they import.

    Args:
        reads: with what reads its data.
        writes: with what writes its models down.
    """
    kind = task_kind(name)
    places = (*([kind.data] if reads else []), kind.task, *([kind.source] if writes else []))
    return tuple(place.partition(":")[0] for place in places)


def measured_by(name: str) -> dict[str, object]:
    """What of a task that a distribution adds decides what is measured; of a built-in one, whose measurements the
    version of the protocol stands for, what its memory is that of, where that is its own."""
    plugin, kind = TASKS.added.get(name), task_kind(name)
    own = kind.weighed != TaskKind.weighed
    if plugin is None:
        return {"weighed": kind.weighed} if own else {}
    places = [
        kind.task,
        kind.record,
        kind.workloads,
        *filter(None, [kind.asks]),
        *([kind.weighed] if own else []),
    ]
    modules = [place.partition(":")[0] for place in places]
    return {
        "distribution": [plugin.distribution, plugin.version],
        "code": [code_digest(module) for module in modules],
    }


def _without(names: tuple[str, ...], data: dict[str, object]) -> dict[str, object]:
    """What a profile says of its data but what a fingerprint stands for."""
    kept = {name: value for name, value in data.items() if name not in names}
    if isinstance(further := kept.get("unlabeled"), dict):
        kept["unlabeled"] = _without((*names, "generate"), further)
    return kept


def _unresolved(parts: dict[str, object]) -> bool:
    """Whether a key or a fingerprint among the parts is still missing; a spec may hold `None` freely."""
    data, inputs = parts.get("data"), parts["inputs"]
    assert isinstance(inputs, dict)
    return (
        None in inputs.values()
        or ("model" in parts and parts["model"] is None)
        or (isinstance(data, dict) and data["fingerprint"] is None)
    )
