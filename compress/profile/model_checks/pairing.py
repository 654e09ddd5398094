"""What the files of the models in a profile tell about them before anything is loaded: their kind, their tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.spec import Spec
from compress.losses.table import LossEntry
from compress.models.anatomy.table.families import CONVOLUTIONAL, network_of_kind, why_not_compared
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import ModelFiles
from compress.profile.specs.recovery import recovery_of

_SPLITTING = ("normalizer", "pre_tokenizer")
"""What a tokenizer does to a text before its model cuts the words of it."""


_OTHER_WORDS = (
    "use a student with the teacher's tokenizer, or train it on texts that the teacher writes: `distill` with "
    "`sequence` and `next_token` as its only loss"
)


@dataclass(frozen=True)
class Reader:
    """A model of a distillation: what the profile calls it, and the source whose files tell of its tokenizer and kind;
    None where no source does, as of a fresh architecture."""

    name: str
    source: str | None


@dataclass(frozen=True)
class Pairing:
    """Who learns, and from whom."""

    learner: Reader
    teachers: tuple[Reader, ...]
    by_token: bool = False
    """Whether outputs are those of tokens, so that whatever is compared is compared token by token."""

    def unlike(self, files: ModelFiles) -> str | None:
        """Which two of them are known to cut texts into different pieces, in words; None where none are."""
        for one in self.teachers:
            if _unlike(one.source, self.learner.source, files):
                return f"{self.learner.name} and {one.name} have different tokenizers"
        return None


def recovery_faults(
    spec: Spec, model: str | None, teacher: str, files: ModelFiles, *, by_token: bool
) -> Iterator[Found]:
    """The losses of a recovery that cannot compare the model that a pass changes with the teacher, below the pass."""
    recovery = recovery_of(spec)
    if recovery is None:
        return
    key, training = recovery
    lesson = Pairing(Reader("model", model), (Reader("teacher", teacher),), by_token)
    for number, why in loss_faults(training.losses or (), lesson, files):
        yield (key, "losses", number), why


def loss_faults(losses: Sequence[LossEntry], lesson: Pairing, files: ModelFiles) -> Iterator[tuple[int, str]]:
    """The losses, by their number, that cannot compare the models of a lesson."""
    two = lesson.unlike(files)
    kinds = [kind for one in lesson.teachers if (kind := files.model_type(one.source)) is not None]
    without = next((kind for kind in kinds if kind in CONVOLUTIONAL), None)
    attending = next((kind for kind in kinds if kind not in CONVOLUTIONAL), None)
    own = files.model_type(lesson.learner.source)
    closed = next((why for kind in (*kinds, own) if (why := why_not_compared(kind)) is not None), None)
    fused = next((kind for kind in (*kinds, own) if _fused(kind)), None) if lesson.by_token else None
    for number, entry in enumerate(losses):
        loss = entry.body
        if loss.needs == "attention" and without is not None:
            yield number, f"the teacher is a {without}, which has no attention to compare"
        elif loss.needs == "convolutions" and attending is not None:
            yield number, f"the teacher is a {attending}, which has no convolution feature maps to compare"
        elif loss.needs in ("layers", "attention") and closed is not None:
            yield number, closed
        elif loss.needs == "attention" and fused is not None:
            yield (
                number,
                f"a {fused} computes query, key and value in one projection: compare `hidden` instead",
            )
        elif two is not None and lesson.by_token and loss.compares:
            yield number, f"{two}, so {entry.key} cannot compare them token by token: {_OTHER_WORDS}"
        elif two is not None and loss.looks_inside:
            yield number, f"{two}, so {entry.key} cannot compare them token by token"


def _fused(kind: str | None) -> bool:
    """Whether a `model_type` computes query, key and value in one map."""
    network = None if kind is None else network_of_kind(kind)
    return network is not None and network.fused


def _unlike(first: str | None, second: str | None, files: ModelFiles) -> bool:
    """Whether two models are known to cut texts into different pieces, whatever ids these have."""
    if first == second:
        return False
    tokenizers = (files.json(source, "tokenizer.json") for source in (first, second))
    one, other = (_cutting(file) if file is not None else {} for file in tokenizers)
    # Old files leave out what newer ones say; what one of them does not tell is no difference.
    return any(one[key] != other[key] for key in one.keys() & other.keys())


def _cutting(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What decides how texts are cut: the pieces without their ids, which trimming changes, and how they are found."""
    found = tokenizer.get("model")
    model = found if isinstance(found, dict) else {}
    if isinstance(model.get("vocab"), dict):
        model = {**model, "vocab": frozenset(model["vocab"])}
    return {**model, **{part: tokenizer.get(part) for part in _SPLITTING}}
