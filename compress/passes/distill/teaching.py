"""Training of a student, stage by stage: teachers, examples and losses of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.artifacts import TASK
from compress.core.disk.reading import read_mapping
from compress.core.entries import Entry
from compress.core.errors import PassError
from compress.core.records import Curve
from compress.encoding.images import PIXEL_VALUES
from compress.encoding.subset import InputSubset
from compress.losses.contract import LossSpec
from compress.models.anatomy.blocks import transformer_of
from compress.models.io.checkpoints import load_model
from compress.passes.distill.examples import EncodedExamples, TeacherRef
from compress.passes.distill.frozen import FrozenTeachers
from compress.passes.distill.kind import OWN_TEXTS
from compress.passes.distill.spec import DistillSpec, losses_of
from compress.passes.distill.written.policy import policy_of, told
from compress.profile.specs.examples import AugmentSpec
from compress.profile.specs.teaching import StageSpec
from compress.step import StepContext
from compress.training.augmentation.images import blend_images, move_images
from compress.training.batches import to_tensors
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import Change, TrainingModule
from compress.training.objective.trust import TrustedTokens
from compress.training.objective.weighted_losses import Objective, objective_between
from compress.training.on_policy import OnPolicy
from compress.training.prediction import WINDOWS, autocast_for
from compress.training.signals.answers import SignalSource, from_cache, from_model, is_cached, no_signals
from compress.training.signals.averaging import MeanOfTeachers
from compress.training.signals.capture import Signals
from compress.training.signals.segmentation import check_aligned, check_same_words
from compress.training.state import TrainResult, training_steps
from compress.training.validation import Validation

LOOKED_AT = 64
"""Number of examples for estimating how many tokens are selected, if the teacher's signals are not cached."""


@dataclass(frozen=True)
class Taught:
    """A trained student, its validation score, and the facts of its training."""

    model: nn.Module
    validation_score: float
    curves: tuple[Curve, ...]
    facts: dict[str, Any]
    samples: tuple[dict[str, str], ...] = ()


def teach(
    ctx: StepContext,
    spec: DistillSpec,
    student: nn.Module,
    teachers: Sequence[TeacherRef],
    shown: EncodedExamples,
    *,
    name: str,
    seed: int,
) -> Taught:
    """Train `student` in place through all stages of `spec`.

    Args:
        teachers: empty if the student learns only from labels or its own average.
        shown: all examples, encoded for the student and each teacher.
        name: name of the curve, and prefix of the stages' checkpoint folders.
    """
    validation = Validation.of(ctx, ctx.out, ctx.inputs["original"])
    distillation = _Distillation(ctx, spec, teachers, shown, validation, seed)
    if any(spec.stage_training(stage).on_policy for stage in spec.staged):
        check_same_words(ctx.out, [(teacher.name, teacher.artifact.path) for teacher in teachers])
    chosen, facts = distillation.frozen.trusted(spec.select)
    stages, curves, samples = [], [], list[dict[str, str]]()
    trained: TrainResult | None = None
    for number, stage in enumerate(spec.staged, start=1):
        title = name if len(spec.staged) == 1 else f"{name}, {stage.name or f'stage {number}'}"
        started = time.monotonic()
        examples = _examples_of_stage(spec, stage, shown, chosen)
        if len(examples) == 0:
            raise PassError("no example is left to learn from", where=title)
        trained, own, wrote = distillation.train_stage(
            student, stage, examples, title, f"{name.replace(' ', '-')}-stage-{number}"
        )
        samples += wrote
        curves.append(trained.curve)
        stages.append(
            {
                "name": title,
                "losses": [_loss_name(entry) for entry in stage.losses],
                "examples": len(examples),
                "epochs": trained.epochs,
                "steps": trained.steps,
                "seconds": time.monotonic() - started,
                **own,
            }
        )
    assert trained is not None
    score = trained.best_score
    facts = {
        **facts,
        "shown": shown.counts(),
        "stages": stages,
        "best_step": trained.best_step,
        "steps": sum(stage["steps"] for stage in stages),
        "epochs": sum(stage["epochs"] for stage in stages),
        "teachers": distillation.teacher_facts(),
    }
    return Taught(student.eval(), score, tuple(curves), facts, tuple(samples))


