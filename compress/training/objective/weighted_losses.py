"""The training objective: a weighted sum of losses between the student's signals and the teacher's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.reading import read_mapping
from compress.core.plugins import call_named
from compress.encoding.inputs import SELF_GENERATED, Inputs
from compress.losses.contract import LossSpec
from compress.losses.table import LOSSES, name_of
from compress.models.text.vocabulary import read_vocabulary
from compress.training.batches import to_tensors
from compress.training.objective.terms import LossInputs, ModelPair, Term, refuse
from compress.training.objective.trust import TrustedTokens
from compress.training.signals.capture import OUTPUTS, Anatomy, Signals, anatomy_of


class Objective(nn.Module):
    """The weighted sum of the terms; its parameters are the terms' learned projections, trained with the student.

    Attributes:
        student_needs, teacher_needs: names of the signals to capture of each; none of the teacher if no loss
            compares with it.

    Args:
        two_heads: whether a student's class head and distillation head are used separately, as those of a DeiT; else
            both signals are its outputs.
        trusted: selects the target tokens; None: all target tokens of the batch.
        data_terms: names of the terms that need no teacher; they are skipped for text that the student generated.
    """

    def __init__(
        self,
        terms: dict[str, Term],
        weights: dict[str, float],
        *,
        two_heads: bool = True,
        trusted: TrustedTokens | None = None,
        data_terms: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = weights
        self.data_terms = frozenset(data_terms)
        needs = frozenset[str]().union(*(term.student_needs for term in terms.values()))
        self.student_needs = needs if two_heads or not needs & OUTPUTS else needs - OUTPUTS | {"outputs"}
        self.two_heads = two_heads
        self.teacher_needs = frozenset[str]().union(*(term.teacher_needs for term in terms.values()))
        self.trusted = trusted
        if trusted is not None:
            self.teacher_needs |= {trusted.name}
        self._last_losses: dict[str, Tensor] = {}

    def forward(
        self,
        student: Signals,
        teacher: Signals,
        labels: Tensor,
        mask: Tensor | None,
        batch: dict[str, Tensor],
        factors: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of one batch, a float32 scalar; no gradient reaches the teacher.

        Args:
            student, teacher: the signals of `student_needs` and `teacher_needs`, for the same inputs, aligned
                by token.
            labels: int64 (n,); losses that use them ignore `UNLABELLED`.
            mask: (n, t), nonzero for real tokens; None for images.
            batch: the student's inputs, for losses that run it once more.
            factors: of the means that `counts` counts, in their order, (k,); None: 1 each.
        """
        if not self.two_heads and "outputs" in student:
            student = {**student, **dict.fromkeys(OUTPUTS, student["outputs"])}
        inputs, terms = (
            self._loss_inputs(student, teacher, labels, mask, batch),
            self._applicable_terms(batch),
        )
        values = {name: term(inputs) for name, term in terms.items()}
        self._last_losses = {name: value.detach().mean() for name, value in values.items()}
        if factors is not None:
            term_factors = torch.split(factors, [term.num_means for term in terms.values()])
            values = {
                name: factor * value
                for factor, (name, value) in zip(term_factors, values.items(), strict=True)
            }
        return torch.stack([self.weights[name] * value.mean() for name, value in values.items()]).sum()

    def counts(
        self, teacher: Signals, labels: Tensor, mask: Tensor | None, batch: dict[str, Tensor]
    ) -> Tensor:
        """Return the number of items in each mean over a batch, float64 (k,) on the CPU.

        Args:
            teacher: the signals that `trusted` needs; otherwise may be empty.
            labels, mask, batch: as in `forward`.
        """
        inputs = self._loss_inputs({}, teacher, labels, mask, batch)
        totals = [term.counts(inputs).reshape(-1).cpu() for term in self._applicable_terms(batch).values()]
        return torch.cat(totals).double()

    def _loss_inputs(
        self,
        student: Signals,
        teacher: Signals,
        labels: Tensor,
        mask: Tensor | None,
        batch: dict[str, Tensor],
    ) -> LossInputs:
        teacher = {name: signal.detach() for name, signal in teacher.items()}
        filtered_batch = batch if self.trusted is None else self.trusted(batch, teacher)
        return LossInputs(student, teacher, labels, None if mask is None else mask.bool(), filtered_batch)

    def _applicable_terms(self, batch: dict[str, Tensor]) -> dict[str, Term]:
        """Return the terms that apply to a batch."""
        skipped = self.data_terms if SELF_GENERATED in batch else ()
        return {name: cast(Term, term) for name, term in self.terms.items() if name not in skipped}

    @property
    def last_losses(self) -> dict[str, float]:
        """The last value of each loss, unweighted; a second loss of the same kind is called `hidden-2`."""
        return {name: float(value) for name, value in self._last_losses.items()}


def build_objective(
    losses: Sequence[LossSpec],
    student: Anatomy,
    teacher: Anatomy | None,
    *,
    seed: int,
    student_model: nn.Module | None = None,
    mask_id: int | None = None,
    special_ids: Collection[int] | None = None,
    two_heads: bool = True,
    trusted: TrustedTokens | None = None,
) -> Objective:
    """Build the objective of `losses` between two models; equal arguments give equal initial weights.

    Args:
        teacher: None if there is no teacher: then only losses that need none are allowed.
        student_model, mask_id, special_ids: as in `ModelPair`; for losses that run the student once more.

    Raises:
        ModelError: a loss compares what one of the models lacks, or what is not comparable; the reason is given.
    """
    generator = torch.Generator().manual_seed(seed)
    models = ModelPair(student, teacher or student, generator, student_model, mask_id, special_ids)
    terms: dict[str, Term] = {}
    weights: dict[str, float] = {}
    data_terms = set[str]()
    for spec in losses:
        kind = name_of(spec)
        if spec.needs_teacher and teacher is None:
            refuse(kind, "this loss compares with a teacher, and there is none")
        number = 1 + sum(name.split("-")[0] == kind for name in terms)
        name = kind if number == 1 else f"{kind}-{number}"
        terms[name], weights[name] = call_named(LOSSES[kind].term, spec, models), spec.weight
        if not spec.needs_teacher:
            data_terms.add(name)
    return Objective(terms, weights, two_heads=two_heads, trusted=trusted, data_terms=data_terms)


def objective_between(
    losses: Sequence[LossSpec],
    student: nn.Module,
    encoded: tuple[Path, Inputs],
    teacher: tuple[nn.Module, Inputs] | None,
    *,
    seed: int,
    two_heads: bool = True,
    trusted: TrustedTokens | None = None,
) -> Objective:
    """Build the objective of `losses` between two loaded models, by `build_objective`.

    Args:
        encoded: the student's interface folder, and examples encoded for it.
        teacher: the teacher with the same examples encoded for it; None: no teacher.
        two_heads, trusted: as in `Objective`.
    """
    folder, inputs = encoded
    mask_id = int(read_mapping(folder / TASK).get("mask_id", -1))
    tokenizer = folder / TOKENIZER
    return build_objective(
        losses,
        _anatomy(student, inputs),
        None if teacher is None else _anatomy(*teacher),
        seed=seed,
        student_model=student,
        mask_id=mask_id if mask_id >= 0 else None,
        special_ids=sorted(read_vocabulary(tokenizer).special) if tokenizer.exists() else None,
        two_heads=two_heads,
        trusted=trusted,
    )


def _anatomy(model: nn.Module, inputs: Inputs) -> Anatomy:
    device = str(next(model.parameters()).device)
    return anatomy_of(model, to_tensors(inputs.batch(range(min(2, len(inputs)))), device))
