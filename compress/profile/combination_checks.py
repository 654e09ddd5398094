"""Combinations of task, data and training keys that exclude each other, each with its reason.

`validate` finds these faults from the profile alone, before reading anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compress.core.task_kind import TaskKind
from compress.losses.contract import LossContext
from compress.passes.table import PASSES
from compress.profile.schema import Profile
from compress.profile.specs.budget import budget_spec
from compress.profile.specs.generate import GenerateSpec
from compress.profile.specs.license import why_forbidden
from compress.profile.specs.recovery import RecoverySpec, recovery_of
from compress.profile.specs.training import FinetuneSpec
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import generative_task, task_kind, task_names, users_of_keys, users_of_quantities

KeyFault = tuple[KeyPath, str]
"""Path in the profile, and what is wrong there."""


NO_OUTPUT_LOSS = (
    "no loss that reaches the student's outputs: add logits, labels, output, or similarity with "
    "`representation: outputs`"
)


def combination_faults(profile: Profile) -> list[KeyFault]:
    """Return every combination of keys in a valid profile that cannot work."""
    faults = list(_data_faults(profile))
    for index, spec in enumerate(profile.specs):
        recovery = recovery_of(spec)
        if recovery is not None:
            key_path: KeyPath = ("passes", index, spec.kind, recovery[0])
            faults += [
                ((*key_path, *keys), reason) for keys, reason in _recovery_faults(profile, recovery[1])
            ]
    return faults


def key_faults(values: Mapping[str, Any]) -> Iterator[KeyFault]:
    """Yield the keys that were written but do not apply to the task; works on invalid profiles too."""
    task = values.get("task")
    if task not in task_names():
        return
    kind, users = task_kind(task), users_of_keys()
    refused = {
        key: f"only {' and '.join(users[key])} {next(iter(users[key].values()))}, not {task}"
        for key in sorted(users.keys() - kind.uses.keys())
    }
    limits = budget_spec(task).model_fields.keys()
    refused |= {
        f"budget.{name}": f"this limit is only for {' and '.join(owners)}; limits of {task} are "
        f"{', '.join(sorted(limits - {'judge'}))}"
        for name, owners in users_of_quantities().items()
        if name not in limits
    }
    for key, reason in {**refused, **kind.refused}.items():
        yield from ((path, reason) for path in _paths_of_key(values, tuple(key.split("."))))


def _paths_of_key(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[KeyPath]:
    """Yield the paths at which a profile sets a key; a key of a pass is looked up in every pass of that name."""
    if path[0] != "passes":
        value: Any = values
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        # `is not False`, because 0 is a value although it equals `False`.
        if value is not None and value is not False:
            yield path
        return
    kind, sub_path = path[1], path[2:]
    entries = values.get("passes")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        # The body of an empty pass may be `null`.
        if (
            isinstance(entry, Mapping)
            and kind in entry
            and (not sub_path or [*_paths_of_key(entry, path[1:])])
        ):
            yield "passes", index, *path[1:]


def input_kind(profile: Profile) -> str:
    """Return the input type of the model: `texts` or `images`."""
    return f"{task_kind(profile.task).items}s"


def outputs_embeddings(profile: Profile) -> bool:
    """Whether the model outputs embedding vectors instead of predictions."""
    return task_kind(profile.task).head == "pooled"


def _data_faults(profile: Profile) -> Iterator[KeyFault]:
    data, task, kind = profile.data, profile.task, task_kind(profile.task)
    if kind.items == "text":
        for name in ("image_size", "preprocess"):
            if getattr(data, name) is not None:
                yield ("data", name), f"{task} reads texts, not images"
        if "image_column" in data.model_fields_set:
            yield ("data", "image_column"), f"{task} reads texts, not images"
    else:
        if "text_column" in data.model_fields_set:
            yield ("data", "text_column"), f"{task} reads images, not texts"
        if any(target.sequence_lengths for target in profile.targets):
            yield ("targets",), "sequence_lengths are for texts: all images have one size"
    if kind.generates:
        for index, target in enumerate(profile.targets):
            if (target.device, target.runtime) == ("cuda", "onnxruntime"):
                yield (
                    ("targets", index, "runtime"),
                    f"ONNX files of {task} use FP32 attention, for which onnxruntime has no CUDA kernel: use torch",
                )
    if profile.teacher.finetune is not None:
        yield from _training_faults(profile.teacher.finetune, kind, ("teacher", "finetune"))
    if data.generate_spec is not None:
        yield from _generated_faults(profile, data.generate_spec)


def _generated_faults(profile: Profile, spec: GenerateSpec) -> Iterator[KeyFault]:
    """Yield the faults of unlabeled texts that a language model generates for the teacher to label."""
    kind, path = task_kind(profile.task), ("data", "unlabeled", "generate")
    if "data.unlabeled" in kind.refused:
        return
    if kind.items != "text" or kind.head != "classifier":
        inputs = "images" if kind.items == "image" else "texts, or pairs of them, without labels"
        yield (
            path,
            f"texts are generated from labels, and {kind.name} reads {inputs}: give examples with `path`",
        )
        return
    if (reason := why_forbidden(spec.license, spec.model)) is not None:
        yield (*path, "license"), reason
    consumers = [
        name for name, one in PASSES.items() if any(step.reads_unlabeled for step in one.steps.values())
    ]
    if not any(one.kind in consumers for one in profile.specs):
        yield path, f"no pass of this profile uses unlabeled texts; {' and '.join(consumers)} do"
    if profile.train.nodes > 1:
        yield path, "with several machines (`train.nodes`), each would generate different texts"
    yield from _training_faults(spec.finetune, task_kind(generative_task()), (*path, "finetune"))


def _training_faults(finetune: FinetuneSpec, kind: TaskKind, path: KeyPath) -> Iterator[KeyFault]:
    """Yield the training keys that do not apply to a task."""
    if kind.head != "classifier":
        yield from _untaught_faults(finetune, kind, path)
    if finetune.augment and kind.items != "image":
        yield (*path, "augment"), "only images are shifted; texts are augmented in `distill`"
    if (reason := why_not_packed(finetune, kind.name)) is not None:
        yield (*path, "pack"), reason


def why_not_packed(finetune: FinetuneSpec, task: str) -> str | None:
    """Return why the examples of a task cannot be packed into one sequence; None if they can, or packing is off."""
    unsupported = finetune.pack and not task_kind(task).generates
    return f"only texts of language models are packed, not those of {task}" if unsupported else None


def _untaught_faults(finetune: FinetuneSpec, kind: TaskKind, path: KeyPath) -> Iterator[KeyFault]:
    """Yield the faults of training without a teacher on a task that has no labels."""
    if kind.label_loss is None:
        if "teacher.finetune" not in kind.refused:
            reason = f"the data of {kind.name} has no right answers: only a teacher gives them"
            yield path, reason
        return
    for name in ("smoothing", "class_weights"):
        if getattr(finetune, name):
            yield (*path, name), f"{kind.name} has no labels"


def _recovery_faults(profile: Profile, spec: RecoverySpec) -> Iterator[KeyFault]:
    losses, setting = [entry.body for entry in spec.losses or ()], training_setting_of(profile)
    for index, loss in enumerate(losses):
        reason = loss.fault(setting)
        if reason is not None:
            yield ("losses", index), reason
    if losses and not any(loss.reaches_outputs for loss in losses):
        yield ("losses",), f"there is {NO_OUTPUT_LOSS}"


def training_setting_of(profile: Profile, *, teachers: int = 1, generated: bool = False) -> LossContext:
    """Return what the losses of a training work on: by default, of a recovery from the profile's teacher.

    Args:
        teachers: number of teachers.
        generated: the inputs are generated by a model.
    """
    return LossContext(task_kind(profile.task), teachers, generated and input_kind(profile) == "images")
