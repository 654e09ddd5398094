"""finetune: train the teacher on the labels of the data, or on the data alone for tasks without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.artifacts import copy_interface
from compress.core.errors import PassError
from compress.core.forms import TORCH_FLOAT
from compress.encoding.images import ImageInputs
from compress.encoding.inputs import Inputs
from compress.encoding.packing import pack_texts
from compress.encoding.tokens import TokenInputs
from compress.losses.table import LOSSES
from compress.measuring.chance import VALIDATION_FACT, compare_with_most_frequent
from compress.models.io.checkpoints import count_parameters, load_for_labels, load_model, save_model
from compress.models.io.outputs import without_cache
from compress.profile.specs.examples import AugmentSpec
from compress.profile.specs.training import FinetuneSpec
from compress.step import StepContext, StepResult
from compress.tasks.base import Truth
from compress.training.adapters import add_adapters, merge_adapters
from compress.training.augmentation.images import AugmentedImages
from compress.training.loop import train
from compress.training.loss_functions.labels import balanced_weights, label_cross_entropy
from compress.training.prediction import predict_answers, score
from compress.training.recovery import train_with
from compress.training.state import TrainResult
from compress.training.validation import Validation


def run(ctx: StepContext) -> StepResult:
    """Fine-tune the model; a classifier gets a head for the data's labels, unless it has a matching one.

    A model of a task without labels keeps its outputs, and is trained with the task's loss that needs no teacher.
    """
    spec, source = ctx.spec_as(FinetuneSpec), ctx.inputs["model"].path
    if ctx.task.kind.head != "classifier":
        return _without_labels(ctx, spec, source)
    model = load_for_labels(source, ctx.data.labels, ctx.seed, attention="eager", allow_code=ctx.allow_code)
    adapters = None if spec.lora is None else add_adapters(model, spec.lora, ctx.seed, with_head=True)
    validation = ctx.task.encode(ctx.data.validation, source)
    truth = Truth.of(ctx.data.validation)
    labels, smoothing = torch.from_numpy(ctx.data.train.labels), spec.smoothing
    weights = None
    if spec.class_weights == "balanced":
        weights = balanced_weights(labels, len(ctx.data.labels)).to(ctx.device)

    def loss(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        return label_cross_entropy(outputs, labels[indices].to(outputs.device), smoothing, weights)

    inputs: Inputs = ctx.task.encode(ctx.data.train, source)
    if spec.augment and isinstance(inputs, ImageInputs):
        inputs = AugmentedImages(inputs, AugmentSpec())
    result = train(
        model,
        inputs,
        loss,
        spec,
        lambda current: score(
            current, validation, truth, ctx.task, precision=ctx.precision, device=ctx.device
        ),
        work=ctx.work / "finetune",
        seed=ctx.seed,
        precision=ctx.precision,
        device=ctx.device,
        progress=ctx.progress,
        name="finetune",
        metric=ctx.task.kind.metric,
    )
    merged = {} if adapters is None else merge_adapters(model, adapters, validation, ctx.device)
    found = predict_answers(model, validation, ctx.task, precision=ctx.precision, device=ctx.device)
    chance = compare_with_most_frequent(found["label"].tolist(), ctx.data.validation.labels.tolist())
    save_model(model.cpu(), ctx.out)
    copy_interface(source, ctx.out)
    return _result(ctx, model, result, {VALIDATION_FACT: chance.as_fact(), **merged})


def _without_labels(ctx: StepContext, spec: FinetuneSpec, source: Path) -> StepResult:
    """Fine-tune a model whose task has no labels."""
    loss_name = ctx.task.kind.label_loss
    if loss_name is None:
        raise PassError("there are no labels, so the model cannot be trained without a teacher")
    model = load_model(source, attention="eager", allow_code=ctx.allow_code)
    adapters = None if spec.lora is None else add_adapters(model, spec.lora, ctx.seed)
    inputs: Inputs = ctx.task.encode(ctx.data.train, source)
    validation = ctx.data.validation
    facts: dict[str, Any] = {}
    if spec.pack:
        assert isinstance(inputs, TokenInputs)
        inputs = pack_texts(inputs, ctx.task.data.max_length)
        facts["packed_blocks"] = len(inputs)
    with without_cache(model):
        result = train_with(
            ctx,
            model,
            [LOSSES[loss_name].spec()],
            (source, inputs),
            spec,
            Validation(ctx, ctx.task.encode(validation, source), Truth.of(validation)),
            "finetune",
        )
        if adapters is not None:
            facts |= merge_adapters(model, adapters, inputs, ctx.device)
    save_model(model.cpu(), ctx.out)
    copy_interface(source, ctx.out)
    return _result(ctx, model, result, facts)


def _result(
    ctx: StepContext, model: nn.Module, result: TrainResult, extra_facts: Mapping[str, Any]
) -> StepResult:
    source_facts = ctx.inputs["model"].facts
    facts = {
        **({"source": source_facts["source"]} if "source" in source_facts else {}),
        "parameters": count_parameters(model),
        "validation_score": result.best_score,
        "best_step": result.best_step,
        "steps": result.steps,
        "epochs": result.epochs,
        "precision": ctx.precision,
        **extra_facts,
    }
    return StepResult(TORCH_FLOAT, facts, (result.curve,))
