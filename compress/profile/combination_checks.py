"""What a task can be taught with: combinations of keys that exclude each other, each with its reason.

Some are faults, found by `validate` before anything is read but the profile; some are warnings, for what works and is
likely to disappoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compress.losses.contract import Lesson
from compress.profile.recovery_spec import RecoverySpec, recovery_of
from compress.profile.schema import Profile
from compress.profile.yaml_lines import Path_
from compress.tasks.table import TASKS, task_kind

Found = tuple[Path_, str]
"""Where in the profile, and what is wrong."""


REACHES_NOTHING = (
    "no loss that reaches the student's outputs: add logits, labels, output, or similarity with "
    "`representation: outputs`"
)


def teaching_faults(profile: Profile) -> list[Found]:
    """Every combination of a valid profile that cannot work."""
    found = list(_data_faults(profile))
    for index, spec in enumerate(profile.specs):
        recovery = recovery_of(spec)
        if recovery is not None:
            at: Path_ = ("passes", index, spec.kind, recovery[0])
            found += [((*at, *keys), why) for keys, why in _recovery_faults(profile, recovery[1])]
    return found


def takes(profile: Profile) -> str:
    """What the model reads: `texts` or `images`."""
    return f"{task_kind(profile.task).items}s"


def embeds(profile: Profile) -> bool:
    """Whether the outputs are vectors, and no answers."""
    return task_kind(profile.task).head == "pooled"


def _data_faults(profile: Profile) -> Iterator[Found]:
    data, task, kind = profile.data, profile.task, task_kind(profile.task)
    if kind.items == "text":
        for name in ("image_size", "preprocess"):
            if getattr(data, name) is not None:
                yield ("data", name), f"{task} reads texts, not images"
    else:
        if any(target.sequence_lengths for target in profile.targets):
            yield ("targets",), "sequence_lengths are for texts: all images have one size"
        if data.sentences:
            yield ("data", "sentences"), "images have no sentences"
    for key in sorted(set(_users()) - set(kind.uses)):
        path = tuple(key.split("."))
        users = _users()[key]
        if _value(profile, path) and (kind.items == "text" or path != ("data", "sentences")):
            yield path, f"only {' and '.join(users)} {next(iter(users.values()))}, not {task}"
    for key, why in kind.refused.items():
        path = tuple(key.split("."))
        if _value(profile, path) is not None:
            yield path, why
    if data.sentences and data.pair_columns is not None:
        yield (
            ("data", "sentences"),
            "given pairs are compared as they are, so their texts cannot be cut into sentences",
        )
    finetune = profile.teacher.finetune
    if finetune is not None and finetune.augment and kind.items != "image":
        yield ("teacher", "finetune", "augment"), "only images are shifted; texts are augmented in `distill`"


def _users() -> dict[str, dict[str, str]]:
    """The keys that not every task uses: which tasks do, and what they do with them."""
    found: dict[str, dict[str, str]] = {}
    for name, kind in TASKS.items():
        for key, verb in kind.uses.items():
            found.setdefault(key, {})[name] = verb
    return found


def _value(profile: Profile, path: tuple[str, ...]) -> Any:
    value: Any = profile
    for name in path:
        value = getattr(value, name)
    return value


def _recovery_faults(profile: Profile, spec: RecoverySpec) -> Iterator[Found]:
    losses, lesson = [entry.body for entry in spec.losses or ()], lesson_of(profile)
    for number, loss in enumerate(losses):
        why = loss.fault(lesson)
        if why is not None:
            yield ("losses", number), why
    if losses and not any(loss.reaches_outputs for loss in losses):
        yield ("losses",), f"there is {REACHES_NOTHING}"


def lesson_of(profile: Profile, *, teachers: int = 1, generated: bool = False) -> Lesson:
    """What losses would work on: in a recovery from the profile's teacher, or with so many teachers, on generated
    inputs."""
    return Lesson(task_kind(profile.task), teachers, generated and takes(profile) == "images")
