"""Data-free distillation: the student trains on sampled or generated examples, labelled by the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.reading import read_mapping
from compress.data.splits import UNLABELLED
from compress.encoding.tokens import TokenInputs
from compress.models.io.checkpoints import load_model
from compress.models.text.vocabulary import Ids, read_vocabulary
from compress.passes.distill.examples import TeacherRef, encode_sampled
from compress.passes.distill.gap import warn_of_gap
from compress.passes.distill.material import translate
from compress.passes.distill.spec import DistillSpec, losses_of
from compress.passes.distill.student import UntrainedStudent, untrained_student
from compress.passes.distill.teaching import TrainedStudent, teach
from compress.profile.specs.examples import DataFreeSpec
from compress.step import StepContext
from compress.training.data_free.images import train_data_free_images
from compress.training.data_free.texts import sample_texts
from compress.training.data_free.words import SpecialTokens, ordinary_tokens
from compress.training.objective.weighted_losses import build_objective
from compress.training.prediction import predict
from compress.training.signals.capture import OUTPUTS, Anatomy
from compress.training.trimming import as_token_inputs
from compress.training.validation import Validation

_WORDS_PER_TEXT = 8
"""Words are passed as texts of this many, so that none exceeds the model's maximum length."""


def teach_without_data(
    ctx: StepContext, spec: DistillSpec, teacher: TeacherRef
) -> tuple[TrainedStudent, UntrainedStudent]:
    """Build and train a student without training examples; validation data only selects which weights are kept."""
    assert spec.data_free is not None
    if "image" in teacher.artifact.read_json(TASK):
        return _train_on_generated_images(ctx, spec, spec.data_free, teacher)
    return _train_on_sampled_texts(ctx, spec, spec.data_free, teacher)


def _train_on_sampled_texts(
    ctx: StepContext, spec: DistillSpec, data_free: DataFreeSpec, teacher: TeacherRef
) -> tuple[TrainedStudent, UntrainedStudent]:
    """Sample token sequences, and train on them as on any unlabelled texts."""
    folder, source = teacher.artifact.path, ctx.inputs["model"].path
    sampled = sample_texts(
        ordinary_tokens(read_vocabulary(folder / TOKENIZER)),
        SpecialTokens.of(Tokenizer.from_file(str(folder / TOKENIZER))),
        data_free,
        _teacher_outputs(ctx, teacher) if ctx.task.kind.head == "classifier" else None,
        max_length=ctx.task.data.max_length,
        seed=ctx.seed,
        work=ctx.work / "sampled",
        progress=ctx.progress,
    )
    # A trimmed vocabulary keeps every word that could have been sampled.
    words = [
        sampled.words[start : start + _WORDS_PER_TEXT]
        for start in range(0, len(sampled.words), _WORDS_PER_TEXT)
    ]
    read = translate(chain(sampled.ids, words), folder, source, _template_inputs(ctx, source))
    untrained = untrained_student(ctx, spec, ctx.seed, read)
    warn_of_gap([teacher], untrained.model, ctx.progress)
    encoded = encode_sampled(ctx, [teacher], sampled.ids)
    trained = teach(ctx, spec, untrained.model, [teacher], encoded, name="distill", seed=ctx.seed)
    facts = {**trained.facts, "data_free": {"shown": "sampled token sequences", "examples": len(sampled.ids)}}
    return TrainedStudent(trained.model, trained.validation_score, trained.curves, facts), untrained


def _template_inputs(ctx: StepContext, folder: Path) -> TokenInputs:
    """Return an arbitrary encoding for a model, from which input names and padding id are taken."""
    return as_token_inputs(ctx.task.encode(ctx.data.validation.take([0]), folder))


def _teacher_outputs(ctx: StepContext, teacher: TeacherRef) -> Callable[[Sequence[Ids]], NDArray[np.float32]]:
    """Return a function from token sequences to the teacher's outputs."""
    model = load_model(teacher.artifact.path, allow_code=ctx.allow_code).to(ctx.device)
    template = _template_inputs(ctx, teacher.artifact.path)

    def answer(texts: Sequence[Ids]) -> NDArray[np.float32]:
        inputs = TokenInputs(list(texts), template.input_names, template.pad_id)
        return predict(model, inputs, precision=ctx.precision, device=ctx.device)

    return answer


def _train_on_generated_images(
    ctx: StepContext, spec: DistillSpec, data_free: DataFreeSpec, teacher: TeacherRef
) -> tuple[TrainedStudent, UntrainedStudent]:
    """Train against an image generator."""
    untrained = untrained_student(ctx, spec, ctx.seed)
    warn_of_gap([teacher], untrained.model, ctx.progress)
    image = read_mapping(ctx.out / TASK)["image"]
    height, width = image["size"]
    result = train_data_free_images(
        untrained.model,
        load_model(teacher.artifact.path, allow_code=ctx.allow_code).to(ctx.device),
        shape=(image["channels"], height, width),
        mean=image["mean"],
        std=image["std"],
        spec=spec,
        data_free=data_free,
        loss=_OutputLosses(spec, len(ctx.data.labels)),
        validate=Validation.of(ctx, ctx.out, ctx.inputs["original"]).score,
        work=ctx.work / "generated",
        seed=ctx.seed,
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
        name="distill",
    )
    facts = {
        "data_free": {"shown": "images of a generator", "examples": data_free.examples},
        "teachers": [{"name": teacher.name, "weight": teacher.weight}],
        "best_step": result.best_step,
        "steps": result.steps,
        "epochs": result.epochs,
    }
    return TrainedStudent(untrained.model, result.best_score, (result.curve,), facts), untrained


class _OutputLosses:
    """The profile's losses as a function of the outputs of both models."""

    def __init__(self, spec: DistillSpec, labels: int) -> None:
        models = Anatomy(num_outputs=labels)
        self._objective = build_objective(losses_of(spec.effective_stages[0]), models, models, seed=0)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted sum."""
        unlabelled = torch.full((len(student),), UNLABELLED, device=student.device)
        value: Tensor = self._objective(
            dict.fromkeys(OUTPUTS, student), dict.fromkeys(OUTPUTS, teacher), unlabelled, None, {}
        )
        return value
