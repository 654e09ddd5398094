"""The one training loop: fine-tuning, distillation and recovery all run it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.errors import PassError
from compress.profile.training_spec import TrainingSpec
from compress.progress import Progress
from compress.records import Curve, CurvePoint
from compress.tasks.base import Inputs
from compress.training.batches import shuffled_batches, to_tensors
from compress.training.checkpointing import (
    Checkpoint,
    copy_weights,
    load_checkpoint,
    put_weights,
    restore_state,
    save_checkpoint,
    training_state,
)
from compress.training.optimization import adamw, learning_rate
from compress.training.prediction import Device, Precision, arithmetic, forward

CHECKPOINT_SECONDS = 20.0


class Loss(Protocol):
    """What a step minimises."""

    def __call__(self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """A scalar from the logits (n, labels), the batch they came from, and the indices int64 (n,) of its
        examples, on the CPU."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """What training did. The model holds the weights of `best_step`; `seconds` counts this process only."""

    curve: Curve
    best_score: float
    best_step: int
    steps: int
    epochs: float
    seconds: float


@dataclass
class _State:
    """Where training stands; every field but the tensors goes into the checkpoint's JSON."""

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    worse: int = 0
    finished: bool = False
    points: list[CurvePoint] = field(default_factory=list)
    best: dict[str, Tensor] | None = None

    def values(self) -> dict[str, Any]:
        """The plain values."""
        plain = ("step", "loss_sum", "loss_steps", "best_step", "worse", "finished")
        return {
            **{name: getattr(self, name) for name in plain},
            "best_score": None if self.best is None else self.best_score,
            "points": [point.model_dump() for point in self.points],
        }

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> _State:
        """The state that a checkpoint holds."""
        values = dict(checkpoint.values)
        values.pop("plan")
        score = values.pop("best_score")
        points = [CurvePoint(**point) for point in values.pop("points")]
        best = None if checkpoint.best is None else dict(checkpoint.best)
        return cls(**values, best_score=-math.inf if score is None else score, points=points, best=best)


def train(
    model: nn.Module,
    inputs: Inputs,
    loss: Loss,
    spec: TrainingSpec,
    validate: Callable[[nn.Module], float],
    *,
    work: Path,
    seed: int,
    precision: Precision,
    device: Device,
    progress: Progress,
    name: str,
    steps: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainResult:
    """Train `model` in place and leave it, in eval mode, with the weights of the best validation score.

    Equal arguments give equal weights, and so does a training that was killed at any moment and started again:
    it goes on from its last checkpoint bit for bit.

    Args:
        inputs: the training examples, encoded for this model.
        loss: called under the autocast of `precision`; gets the indices of its examples in `inputs`.
        validate: the score of the model, larger is better; called `evaluations_per_epoch` times an epoch
            and after the last step.
        work: folder for the checkpoints of this training alone; written at most every `checkpoint_seconds`.
        name: title of the progress bar and of the curve.
        steps: how many steps to take; None: as many as `spec.epochs` needs.

    Raises:
        PassError: the loss is no longer finite.
    """
    started = time.monotonic()
    lengths = inputs.lengths
    per_epoch = math.ceil(len(inputs) / spec.batch_size)
    total = max(1, round(spec.epochs * per_epoch)) if steps is None else steps
    evaluations = _evaluation_steps(total, per_epoch, spec.evaluations_per_epoch)
    plan = {"steps": total, "examples": len(inputs), "seed": seed, "spec": spec.model_dump(mode="json")}

    model.to(device)
    if spec.dropout is not None:
        set_dropout(model, spec.dropout)
    optimizer = adamw(model, spec)
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices), progress.bar(name, total) as advance:
        torch.manual_seed(seed)
        state = _resume(work, plan, model, optimizer)
        advance(state.step)
        saved_at = time.monotonic()
        epoch, batches = -1, list[NDArray[np.int64]]()
        while not state.finished:
            if state.step // per_epoch != epoch:
                epoch = state.step // per_epoch
                batches = shuffled_batches(lengths, spec.batch_size, seed=seed, epoch=epoch)
            rate = learning_rate(state.step, total, spec)
            indices = batches[state.step % per_epoch]
            value = _step(
                model, optimizer, loss, inputs, indices, rate, spec.max_grad_norm, precision, device
            )
            if not math.isfinite(value):
                raise PassError(
                    f"the loss is {value} at step {state.step + 1} of {total}", hint="lower `learning_rate`"
                )
            state.step += 1
            state.loss_sum += value
            state.loss_steps += 1
            if state.step in evaluations:
                _evaluate(state, model, validate(model), per_epoch)
                stopped = spec.patience is not None and state.worse >= spec.patience
                state.finished = stopped or state.step == total
            advance(1, _note(state, value))
            if state.finished or time.monotonic() - saved_at >= checkpoint_seconds:
                tensors: Mapping[str, Tensor] = {} if state.finished else training_state(model, optimizer)
                save_checkpoint(work, {**state.values(), "plan": plan}, tensors, state.best, state.best_step)
                saved_at = time.monotonic()
    assert state.best is not None
    put_weights(model, state.best)
    model.eval()
    return TrainResult(
        Curve(name=name, points=tuple(state.points)),
        best_score=state.best_score,
        best_step=state.best_step,
        steps=state.step,
        epochs=state.step / per_epoch,
        seconds=time.monotonic() - started,
    )


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every dropout of the model one rate; its config stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def _evaluation_steps(total: int, per_epoch: int, per_epoch_evaluations: int) -> frozenset[int]:
    every = per_epoch / per_epoch_evaluations
    return frozenset({max(1, round(k * every)) for k in range(1, math.floor(total / every) + 1)} | {total})


def _resume(work: Path, plan: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> _State:
    """The state of the last checkpoint, put into the model and the optimizer.

    A fresh state where there is no checkpoint, or where it belongs to another training.
    """
    checkpoint = load_checkpoint(work)
    if checkpoint is None or checkpoint.values["plan"] != plan:
        return _State()
    state = _State.read(checkpoint)
    if not state.finished:
        restore_state(model, optimizer, checkpoint.state)
    return state


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    inputs: Inputs,
    indices: NDArray[np.int64],
    rate: float,
    max_grad_norm: float,
    precision: Precision,
    device: Device,
) -> float:
    """One optimizer step on the examples at `indices`; gives the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    batch = to_tensors(inputs.batch(indices), device)
    with arithmetic(precision, device):
        value = loss(forward(model, batch), batch, torch.from_numpy(indices))
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm, foreach=True)
    optimizer.step()
    return float(value.detach())


def _evaluate(state: _State, model: nn.Module, score: float, per_epoch: int) -> None:
    """Note a validation score; keep the weights if it is the best one yet."""
    state.points.append(
        CurvePoint(
            step=state.step,
            epoch=state.step / per_epoch,
            train_loss=state.loss_sum / state.loss_steps,
            validation_score=score,
        )
    )
    state.loss_sum, state.loss_steps = 0.0, 0
    if score > state.best_score:
        state.best_score, state.best_step, state.worse = score, state.step, 0
        state.best = copy_weights(model)
    else:
        state.worse += 1


def _note(state: _State, value: float) -> str:
    score = "" if state.best is None else f", best score {state.best_score:.4f}"
    return f"loss {value:.3f}{score}"
