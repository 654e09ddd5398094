"""The training loop shared by fine-tuning, distillation and recovery."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from compress.core.task_kind import MetricKind
from compress.core.terminal.progress import Progress
from compress.encoding.inputs import Inputs
from compress.models.io.outputs import outputs_of
from compress.profile.specs.training import TrainingSpec
from compress.training.batches import shuffled_batches, to_tensors
from compress.training.checkpointing import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    restore_state,
    save_checkpoint,
    training_state,
)
from compress.training.distributed.sharding import shard, unshard, unsharded
from compress.training.distributed.world import World, current_world
from compress.training.objective.means import MeanLoss, SingleMean, SumOfMeans
from compress.training.optimization import adamw, learning_rate
from compress.training.prediction import Device, Precision, autocast_for
from compress.training.recomputation import with_checkpointing
from compress.training.state import TrainingState, TrainResult, evaluation_steps, training_steps

CHECKPOINT_SECONDS = 20.0

_STEPS_UNREAD: Mapping[Device, int] = {"cpu": 1, "cuda": 20}
"""Number of steps whose losses are read back together: each read synchronizes with the GPU."""


class BatchReplacement(Protocol):
    """A source of examples that replaces the batch in some steps; indices then refer to its own examples.

    `stats`: its statistics, plain JSON, stored in checkpoints.
    """

    stats: dict[str, Any]

    def at(self, step: int) -> Inputs | None:
        """Return the examples for a step, produced with the current weights; None: use a batch of the inputs."""


def train(
    model: nn.Module,
    inputs: Inputs,
    loss: SumOfMeans | MeanLoss,
    spec: TrainingSpec,
    validate: Callable[[nn.Module], float],
    *,
    work: Path,
    seed: int,
    precision: Precision,
    device: Device,
    progress: Progress,
    name: str,
    metric: MetricKind | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    keep: Literal["best", "last"] = "best",
    own_rate: tuple[nn.Module, float] | None = None,
    replacement: BatchReplacement | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Train `model` in place and leave it, in eval mode, with the weights of the best validation score.

    Deterministic: equal arguments give equal weights, also if training was killed and resumes from its last
    checkpoint. With several processes each calls this with equal arguments and takes its share of every batch.
    Neither the number of processes nor gradient accumulation changes the result beyond the order of summation,
    except for losses that compare the examples of a batch: they see only the examples of their own process and
    part.

    Args:
        inputs: the training examples, encoded for this model.
        loss: called under the autocast of `precision` with the indices of the batch's examples in `inputs`.
        validate: returns the score of the model, larger is better; called `evaluations_per_epoch` times an epoch
            and after the last step, in one process (in all of them under FSDP).
        work: checkpoint folder of this training alone; checkpoints are written at most every `checkpoint_seconds`.
        name: title of the progress bar and of the curve.
        metric: the metric of the score, for the progress bar.
        keep: `last` keeps the last weights instead, for a loss that the validation score does not reflect.
        own_rate: a submodule with its own learning rate, and the ratio of that rate to the base rate.
        replacement: decides in each step whether to replace the batch.
        after_step: called after each optimizer step.

    Raises:
        PassError: the loss is no longer finite.
    """
    lengths = inputs.lengths
    per_epoch, total = training_steps(spec, len(inputs))
    evaluations = evaluation_steps(total, per_epoch, spec.evaluations_per_epoch)
    world = current_world()
    plan = {
        "steps": total,
        "examples": len(inputs),
        "seed": seed,
        "processes": world.size,
        "spec": spec.model_dump(mode="json"),
    }

    model.to(device)
    if spec.dropout is not None:
        set_dropout(model, spec.dropout)
    objective = loss if isinstance(loss, SumOfMeans) else SingleMean(loss)
    with_loss: nn.Module = _WithLoss(model, objective)
    if world.strategy == "fsdp":
        shard(with_loss, device)
    optimizer = adamw(model, spec, own_rate)
    devices = [torch.cuda.current_device()] if device == "cuda" else []

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        advance = stack.enter_context(progress.bar(name, total))
        if spec.gradient_checkpointing:
            stack.enter_context(with_checkpointing(model))
        torch.manual_seed(seed + world.rank)
        state = _resume(work, plan, model, optimizer, world)
        if replacement is not None:
            replacement.stats.update(state.told)
            state.told = replacement.stats
        if world.size > 1 and world.strategy == "ddp":
            with_loss = _parallel(with_loss, device)
        backward = _Backward(with_loss, objective, spec.accumulate, world, precision, device)
        with_loss.train()
        advance(state.step)
        saved_at = time.monotonic()
        epoch, batches = -1, list[NDArray[np.int64]]()
        pending: list[Tensor] = []
        while not state.finished:
            if state.step // per_epoch != epoch:
                epoch = state.step // per_epoch
                batches = shuffled_batches(lengths, spec.batch_size, seed=seed, epoch=epoch)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(state.step, total, spec) * group["factor"]
            optimizer.zero_grad(set_to_none=True)
            source, indices = inputs, batches[state.step % per_epoch]
            if replacement is not None and (replaced := replacement.at(state.step)) is not None:
                source, indices = replaced, np.arange(len(replaced))
            batch_loss = backward.run(source, indices)
            nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm, foreach=True)
            optimizer.step()
            after_step()
            state.step += 1
            pending.append(batch_loss)
            if state.step not in evaluations and len(pending) < _STEPS_UNREAD[device]:
                continue
            overdue = time.monotonic() - saved_at >= checkpoint_seconds
            save_now = _read_losses(state, pending, world, overdue, total)
            if state.step in evaluations:
                with unsharded(with_loss):
                    # Under FSDP all processes must validate, since they gather the weights layer by layer.
                    own_score = validate(model) if world.is_main or world.strategy == "fsdp" else 0.0
                score = float(world.broadcast_object(own_score))
                state.evaluate(model, score, spec, total=total, per_epoch=per_epoch, keep=keep)
                with_loss.train()
            advance(len(pending), state.progress_text(metric))
            pending.clear()
            if state.finished or save_now:
                tensors = {} if state.finished else training_state(model, optimizer)
                if world.is_main:
                    values = {**state.values(), "plan": plan}
                    save_checkpoint(work, values, tensors, state.best, state.best_step)
                saved_at = time.monotonic()
    assert state.best is not None
    load_weights(model, world.broadcast_tensors(state.best))
    unshard(model)
    model.eval()
    return state.result(name, per_epoch)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the rate of every dropout module except those of adapters; the config is not changed."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = rate


