"""Data-free distillation of image models: training images come from a generator trained against the teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from compress.core.terminal.progress import Progress
from compress.encoding.images import PIXEL_VALUES
from compress.profile.specs.examples import DataFreeSpec
from compress.profile.specs.training import TrainingSpec
from compress.training.checkpointing import (
    load_checkpoint,
    load_weights,
    restore_state,
    save_checkpoint,
    training_state,
)
from compress.training.data_free.adversary import batch_statistics, disagreement, imbalance
from compress.training.data_free.generator import NOISE_SIZE, Generator
from compress.training.loop import CHECKPOINT_SECONDS, set_dropout
from compress.training.optimization import adamw, learning_rate
from compress.training.prediction import Device, Precision, autocast_for, forward
from compress.training.state import TrainingState, TrainResult, evaluation_steps, training_steps

OutputLoss = Callable[[Tensor, Tensor], Tensor]
"""Scalar loss from the outputs of student and teacher, (n, classes) each."""


def train_data_free_images(
    student: nn.Module,
    teacher: nn.Module,
    *,
    shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    spec: TrainingSpec,
    data_free: DataFreeSpec,
    loss: OutputLoss,
    validate: Callable[[nn.Module], float],
    work: Path,
    seed: int,
    precision: Precision,
    device: Device,
    progress: Progress,
    name: str,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainResult:
    """Train `student` in place on generated images, and leave it in eval mode with its best weights.

    Adversarial training: the student minimizes its loss against the teacher on generated images; every
    `student_steps` of its steps the generator takes one to increase their disagreement, kept close to the
    training data by the teacher's BatchNorm statistics and by class balance. No real example is trained on; the
    validation split only selects which weights are kept.

    Fang et al., Data-Free Adversarial Distillation, 2019 (arXiv:1912.11006); statistics: Yin et al. 2020
    (arXiv:1912.08795); class balance: Chen et al. 2019 (arXiv:1904.01186).

    Equal arguments give equal weights, also after a kill: training resumes from its last checkpoint bit for bit.

    Args:
        shape: channels, height and width of an image.
        mean: per-channel mean of the models' input normalization, (pixel - mean) / std, for pixels in 0..1.
        std: per-channel standard deviation of the same.
        data_free: `examples` images are generated in an epoch.
        loss: the student's loss from its outputs and the teacher's, both (n, classes).
        validate: returns the score of the student, larger is better.
        work: checkpoint folder of this training alone.

    Raises:
        PassError: the loss is no longer finite.
    """
    per_epoch, total = training_steps(spec, data_free.examples)
    evaluations = evaluation_steps(total, per_epoch, spec.evaluations_per_epoch)
    plan = {"steps": total, "seed": seed, "shape": list(shape), "spec": spec.model_dump(mode="json")}
    plan["free"] = data_free.model_dump(mode="json")

    student.to(device)
    teacher.to(device).eval().requires_grad_(False)
    if spec.dropout is not None:
        set_dropout(student, spec.dropout)
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices), batch_statistics(teacher) as distance:
        torch.manual_seed(seed)
        generator = Generator(shape, mean, std).to(device)
        players = {
            "student": (student, adamw(student, spec)),
            "generator": (generator, Adam(generator.parameters(), lr=data_free.generator_rate)),
        }
        losses = _GanLosses(student, teacher, generator, distance, spec, data_free, loss, precision, device)
        state = _resume(work, plan, players)
        saved_at = time.monotonic()
        with progress.bar(name, total) as advance:
            advance(state.step)
            while not state.finished:
                rate = learning_rate(state.step, total, spec)
                if state.step % data_free.student_steps == 0:
                    rate_factor = rate / spec.learning_rate
                    _update(
                        *players["generator"],
                        losses.generator_loss(),
                        rate_factor * data_free.generator_rate,
                        spec,
                    )
                step_loss = _update(*players["student"], losses.student_loss(), rate, spec)
                state.step += 1
                state.add_losses([step_loss], total, "Lower `learning_rate` or `generator_rate`.")
                if state.step in evaluations:
                    state.evaluate(student, validate(student), spec, total=total, per_epoch=per_epoch)
                advance(1, state.progress_text())
                if state.finished or time.monotonic() - saved_at >= checkpoint_seconds:
                    _save(work, plan, state, {} if state.finished else players)
                    saved_at = time.monotonic()
    assert state.best is not None
    load_weights(student, state.best)
    student.eval()
    return state.result(name, per_epoch)


@dataclass(frozen=True)
class _GanLosses:
    """The losses of student and generator."""

    student: nn.Module
    teacher: nn.Module
    generator: Generator
    distance: Callable[[], Tensor]
    spec: TrainingSpec
    data_free: DataFreeSpec
    loss: OutputLoss
    precision: Precision
    device: Device

    def student_loss(self) -> Tensor:
        """Return the student's loss against the teacher on new images."""
        self.student.train()
        with autocast_for(self.precision, self.device):
            with torch.no_grad():
                batch = self.images()
                teacher_outputs = forward(self.teacher, batch)
            return self.loss(forward(self.student, batch), teacher_outputs)

    def generator_loss(self) -> Tensor:
        """Return the generator's loss: low where the models disagree on images that fit the teacher's statistics.

        The logarithm keeps the gradient alive when the two agree almost everywhere (Fang et al. 2019, section 3.3).
        """
        self.student.eval()
        with autocast_for(self.precision, self.device):
            batch = self.images()
            teacher_outputs = forward(self.teacher, batch)
            gap = disagreement(forward(self.student, batch), teacher_outputs)
        return (
            -torch.log1p(gap)
            + self.data_free.statistics * self.distance()
            + self.data_free.balance * imbalance(teacher_outputs)
        )

    def images(self) -> dict[str, Tensor]:
        """Return a batch of new images."""
        noise = torch.randn(self.spec.batch_size, NOISE_SIZE).to(self.device)
        return {PIXEL_VALUES: self.generator(noise)}


Player = tuple[nn.Module, Optimizer]


def _update(model: nn.Module, optimizer: Optimizer, loss: Tensor, rate: float, spec: TrainingSpec) -> float:
    """Take one optimizer step of a player; return its loss before the step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm, foreach=True)
    optimizer.step()
    return float(loss.detach())


def _save(work: Path, plan: Mapping[str, Any], state: TrainingState, players: Mapping[str, Player]) -> None:
    tensors = {
        f"{player}/{name}": tensor
        for player, (model, optimizer) in players.items()
        for name, tensor in training_state(model, optimizer).items()
    }
    save_checkpoint(work, {**state.values(), "plan": plan}, tensors, state.best, state.best_step)


def _resume(work: Path, plan: Mapping[str, Any], players: Mapping[str, Player]) -> TrainingState:
    """Load the last checkpoint of this training into the players; return its state, or a fresh one."""
    checkpoint = load_checkpoint(work)
    if checkpoint is None or checkpoint.values["plan"] != plan:
        return TrainingState()
    state = TrainingState.read(checkpoint)
    if checkpoint.state:
        for player, (model, optimizer) in players.items():
            prefix = f"{player}/"
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in checkpoint.state.items()
                if name.startswith(prefix)
            }
            restore_state(model, optimizer, tensors)
    return state
