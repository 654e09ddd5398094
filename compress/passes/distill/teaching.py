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
from compress.passes.distill.written.policy import build_policy, policy_facts
from compress.profile.specs.examples import AugmentSpec
from compress.profile.specs.teaching import StageSpec
from compress.step import StepContext
from compress.training.augmentation.images import blend_images, flip_and_shift
from compress.training.batches import to_tensors
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import Augmentation, TrainingModule
from compress.training.objective.trust import TrustedTokens
from compress.training.objective.weighted_losses import Objective, objective_between
from compress.training.on_policy import OnPolicy
from compress.training.prediction import LM_BATCH_SIZE, autocast_for
from compress.training.signals.answers import SignalSource, from_cache, from_model, is_cached, no_signals
from compress.training.signals.averaging import MeanOfTeachers
from compress.training.signals.capture import Signals
from compress.training.signals.segmentation import check_aligned, check_same_vocabulary
from compress.training.state import TrainResult, training_steps
from compress.training.validation import Validation

NUM_SELECTION_EXAMPLES = 64
"""Number of examples for estimating how many tokens are selected, if the teacher's signals are not cached."""


@dataclass(frozen=True)
class TrainedStudent:
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
    encoded: EncodedExamples,
    *,
    name: str,
    seed: int,
) -> TrainedStudent:
    """Train `student` in place through all stages of `spec`.

    Args:
        teachers: empty if the student learns only from labels or its own average.
        encoded: all examples, encoded for the student and each teacher.
        name: name of the curve, and prefix of the stages' checkpoint folders.
    """
    validation = Validation.of(ctx, ctx.out, ctx.inputs["original"])
    distillation = _Distillation(ctx, spec, teachers, encoded, validation, seed)
    if any(spec.stage_spec(stage).on_policy for stage in spec.effective_stages):
        check_same_vocabulary(ctx.out, [(teacher.name, teacher.artifact.path) for teacher in teachers])
    selected, facts = distillation.frozen.select_examples(spec.select)
    stages, curves, samples = [], [], list[dict[str, str]]()
    trained: TrainResult | None = None
    for number, stage in enumerate(spec.effective_stages, start=1):
        title = name if len(spec.effective_stages) == 1 else f"{name}, {stage.name or f'stage {number}'}"
        start_time = time.monotonic()
        indices = _stage_indices(spec, stage, encoded, selected)
        if len(indices) == 0:
            raise PassError("no example is left to learn from", where=title)
        trained, stage_facts, stage_samples = distillation.train_stage(
            student, stage, indices, title, f"{name.replace(' ', '-')}-stage-{number}"
        )
        samples += stage_samples
        curves.append(trained.curve)
        stages.append(
            {
                "name": title,
                "losses": [_loss_name(entry) for entry in stage.losses],
                "examples": len(indices),
                "epochs": trained.epochs,
                "steps": trained.steps,
                "seconds": time.monotonic() - start_time,
                **stage_facts,
            }
        )
    assert trained is not None
    score = trained.best_score
    facts = {
        **facts,
        "shown": encoded.counts(),
        "stages": stages,
        "best_step": trained.best_step,
        "steps": sum(stage["steps"] for stage in stages),
        "epochs": sum(stage["epochs"] for stage in stages),
        "teachers": distillation.teacher_facts(),
    }
    return TrainedStudent(student.eval(), score, tuple(curves), facts, tuple(samples))


def count_steps(
    ctx: StepContext, spec: DistillSpec, teachers: Sequence[TeacherRef], encoded: EncodedExamples
) -> int:
    """Return the number of steps that `teach` takes in all stages, if patience does not end one early."""
    chosen, _ = FrozenTeachers(ctx, teachers, encoded, spec.combine).select_examples(spec.select)
    stage_sizes = (
        (spec.stage_spec(one), len(_stage_indices(spec, one, encoded, chosen)))
        for one in spec.effective_stages
    )
    return sum(training_steps(own, examples)[1] for own, examples in stage_sizes)


