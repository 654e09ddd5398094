"""Compatibility of student and teacher (model type, tokenizer), from their files, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.spec import Spec
from compress.losses.table import LossEntry
from compress.models.anatomy.table.families import CONVOLUTIONAL, network_of_kind, why_not_compared
from compress.profile.combination_checks import KeyFault
from compress.profile.model_checks.files import ModelFiles
from compress.profile.specs.recovery import recovery_of

_PREPROCESSING_KEYS = ("normalizer", "pre_tokenizer")
"""Sections of a `tokenizer.json` that process a text before the tokenizer's model splits it into tokens."""


_TOKENIZER_HINT = (
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

    student: PairedModel
    teachers: tuple[PairedModel, ...]
    by_token: bool = False
    """Whether the outputs are per token, so that every comparison is token by token."""

    def tokenizer_mismatch(self, files: ModelFiles) -> str | None:
        """Return which two of the models are known to have different tokenizers, in words; None if none are."""
        for teacher in self.teachers:
            if _tokenizers_differ(teacher.source, self.student.source, files):
                return f"{self.student.name} and {teacher.name} have different tokenizers"
        return None


def recovery_faults(
    spec: Spec, model: str | None, teacher: str, files: ModelFiles, *, by_token: bool
) -> Iterator[KeyFault]:
    """Yield the losses of a pass's recovery that cannot compare the changed model with the teacher, at keys of the
    pass."""
    recovery = recovery_of(spec)
    if recovery is None:
        return
    key, recovery_spec = recovery
    pairing = Pairing(PairedModel("model", model), (PairedModel("teacher", teacher),), by_token)
    for index, reason in loss_faults(recovery_spec.losses or (), pairing, files):
        yield (key, "losses", index), reason


def loss_faults(
    losses: Sequence[LossEntry], pairing: Pairing, files: ModelFiles
) -> Iterator[tuple[int, str]]:
    """Yield the index of each loss that cannot compare the student with its teachers, and why."""
    mismatch = pairing.tokenizer_mismatch(files)
    teacher_types = [
        kind for teacher in pairing.teachers if (kind := files.model_type(teacher.source)) is not None
    ]
    convolutional = next((kind for kind in teacher_types if kind in CONVOLUTIONAL), None)
    transformer = next((kind for kind in teacher_types if kind not in CONVOLUTIONAL), None)
    student_type = files.model_type(pairing.student.source)
    unreadable = next(
        (why for kind in (*teacher_types, student_type) if (why := why_not_compared(kind)) is not None), None
    )
    fused = (
        next((kind for kind in (*teacher_types, student_type) if _has_fused_qkv(kind)), None)
        if pairing.by_token
        else None
    )
    for index, entry in enumerate(losses):
        loss = entry.body
        if loss.needs == "attention" and convolutional is not None:
            yield index, f"the teacher is a {convolutional}, which has no attention to compare"
        elif loss.needs == "convolutions" and transformer is not None:
            yield index, f"the teacher is a {transformer}, which has no convolution feature maps to compare"
        elif loss.needs in ("layers", "attention") and unreadable is not None:
            yield index, unreadable
        elif loss.needs == "attention" and fused is not None:
            yield (
                index,
                f"a {fused} computes query, key and value in one projection: compare `hidden` instead",
            )
        elif mismatch is not None and pairing.by_token and loss.needs_teacher:
            yield index, f"{mismatch}, so {entry.key} cannot compare them token by token: {_TOKENIZER_HINT}"
        elif mismatch is not None and loss.compares_internals:
            yield index, f"{mismatch}, so {entry.key} cannot compare them token by token"


def _has_fused_qkv(kind: str | None) -> bool:
    """Whether models of a `model_type` compute query, key and value in one projection."""
    network = None if kind is None else network_of_kind(kind)
    return network is not None and network.fused


def _tokenizers_differ(first: str | None, second: str | None, files: ModelFiles) -> bool:
    """Whether two models are known to split texts into different tokens, ignoring token ids."""
    if first == second:
        return False
    tokenizers = (files.json(source, "tokenizer.json") for source in (first, second))
    first_rules, second_rules = (_tokenization(file) if file is not None else {} for file in tokenizers)
    # Old files lack keys that newer ones have; a missing key does not count as a difference.
    return any(first_rules[key] != second_rules[key] for key in first_rules.keys() & second_rules.keys())


def _tokenization(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return what determines how texts are tokenized: the rules, and the tokens without ids, which trimming changes."""
    section = tokenizer.get("model")
    model = section if isinstance(section, dict) else {}
    if isinstance(model.get("vocab"), dict):
        model = {**model, "vocab": frozenset(model["vocab"])}
    return {**model, **{part: tokenizer.get(part) for part in _PREPROCESSING_KEYS}}