class _WithLoss(nn.Module):
    """A model and its loss as one module: DDP must see every use of the weights in one forward."""

    def __init__(self, model: nn.Module, loss: SumOfMeans) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, batch: dict[str, Tensor], indices: NDArray[np.int64], factors: Tensor | None = None
    ) -> Tensor:
        """Return the loss of one part of a batch."""
        # DDP moves tensor arguments to the GPU: indices are passed as an array so that they stay on the CPU.
        return self.loss(outputs_of(self.model(**batch)), batch, torch.from_numpy(indices), factors)


def _parallel(with_loss: nn.Module, device: Device) -> nn.Module:
    """Wrap in DDP: gradients are averaged over processes, initial weights are broadcast from the first."""
    # A stage may leave parameters unused, such as a head that no loss reads.
    devices = [torch.cuda.current_device()] if device == "cuda" else None
    return DistributedDataParallel(with_loss, device_ids=devices, find_unused_parameters=True)


@dataclass(frozen=True)
class _Backward:
    """Computes the gradients of this process's share of a batch, in `accumulate` parts."""

    with_loss: nn.Module
    objective: SumOfMeans
    accumulate: int
    world: World
    precision: Precision
    device: Device

    def run(self, source: Inputs, batch_indices: NDArray[np.int64]) -> Tensor:
        """Accumulate the gradients of the examples `batch_indices` and return their loss, detached."""
        *leading, last = self._parts(source, batch_indices)
        loss = torch.zeros((), device=self.device)
        for part in leading:
            # Gradients accumulate locally and are synchronized once, in the last part.
            with self._no_sync():
                loss += self._run_part(*part)
        loss += self._run_part(*last)
        return loss

    def _parts(
        self, source: Inputs, batch_indices: NDArray[np.int64]
    ) -> list[tuple[dict[str, Tensor], NDArray[np.int64], Tensor | None]]:
        """Split a batch into this process's parts, each with its indices and the scaling factors of its mean losses."""
        shares = self.world.local_parts(batch_indices, self.accumulate)
        parts = [(to_tensors(source.batch(indices), self.device), indices) for indices, _ in shares]
        if len(parts) == self.world.size == 1:
            return [(*parts[0], None)]
        with torch.no_grad(), autocast_for(self.precision, self.device):
            counts = [self.objective.counts(batch, torch.from_numpy(indices)) for batch, indices in parts]
        factors = self.world.mean_factors(
            [count * is_own for count, (_, is_own) in zip(counts, shares, strict=True)]
        )
        return [(*part, factor.float().to(self.device)) for part, factor in zip(parts, factors, strict=True)]

    def _run_part(
        self, batch: dict[str, Tensor], indices: NDArray[np.int64], factors: Tensor | None
    ) -> Tensor:
        with autocast_for(self.precision, self.device):
            loss: Tensor = self.with_loss(batch, indices, factors)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _no_sync(self) -> AbstractContextManager[object]:
        if isinstance(self.with_loss, DistributedDataParallel):
            return self.with_loss.no_sync()
        return nullcontext()


def _resume(
    work: Path, plan: Mapping[str, Any], model: nn.Module, optimizer: Optimizer, world: World
) -> TrainingState:
    """Load the last checkpoint into the model and optimizer of every process and return its state.

    Returns a fresh state if there is no checkpoint, or if it belongs to another training or number of processes.
    """
    checkpoint = load_checkpoint(work) if world.is_main else None
    if checkpoint is not None and checkpoint.values["plan"] != plan:
        checkpoint = None
    values = world.broadcast_object(None if checkpoint is None else checkpoint.values)
    if values is None:
        return TrainingState()
    tensors = world.broadcast_tensors({} if checkpoint is None else checkpoint.state)
    best = world.broadcast_tensors({} if checkpoint is None or checkpoint.best is None else checkpoint.best)
    state = TrainingState.read(Checkpoint(values, tensors, best or None))
    if not state.finished:
        restore_state(model, optimizer, tensors)
    return state


def _read_losses(
    state: TrainingState, pending: list[Tensor], world: World, overdue: bool, total: int
) -> bool:
    """Add the pending losses to the state; return whether the first process requests a checkpoint.

    Raises:
        PassError: one of them is not finite.
    """
    local_losses = torch.stack(pending).double().tolist()
    *losses, requested = world.mean([*local_losses, float(overdue and world.is_main)])
    state.add_losses(losses, total, "Lower `learning_rate`.")
    return requested > 0
