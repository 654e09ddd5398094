"""Compatibility of student and teacher (model type, tokenizer), from their files, before anything is loaded."""

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
"""Sections of a `tokenizer.json` that process a text before the tokenizer's model splits it into tokens."""


_OTHER_WORDS = (
    "use a student with the teacher's tokenizer, or train it on texts that the teacher writes: `distill` with "
    "`sequence` and `next_token` as its only loss"
)


@dataclass(frozen=True)
class PairedModel:
    """A model in a distillation: its name in the profile, and the source of its config and tokenizer.

    `source` is None if there is none, as for a fresh architecture.
    """

    name: str
    source: str | None


@dataclass(frozen=True)
class Pairing:
    """A student and its teachers."""

    learner: PairedModel
    teachers: tuple[PairedModel, ...]
    by_token: bool = False
    """Whether the outputs are per token, so that every comparison is token by token."""

    def unlike(self, files: ModelFiles) -> str | None:
        """Return which two of the models are known to have different tokenizers, in words; None if none are."""
        for one in self.teachers:
            if _unlike(one.source, self.learner.source, files):
                return f"{self.learner.name} and {one.name} have different tokenizers"
        return None


def recovery_faults(
    spec: Spec, model: str | None, teacher: str, files: ModelFiles, *, by_token: bool
) -> Iterator[Found]:
    """Yield the losses of a pass's recovery that cannot compare the changed model with the teacher, at keys of the
    pass."""
    recovery = recovery_of(spec)
    if recovery is None:
        return
    key, training = recovery
    lesson = Pairing(PairedModel("model", model), (PairedModel("teacher", teacher),), by_token)
    for number, why in loss_faults(training.losses or (), lesson, files):
        yield (key, "losses", number), why


def loss_faults(losses: Sequence[LossEntry], lesson: Pairing, files: ModelFiles) -> Iterator[tuple[int, str]]:
    """Yield the index of each loss that cannot compare the student with its teachers, and why."""
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
    """Whether models of a `model_type` compute query, key and value in one projection."""
    network = None if kind is None else network_of_kind(kind)
    return network is not None and network.fused


def _unlike(first: str | None, second: str | None, files: ModelFiles) -> bool:
    """Whether two models are known to split texts into different tokens, ignoring token ids."""
    if first == second:
        return False
    tokenizers = (files.json(source, "tokenizer.json") for source in (first, second))
    one, other = (_cutting(file) if file is not None else {} for file in tokenizers)
    # Old files lack keys that newer ones have; a missing key does not count as a difference.
    return any(one[key] != other[key] for key in one.keys() & other.keys())


def _cutting(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return what determines how texts are tokenized: the rules, and the tokens without ids, which trimming changes."""
    found = tokenizer.get("model")
    model = found if isinstance(found, dict) else {}
    if isinstance(model.get("vocab"), dict):
        model = {**model, "vocab": frozenset(model["vocab"])}
    return {**model, **{part: tokenizer.get(part) for part in _SPLITTING}}