def _stage_indices(
    spec: DistillSpec, stage: StageSpec, encoded: EncodedExamples, selected: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the indices of the `selected` examples that a stage shows."""
    return np.intersect1d(encoded.subset_indices(stage.data or spec.data), selected)


@dataclass(frozen=True)
class _Distillation:
    """What all stages of one training share."""

    ctx: StepContext
    spec: DistillSpec
    teachers: Sequence[TeacherRef]
    encoded: EncodedExamples
    validation: Validation
    seed: int

    @property
    def frozen(self) -> FrozenTeachers:
        """The teachers, for cached signals."""
        return FrozenTeachers(self.ctx, self.teachers, self.encoded, self.spec.combine)

    def train_stage(
        self, student: nn.Module, stage: StageSpec, indices: NDArray[np.int64], title: str, folder: str
    ) -> tuple[TrainResult, dict[str, Any], tuple[dict[str, str], ...]]:
        """Train through one stage, with checkpoints in `folder`; return the result, facts and on-policy samples."""
        ctx, stage_spec = self.ctx, self.spec.stage_spec(stage)
        losses = losses_of(stage)
        # The validation score cannot choose weights in a stage that does not train the outputs, nor for a student that
        # learns answers without traces (the data's include them), nor for one that learns from its own texts.
        select_by_score = (
            any(loss.reaches_outputs for loss in losses)
            and self.spec.control != "answers_only"
            and stage_spec.on_policy is None
        )
        live = self._runs_teacher_live(losses, stage_spec)
        teacher_models = (
            [load_model(teacher.artifact.path, allow_code=ctx.allow_code) for teacher in self.teachers]
            if live or stage_spec.on_policy is not None
            else []
        )
        objective = self._build_objective(student, losses, teacher_models)
        module = TrainingModule(
            student,
            objective,
            augment=self._augmentation(),
            teacher=teacher_models[0] if self.spec.online is not None else None,
            decay=self.spec.ema.decay if self.spec.ema is not None else None,
        )
        policy = build_policy(ctx, stage_spec, student, self.encoded.student, self.seed)
        signals = self._teacher_signals(
            module, losses, teacher_models, objective.teacher_needs, live=live, policy=policy
        )
        facts: dict[str, Any] = {}
        if objective.trusted is not None:
            facts["kept"] = self._count_selected(objective.trusted, signals if live else None, indices, title)
        loss = batch_loss(
            module,
            signals,
            self.encoded.labels,
            example_indices=indices,
            mutual_weight=self.spec.online.weight if self.spec.online is not None else None,
        )
        result = train(
            module,
            InputSubset(self.encoded.student, indices),
            loss,
            stage_spec,
            self.validation.score,
            work=ctx.work / folder,
            seed=self.seed,
            precision=ctx.precision,
            device=ctx.device,
            progress=ctx.progress,
            name=title,
            metric=ctx.task.kind.metric,
            keep="best" if select_by_score else "last",
            own_rate=self._trained_teacher(module),
            replacement=policy,
            after_step=module.after_step,
        )
        if module.teacher is not None:
            validation = self.validation.for_interface(self.teachers[0].artifact.path)
            facts["teacher_validation_score"] = validation.score(module.teacher)
        if module.moving_average is not None:
            facts["average_validation_score"] = self.validation.score(module.moving_average)
        samples: tuple[dict[str, str], ...] = ()
        if policy is not None:
            facts[OWN_TEXTS], samples = policy_facts(policy)
        return result, facts, samples

    def teacher_facts(self) -> list[dict[str, Any]]:
        """Return the teachers, with each frozen teacher's score on the training examples."""
        if self.spec.ema is not None:
            return [{"name": "the student's moving average", "weight": 1.0}]
        reads_all = self._augmentation() is None or self.spec.select is not None
        needs_scores = self.spec.online is None and reads_all
        scores = self.frozen.training_scores() if needs_scores else None
        facts: list[dict[str, Any]] = [
            {"name": teacher.name, "weight": teacher.weight} for teacher in self.teachers
        ]
        for entry, score in zip(facts, scores or (), strict=False):
            entry["train_score"] = score
        return facts

    def _build_objective(
        self, student: nn.Module, losses: Sequence[LossSpec], teacher_models: Sequence[nn.Module]
    ) -> Objective:
        student_inputs, teacher = (self.ctx.out, self.encoded.student), None
        if self.spec.ema is not None:
            teacher = (student, self.encoded.student)
        elif self._needs_teacher(losses):
            path = self.teachers[0].artifact.path
            model = teacher_models[0] if teacher_models else load_model(path, allow_code=self.ctx.allow_code)
            teacher = (model, self.encoded.teachers[0])
        objective = objective_between(
            losses,
            student,
            student_inputs,
            teacher,
            seed=self.seed,
            trusted=None if teacher is None else self._token_selection(teacher[0]),
        )
        if self.spec.ema is None:
            readers = zip(self.teachers, self.encoded.teachers, strict=True)
            teachers = [(one.name, one.artifact.path, inputs) for one, inputs in readers]
            rows = self.ctx.task.kind.head != "own"
            check_aligned(objective.teacher_needs, student_inputs, teachers, row_outputs=rows)
        return objective.to(self.ctx.device)

    def _token_selection(self, teacher: nn.Module) -> TrustedTokens | None:
        """Return the token selection by the teacher, if `select` asks for it."""
        select = self.spec.select
        if select is None or not self.ctx.task.kind.generates:
            return None
        words = transformer_of(teacher).get_output_embeddings().weight.shape[0]
        return TrustedTokens(select.confidence, select.right, words)

    def _count_selected(
        self,
        trusted: TrustedTokens,
        live_signals: SignalSource | None,
        indices: NDArray[np.int64],
        title: str,
    ) -> dict[str, int]:
        """Count the selected tokens of the examples; with a live teacher (`live_signals`), of a subset of them.

        Raises:
            PassError: no token is selected.
        """
        ctx = self.ctx
        signals = live_signals or from_cache(self.frozen.signals(frozenset({trusted.name})))
        sampled = indices if live_signals is None else indices[:: -(-len(indices) // NUM_SELECTION_EXAMPLES)]

        def seen() -> Iterator[tuple[dict[str, Tensor], Signals]]:
            for places in np.array_split(sampled, -(-len(sampled) // LM_BATCH_SIZE)):
                batch = to_tensors(self.encoded.student.batch(places), ctx.device)
                yield batch, signals(places, batch)

        with torch.no_grad(), autocast_for(ctx.precision, ctx.device):
            counts = trusted.count_selected(seen())
        if counts.selected == 0:
            raise PassError(
                f"none of the {counts.total} tokens in {len(sampled)} windows would be selected for training",
                where=f"{title}: select",
                hint=f"Lower `confidence` ({trusted.confidence:g}), or leave `right` out; the teacher's highest "
                f"confidence is {counts.max_confidence:.4g}.",
            )
        ctx.progress.say(
            f"{title}: {counts.selected / counts.total:.1%} of the tokens in {len(sampled)} windows are selected"
        )
        return {"tokens": counts.selected, "of": counts.total}

    def _teacher_signals(
        self,
        module: TrainingModule,
        losses: Sequence[LossSpec],
        teacher_models: Sequence[nn.Module],
        needs: frozenset[str],
        *,
        live: bool,
        policy: OnPolicy | None,
    ) -> SignalSource:
        """Return the source of teacher signals: for the data (live with `live`), and for on-policy texts."""
        if not self._needs_teacher(losses) and self.spec.online is None:
            return no_signals
        device = self.ctx.device
        names = needs if self.ctx.task.kind.generates else needs | {"outputs"}
        if module.moving_average is not None:
            return from_model(module.moving_average, names, device)
        augments = self._augmentation() is not None
        if module.teacher is not None:
            teacher_inputs = None if augments else self.encoded.teachers[0]
            return from_model(module.teacher, names, device, inputs=teacher_inputs, trainable=True)
        if teacher_models:
            if augments:
                self._check_pixels()
            model = teacher_models[0]
            if len(teacher_models) > 1:
                weights = [teacher.weight for teacher in self.teachers]
                model = MeanOfTeachers(teacher_models, weights, self.spec.combine)
            teacher_inputs = None if augments else self.encoded.teachers[0]
            model = model.to(device)
            data_signals = (
                from_model(model, names, device, inputs=teacher_inputs)
                if live
                else from_cache(self.frozen.signals(needs))
            )
            if policy is None:
                return data_signals
            return policy.with_teacher(from_model(model, names, device), data_signals)
        return from_cache(self.frozen.signals(needs))

    def _needs_teacher(self, losses: Sequence[LossSpec]) -> bool:
        """Whether teacher signals are needed: for losses, or for the selection of tokens."""
        chooses = self.spec.select is not None and self.ctx.task.kind.generates
        return bool(self.teachers) and (chooses or any(loss.needs_teacher for loss in losses))

    def _runs_teacher_live(self, losses: Sequence[LossSpec], stage_spec: DistillSpec) -> bool:
        """Whether the teacher runs in every step, because it must or because caching does not pay."""
        if self.spec.online is not None:
            return True
        needs_teacher = self._needs_teacher(losses) and self.spec.ema is None
        of_data = 1.0 if stage_spec.on_policy is None else 1.0 - stage_spec.on_policy.share
        cached = is_cached(self.ctx.task.kind, losses, stage_spec.epochs * of_data)
        return needs_teacher and (self._augmentation() is not None or not cached)

    def _augmentation(self) -> Augmentation | None:
        """Return the augmentation of image batches; None for texts."""
        spec = self.spec.augment
        if spec is None or PIXEL_VALUES not in self.encoded.student.input_names:
            return None
        return lambda batch: augment_pixels(batch, spec)

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

    def _trained_teacher(self, module: TrainingModule) -> tuple[nn.Module, float] | None:
        """Return a teacher that is trained too, and the ratio of its learning rate to the student's."""
        if module.teacher is None or self.spec.online is None:
            return None
        return module.teacher, self.spec.online.learning_rate / self.spec.learning_rate


def augment_pixels(batch: dict[str, Tensor], spec: AugmentSpec) -> tuple[dict[str, Tensor], bool]:
    """Augment a batch of images; return it, and whether labels still hold (no images were blended)."""
    transformed = flip_and_shift(batch[PIXEL_VALUES], spec, torch.default_generator)
    blended = blend_images(transformed, spec, torch.default_generator)
    return {**batch, PIXEL_VALUES: transformed if blended is None else blended}, blended is None


def _loss_name(entry: Entry[LossSpec]) -> str:
    """Return the profile's name of a loss, with its weight."""
    weight = entry.body.weight
    return entry.key if weight == 1 else f"{weight:g} {entry.key}"
