"""What a task can be taught with: combinations of keys that exclude each other, each with its reason.

Some are faults, found by `validate` before anything is read but the profile; some are warnings, for what works and is
likely to disappoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compress.core.spec import Spec
from compress.losses.contract import Lesson, LossSpec
from compress.passes.distill.spec import DistillSpec, StageSpec
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize.spec import QuantizeSpec
from compress.profile.recovery_spec import RecoverySpec, recovery_of
from compress.profile.schema import Profile
from compress.profile.student_spec import StudentSpec
from compress.profile.yaml_lines import Path_
from compress.tasks.table import TASKS, task_kind

Found = tuple[Path_, str]
"""Where in the profile, and what is wrong."""

FAR_SMALLER = 50
"""A student with so many times fewer parameters than its teacher gets a warning (Mirzadeh et al. 2020)."""

_SERVES = {
    "augment": {
        "texts": ("copies", "replace", "delete", "splice", "neighbours"),
        "images": ("flip", "crop", "mixup", "cutmix"),
    },
    "data_free": {
        "texts": ("length", "words", "rounds"),
        "images": ("generator_rate", "student_steps", "statistics", "balance"),
    },
}
"""The keys of a section that serve one kind of examples alone."""
_REACHES_NOTHING = (
    "no loss that reaches the student's outputs: add logits, labels, output, or similarity with "
    "`representation: outputs`"
)


def losses_of(stage: StageSpec) -> list[LossSpec]:
    """The losses of a stage."""
    return [entry.body for entry in stage.losses]


def teaching_faults(profile: Profile) -> list[Found]:
    """Every combination of a valid profile that cannot work."""
    found = list(_data_faults(profile))
    for index, spec in enumerate(profile.specs):
        recovery = recovery_of(spec)
        if recovery is not None:
            at: Path_ = ("passes", index, spec.kind, recovery[0])
            found += [((*at, *keys), why) for keys, why in _recovery_faults(profile, recovery[1])]
        if isinstance(spec, DistillSpec):
            path: Path_ = ("passes", index, "distill")
            found += [((*path, *keys), why) for keys, why in _distill_faults(profile, spec)]
        elif isinstance(spec, PruneSpec) and spec.remove is not None:
            where: Path_ = ("passes", index, "prune", "remove")
            if spec.remove.channels and _takes(profile) == "texts":
                found.append(((*where, "channels"), "models of texts have no channels"))
            if spec.remove.vocabulary == "unused" and _takes(profile) != "texts":
                found.append(((*where, "vocabulary"), "models of images have no vocabulary"))
        elif isinstance(spec, QuantizeSpec) and spec.equalize and _takes(profile) == "texts":
            found.append(
                (
                    ("passes", index, "quantize", "equalize"),
                    "only convolutions are equalised, and models of texts have none; `smooth` is for their outliers",
                )
            )
    return found


def teaching_warnings(profile: Profile) -> list[str]:
    """What a valid profile does that is likely to disappoint, a sentence each."""
    warnings = []
    distils = any(
        isinstance(spec, DistillSpec)
        and any(loss.softens for stage in spec.staged for loss in losses_of(stage))
        for spec in profile.specs
    )
    if distils and profile.teacher.finetune is not None and profile.teacher.finetune.smoothing > 0:
        warnings.append(
            "teacher.finetune.smoothing: a teacher trained with smoothed labels may distil worse, as its logits tell "
            "wrong classes apart less (Mueller et al. 2019); on CLINC150 no difference was measured, so measure yours"
        )
    for index, spec in enumerate(profile.specs):
        if isinstance(spec, DistillSpec) and spec.data_free is not None and not spec.control:
            warnings.append(
                f"passes.{index}.distill.data_free: how much is lost by showing no training data will not be "
                "measured; `control: true` teaches the same student with the data too, and the report compares them"
            )
    return warnings


def _takes(profile: Profile) -> str:
    """What the model reads: `texts` or `images`."""
    return f"{task_kind(profile.task).items}s"


def _embeds(profile: Profile) -> bool:
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


def _distill_faults(profile: Profile, spec: DistillSpec) -> Iterator[Found]:
    yield from _student_faults(profile, spec)
    yield from _foreign_keys(profile, spec)
    yield from _data_free_faults(profile, spec)
    yield from _teacher_faults(profile, spec)
    lesson = _lesson(profile, spec)
    for index, stage in enumerate(spec.staged):
        place: Path_ = ("stages", index, "losses") if spec.stages else ("losses",)
        for number, loss in enumerate(losses_of(stage)):
            why = loss.fault(lesson)
            if why is not None:
                yield (*place, number), why
        wanted = stage.data or spec.data
        if wanted == "unlabeled" and profile.data.unlabeled is None:
            yield (place[:-1] or ("data",)), "`unlabeled` needs `data.unlabeled` in the profile"
        if wanted == "unlabeled" and all(loss.learns_labels for loss in losses_of(stage)):
            yield place, "unlabelled examples have no labels to learn from: add a loss with the teacher"
    if not any(loss.reaches_outputs for loss in losses_of(spec.staged[-1])):
        last = "the last stage has" if spec.stages else "there is"
        yield ("stages",) if spec.stages else ("losses",), f"{last} {_REACHES_NOTHING}"


def _recovery_faults(profile: Profile, spec: RecoverySpec) -> Iterator[Found]:
    losses, lesson = [entry.body for entry in spec.losses or ()], _lesson(profile)
    for number, loss in enumerate(losses):
        why = loss.fault(lesson)
        if why is not None:
            yield ("losses", number), why
    if losses and not any(loss.reaches_outputs for loss in losses):
        yield ("losses",), f"there is {_REACHES_NOTHING}"


def _student_faults(profile: Profile, spec: DistillSpec) -> Iterator[Found]:
    if _takes(profile) == "images" and spec.vocabulary != "keep":
        yield ("vocabulary",), "images have no vocabulary"
    students: list[tuple[Path_, StudentSpec]] = [(("student",), spec.student)]
    students += [(("assistants", index), one) for index, one in enumerate(spec.assistants)]
    for place, student in students:
        if student.architecture is not None and _takes(profile) != "images":
            yield (*place, "architecture"), f"{student.architecture} reads images, not texts"
        if spec.data_free is not None and student.choose == "similarity":
            yield (*place, "choose"), "data_free shows no examples to measure the similarity of layers on"
        if student.patch_size is not None and student.architecture is None:
            yield (*place, "patch_size"), "only a student with an `architecture` has patches to size"
        if student.model is not None and spec.trimmed is not None:
            yield (
                ("vocabulary",),
                "a student that stands ready keeps its own tokenizer; leave `vocabulary` out",
            )


def _foreign_keys(profile: Profile, spec: DistillSpec) -> Iterator[Found]:
    """Keys that were written down and that serve the other kind of examples alone."""
    ours, theirs = ("texts", "images") if _takes(profile) == "texts" else ("images", "texts")
    for section, keys in _SERVES.items():
        given: Spec | None = getattr(spec, section)
        for name in keys[theirs]:
            if given is not None and name in given.model_fields_set:
                why = f"it serves {theirs} only; for {ours} there are: {', '.join(keys[ours])}"
                yield (section, name), why


def _data_free_faults(profile: Profile, spec: DistillSpec) -> Iterator[Found]:
    if spec.data_free is None:
        return
    if _takes(profile) == "images":
        if spec.stages:
            yield (
                ("stages",),
                "a generator of images teaches in one stage by nature; leave `stages` out and give `losses`",
            )
        return
    fewest, room = spec.data_free.length[0], profile.data.max_length
    if fewest > room:
        yield (
            ("data_free", "length"),
            f"no text of {fewest} tokens fits into `data.max_length`, which is {room}",
        )


def _teacher_faults(profile: Profile, spec: DistillSpec) -> Iterator[Found]:
    losses = [loss for stage in spec.staged for loss in losses_of(stage)]
    taught = any(loss.compares for loss in losses)
    if not taught:
        for name in ("teachers", "select", "online", "ema", "data_free", "assistants"):
            if getattr(spec, name):
                yield (name,), "every loss looks at the labels alone, so nobody teaches"
        if spec.generations > 1:
            yield (
                ("generations",),
                "every loss looks at the labels alone: a generation would learn nothing new",
            )
    if spec.ema is not None and not any(loss.learns_labels for loss in losses):
        yield ("ema",), "a student that follows its own average alone learns nothing: add a labels loss"
    if not _embeds(profile):
        return
    if spec.control and spec.data_free is None:
        yield (
            ("control",),
            "embeddings have no labels, so nobody could teach the same student without the teacher",
        )
    if len(spec.teachers) > 1:
        yield ("teachers",), "embeddings of different models have no common axes, so they cannot be averaged"
    for name in ("select", "online", "ema"):
        if getattr(spec, name) is not None:
            yield (name,), "it needs probabilities or labels, which embeddings have not"


def _lesson(profile: Profile, spec: DistillSpec | None = None) -> Lesson:
    """What losses would work on in a distillation; None: in a recovery from the profile's teacher."""
    reads = _takes(profile)
    return Lesson(
        labelled=not _embeds(profile),
        reads=reads,
        teachers=1 if spec is None else max(1, len(spec.teachers)),
        generated=spec is not None and spec.data_free is not None and reads == "images",
    )