def count_steps(
    ctx: StepContext, spec: DistillSpec, teachers: Sequence[TeacherRef], shown: EncodedExamples
) -> int:
    """Return the number of steps that `teach` takes in all stages, if patience does not end one early."""
    chosen, _ = FrozenTeachers(ctx, teachers, shown, spec.combine).trusted(spec.select)
    counted = (
        (spec.stage_training(one), len(_examples_of_stage(spec, one, shown, chosen))) for one in spec.staged
    )
    return sum(training_steps(own, examples)[1] for own, examples in counted)


def _examples_of_stage(
    spec: DistillSpec, stage: StageSpec, shown: EncodedExamples, chosen: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the indices of the `chosen` examples that a stage shows."""
    return np.intersect1d(shown.part(stage.data or spec.data), chosen)


@dataclass(frozen=True)
class _Distillation:
    """What all stages of one training share."""

    ctx: StepContext
    spec: DistillSpec
    teachers: Sequence[TeacherRef]
    shown: EncodedExamples
    validation: Validation
    seed: int

    @property
    def frozen(self) -> FrozenTeachers:
        """The teachers, for cached signals."""
        return FrozenTeachers(self.ctx, self.teachers, self.shown, self.spec.combine)

    def train_stage(
        self, student: nn.Module, stage: StageSpec, examples: NDArray[np.int64], title: str, folder: str
    ) -> tuple[TrainResult, dict[str, Any], tuple[dict[str, str], ...]]:
        """Train through one stage, with checkpoints in `folder`; return the result, facts and on-policy samples."""
        ctx, own = self.ctx, self.spec.stage_training(stage)
        losses = losses_of(stage)
        # The validation score cannot choose weights in a stage that does not train the outputs, nor for a student that
        # learns answers without traces (the data's include them), nor for one that learns from its own texts.
        judged = (
            any(loss.reaches_outputs for loss in losses)
            and self.spec.control != "answers_only"
            and own.on_policy is None
        )
        along = self._runs_live(losses, own)
        loaded = (
            [load_model(teacher.artifact.path, allow_code=ctx.allow_code) for teacher in self.teachers]
            if along or own.on_policy is not None
            else []
        )
        objective = self._objective(student, losses, loaded)
        module = TrainingModule(
            student,
            objective,
            change=self._augmentation(),
            teacher=loaded[0] if self.spec.online is not None else None,
            decay=self.spec.ema.decay if self.spec.ema is not None else None,
        )
        policy = policy_of(ctx, own, student, self.shown.student, self.seed)
        answers = self._teacher_answers(
            module, losses, loaded, objective.teacher_needs, along=along, policy=policy
        )
        facts: dict[str, Any] = {}
        if objective.trusted is not None:
            facts["kept"] = self._count_selected(
                objective.trusted, answers if along else None, examples, title
            )
        loss = batch_loss(
            module,
            answers,
            self.shown.labels,
            chosen=examples,
            mutual=self.spec.online.weight if self.spec.online is not None else None,
        )
        result = train(
            module,
            InputSubset(self.shown.student, examples),
            loss,
            own,
            self.validation.score,
            work=ctx.work / folder,
            seed=self.seed,
            precision=ctx.precision,
            device=ctx.device,
            progress=ctx.progress,
            name=title,
            metric=ctx.task.kind.metric,
            keep="best" if judged else "last",
            slow=self._teacher_rate(module),
            instead=policy,
            after_step=module.after_step,
        )
        if module.teacher is not None:
            validation = self.validation.read_by(self.teachers[0].artifact.path)
            facts["teacher_validation_score"] = validation.score(module.teacher)
        if module.moving_average is not None:
            facts["average_validation_score"] = self.validation.score(module.moving_average)
        wrote: tuple[dict[str, str], ...] = ()
        if policy is not None:
            facts[OWN_TEXTS], wrote = told(policy)
        return result, facts, wrote

    def teacher_facts(self) -> list[dict[str, Any]]:
        """Return the teachers, with each frozen teacher's score on the training examples."""
        if self.spec.ema is not None:
            return [{"name": "the student's moving average", "weight": 1.0}]
        asked = self.spec.online is None and (self._augmentation() is None or self.spec.select is not None)
        scores = self.frozen.training_scores() if asked else None
        described: list[dict[str, Any]] = [
            {"name": teacher.name, "weight": teacher.weight} for teacher in self.teachers
        ]
        for entry, score in zip(described, scores or (), strict=False):
            entry["train_score"] = score
        return described

    def _objective(
        self, student: nn.Module, losses: Sequence[LossSpec], loaded: Sequence[nn.Module]
    ) -> Objective:
        read, teacher = (self.ctx.out, self.shown.student), None
        if self.spec.ema is not None:
            teacher = (student, self.shown.student)
        elif self._needs_teacher(losses):
            path = self.teachers[0].artifact.path
            model = loaded[0] if loaded else load_model(path, allow_code=self.ctx.allow_code)
            teacher = (model, self.shown.teachers[0])
        objective = objective_between(
            losses,
            student,
            read,
            teacher,
            seed=self.seed,
            trusted=None if teacher is None else self._token_selection(teacher[0]),
        )
        if self.spec.ema is None:
            readers = zip(self.teachers, self.shown.teachers, strict=True)
            teachers = [(one.name, one.artifact.path, inputs) for one, inputs in readers]
            rows = self.ctx.task.kind.head != "own"
            check_aligned(objective.teacher_needs, read, teachers, rows=rows)
        return objective.to(self.ctx.device)

    def _token_selection(self, teacher: nn.Module) -> TrustedTokens | None:
        """Return the token selection by the teacher, if `select` asks for it."""
        select = self.spec.select
        if select is None or not self.ctx.task.kind.writes:
            return None
        words = transformer_of(teacher).get_output_embeddings().weight.shape[0]
        return TrustedTokens(select.confidence, select.right, words)

    def _count_selected(
        self, trusted: TrustedTokens, along: SignalSource | None, examples: NDArray[np.int64], title: str
    ) -> dict[str, int]:
        """Count the selected tokens of the examples; with a live teacher (`along`), of a subset of them.

        Raises:
            PassError: no token is selected.
        """
        ctx = self.ctx
        answers = along or from_cache(self.frozen.say(frozenset({trusted.name})))
        some = examples if along is None else examples[:: -(-len(examples) // LOOKED_AT)]

        def seen() -> Iterator[tuple[dict[str, Tensor], Signals]]:
            for places in np.array_split(some, -(-len(some) // WINDOWS)):
                batch = to_tensors(self.shown.student.batch(places), ctx.device)
                yield batch, answers(places, batch)

        with torch.no_grad(), autocast_for(ctx.precision, ctx.device):
            found = trusted.counted(seen())
        if found.kept == 0:
            raise PassError(
                f"none of the {found.of} tokens in {len(some)} windows would be selected for training",
                where=f"{title}: select",
                hint=f"Lower `confidence` ({trusted.confidence:g}), or leave `right` out; the teacher's highest "
                f"confidence is {found.highest:.4g}.",
            )
        ctx.progress.say(
            f"{title}: {found.kept / found.of:.1%} of the tokens in {len(some)} windows are selected"
        )
        return {"tokens": found.kept, "of": found.of}

    def _teacher_answers(
        self,
        module: TrainingModule,
        losses: Sequence[LossSpec],
        loaded: Sequence[nn.Module],
        needs: frozenset[str],
        *,
        along: bool,
        policy: OnPolicy | None,
    ) -> SignalSource:
        """Return the source of teacher signals: for the data (live with `along`), and for on-policy texts."""
        if not self._needs_teacher(losses) and self.spec.online is None:
            return no_signals
        device = self.ctx.device
        names = needs if self.ctx.task.kind.writes else needs | {"outputs"}
        if module.moving_average is not None:
            return from_model(module.moving_average, names, device)
        changed = self._augmentation() is not None
        if module.teacher is not None:
            read = None if changed else self.shown.teachers[0]
            return from_model(module.teacher, names, device, inputs=read, learns=True)
        if loaded:
            if changed:
                self._check_pixels()
            model = loaded[0]
            if len(loaded) > 1:
                weights = [teacher.weight for teacher in self.teachers]
                model = MeanOfTeachers(loaded, weights, self.spec.combine)
            read = None if changed else self.shown.teachers[0]
            model = model.to(device)
            of_data = (
                from_model(model, names, device, inputs=read) if along else from_cache(self.frozen.say(needs))
            )
            return of_data if policy is None else policy.judged(from_model(model, names, device), of_data)
        return from_cache(self.frozen.say(needs))

    def _needs_teacher(self, losses: Sequence[LossSpec]) -> bool:
        """Whether teacher signals are needed: for losses, or for the selection of tokens."""
        chooses = self.spec.select is not None and self.ctx.task.kind.writes
        return bool(self.teachers) and (chooses or any(loss.compares for loss in losses))

    def _runs_live(self, losses: Sequence[LossSpec], own: DistillSpec) -> bool:
        """Whether the teacher runs in every step, because it must or because caching does not pay."""
        if self.spec.online is not None:
            return True
        taught = self._needs_teacher(losses) and self.spec.ema is None
        of_data = 1.0 if own.on_policy is None else 1.0 - own.on_policy.share
        kept = is_cached(self.ctx.task.kind, losses, own.epochs * of_data)
        return taught and (self._augmentation() is not None or not kept)

    def _augmentation(self) -> Change | None:
        """Return the augmentation of image batches; None for texts."""
        spec = self.spec.augment
        if spec is None or PIXEL_VALUES not in self.shown.student.input_names:
            return None
        return lambda batch: augmented_pixels(batch, spec)

    def _check_pixels(self) -> None:
        """Check that teachers that label the student's augmented images preprocess images in the same way."""
        own = read_mapping(self.ctx.out / TASK)["image"]
        for teacher in self.teachers:
            if teacher.artifact.read_json(TASK)["image"] != own:
                raise PassError(
                    f"{teacher.name} reads images of a different size or scale than the student, so it cannot label "
                    "the images that `augment` makes",
                    where="augment",
                    hint="Leave `augment` out, or give both the same `data.image_size`.",
                )

    def _teacher_rate(self, module: TrainingModule) -> tuple[nn.Module, float] | None:
        """Return a teacher that is trained too, and the ratio of its learning rate to the student's."""
        if module.teacher is None or self.spec.online is None:
            return None
        return module.teacher, self.spec.online.learning_rate / self.spec.learning_rate


def augmented_pixels(batch: dict[str, Tensor], spec: AugmentSpec) -> tuple[dict[str, Tensor], bool]:
    """Augment a batch of images; return it, and whether labels still hold (no images were blended)."""
    moved = move_images(batch[PIXEL_VALUES], spec, torch.default_generator)
    blended = blend_images(moved, spec, torch.default_generator)
    return {**batch, PIXEL_VALUES: moved if blended is None else blended}, blended is None


def _loss_name(entry: Entry[LossSpec]) -> str:
    """Return the profile's name of a loss, with its weight."""
    weight = entry.body.weight
    return entry.key if weight == 1 else f"{weight:g} {entry.key}"
