"""What the files of the models in a profile tell about them before anything is loaded: their kind, their tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.losses.table import LossEntry
from compress.models.anatomy.table.families import CONVOLUTIONAL, why_not_compared
from compress.passes.distill.spec import DistillSpec
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import model_type, read_json
from compress.profile.recovery_spec import recovery_of
from compress.profile.schema import Profile
from compress.profile.yaml_lines import Path_

_SPLITTING = ("normalizer", "pre_tokenizer")
"""What a tokenizer does to a text before its model cuts the words of it."""


@dataclass(frozen=True)
class _Reader:
    """A model of a distillation: what the profile calls it, and the source whose files tell of its tokenizer and kind;
    None where no source does, as of a fresh architecture."""

    name: str
    source: str | None


@dataclass(frozen=True)
class _Lesson:
    """Who learns, and from whom."""

    learner: _Reader
    teachers: tuple[_Reader, ...]

    def unlike(self, base: Path) -> str | None:
        """Which two of them are known to cut texts into different pieces, in words; None where none are."""
        for one in self.teachers:
            if _unlike(one.source, self.learner.source, base):
                return f"{self.learner.name} and {one.name} have unlike tokenizers"
        return None


def known_model_faults(profile: Profile, base: Path) -> list[Found]:
    """What the teachers and students of a valid profile cannot do, as far as their files on this machine tell."""
    found: list[Found] = []
    model: str | None = profile.teacher.model
    for index, spec in enumerate(profile.specs):
        if isinstance(spec, DistillSpec):
            lessons = _lessons(profile, spec, model)
            faults = dict.fromkeys(fault for lesson in lessons for fault in _faults(spec, lesson, base))
            found += [(("passes", index, "distill", *keys), why) for keys, why in faults]
            model = lessons[-1].learner.source
        elif (recovery := recovery_of(spec)) is not None:
            key, training = recovery
            lesson = _Lesson(_Reader("model", model), (_Reader("teacher", profile.teacher.model),))
            at: Path_ = ("passes", index, spec.kind, key, "losses")
            unfit = _loss_faults(training.losses or (), lesson, base)
            found += [((*at, number), why) for number, why in unfit]
    return found


def _lessons(profile: Profile, spec: DistillSpec, model: str | None) -> list[_Lesson]:
    """What the assistants learn, one from the other, and last the student.

    Args:
        model: the source of what the first of them is made from, unless it stands ready.
    """
    named = [entry.model or profile.teacher.model for entry in spec.teachers] or [profile.teacher.model]
    teachers = tuple(_Reader("teacher", source) for source in named)
    learners = [(f"assistant {number}", one) for number, one in enumerate(spec.assistants, start=1)]
    lessons = []
    for name, student in [*learners, ("student", spec.student)]:
        if student.model is not None or student.architecture is not None:
            model = student.model
        learner = _Reader(name, model)
        lessons.append(_Lesson(learner, teachers))
        teachers = (learner,)
    return lessons


def _faults(spec: DistillSpec, lesson: _Lesson, base: Path) -> Iterator[Found]:
    # A student that follows its own average is compared with nobody else.
    compared = lesson if spec.ema is None else _Lesson(lesson.learner, (lesson.learner,))
    for index, stage in enumerate(spec.staged):
        place: Path_ = ("stages", index, "losses") if spec.stages else ("losses",)
        for number, why in _loss_faults(stage.losses, compared, base):
            yield (*place, number), why
    two = lesson.unlike(base)
    if two is not None and spec.augment is not None:
        yield ("augment",), f"{two}, so new texts cannot be made for both"


def _loss_faults(losses: Sequence[LossEntry], lesson: _Lesson, base: Path) -> Iterator[tuple[int, str]]:
    """The losses, by their number, that cannot compare the models of a lesson."""
    two = lesson.unlike(base)
    kinds = [kind for one in lesson.teachers if (kind := model_type(one.source, base)) is not None]
    without = next((kind for kind in kinds if kind in CONVOLUTIONAL), None)
    attending = next((kind for kind in kinds if kind not in CONVOLUTIONAL), None)
    own = model_type(lesson.learner.source, base)
    closed = next((why for kind in (*kinds, own) if (why := why_not_compared(kind)) is not None), None)
    for number, entry in enumerate(losses):
        loss = entry.body
        if loss.needs == "attention" and without is not None:
            yield number, f"the teacher is a {without}, which has no attention to compare"
        elif loss.needs == "convolutions" and attending is not None:
            yield number, f"the teacher is a {attending}, which has no maps of convolutions to compare"
        elif loss.needs in ("layers", "attention") and closed is not None:
            yield number, closed
        elif two is not None and loss.looks_inside:
            yield number, f"{two}, so {entry.key} cannot compare them token by token"


def _unlike(first: str | None, second: str | None, base: Path) -> bool:
    """Whether two models are known to cut texts into different pieces, whatever ids these have."""
    files = (read_json(first, "tokenizer.json", base), read_json(second, "tokenizer.json", base))
    one, other = (_cutting(file) if file is not None else {} for file in files)
    # Old files leave out what newer ones say; what one of them does not tell is no difference.
    return any(one[key] != other[key] for key in one.keys() & other.keys())


def _cutting(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What decides how texts are cut: the pieces without their ids, which trimming changes, and how they are found."""
    told = tokenizer.get("model")
    model = told if isinstance(told, dict) else {}
    if isinstance(model.get("vocab"), dict):
        model = {**model, "vocab": frozenset(model["vocab"])}
    return {**model, **{part: tokenizer.get(part) for part in _SPLITTING}}
