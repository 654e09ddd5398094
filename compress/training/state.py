"""State of a training: its losses, its scores and its best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from compress.core.errors import PassError
from compress.core.records import Curve, CurvePoint
from compress.core.task_kind import MetricKind
from compress.profile.specs.training import TrainingSpec
from compress.training.checkpointing import Checkpoint, copy_weights


@dataclass(frozen=True)
class TrainResult:
    """Result of a training. The model holds the weights of `best_step`."""

    curve: Curve
    best_score: float
    best_step: int
    steps: int
    epochs: float


@dataclass
class TrainingState:
    """Progress of a training, stored in checkpoints except for `last_loss` and `started`.

    `seconds`: training time of earlier, interrupted processes up to their last checkpoints. `told`: statistics
    of the examples that replaced the inputs (`loop.Instead`).
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    last_loss: float = math.nan
    best_score: float = -math.inf
    best_step: int = 0
    worse: int = 0
    finished: bool = False
    points: list[CurvePoint] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    seconds: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_seconds(self) -> float:
        """Training time in seconds so far, over all runs that were resumed."""
        return self.seconds + time.monotonic() - self.started

    def values(self) -> dict[str, Any]:
        """Return the JSON values for the checkpoint."""
        keys = ("step", "loss_sum", "loss_steps", "best_step", "worse", "finished", "told")
        return {
            **{name: getattr(self, name) for name in keys},
            "best_score": None if self.best is None else self.best_score,
            "points": [point.model_dump() for point in self.points],
            "seconds": self.elapsed_seconds,
        }

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> TrainingState:
        """Restore the state from a checkpoint."""
        values = dict(checkpoint.values)
        values.pop("plan")
        score = values.pop("best_score")
        points = [CurvePoint(**point) for point in values.pop("points")]
        best = None if checkpoint.best is None else dict(checkpoint.best)
        return cls(**values, best_score=-math.inf if score is None else score, points=points, best=best)

    def add_losses(self, losses: Sequence[float], total: int, hint: str) -> None:
        """Add the losses of the last steps.

        Raises:
            PassError: one of them is not finite; `hint` suggests a remedy.
        """
        for step, value in enumerate(losses, start=self.step - len(losses) + 1):
            if not math.isfinite(value):
                raise PassError(f"the loss is {value} at step {step} of {total}", hint=hint)
            self.loss_sum += value
            self.last_loss = value
        self.loss_steps += len(losses)

    def evaluate(
        self,
        model: nn.Module,
        score: float,
        spec: TrainingSpec,
        *,
        total: int,
        per_epoch: int,
        keep: Literal["best", "last"] = "best",
    ) -> None:
        """Record a validation score and keep the weights if it is the best so far (or always, for `keep="last"`).

        Training is finished after the last of `total` steps, or when the patience of `spec` is exhausted.

        Raises:
            PassError: the first score is NaN.
        """
        if self.best is None and math.isnan(score):
            raise PassError(
                f"the validation score is {score} at step {self.step} of {total}",
                hint="Lower `learning_rate`.",
            )
        self.points.append(
            CurvePoint(
                step=self.step,
                epoch=self.step / per_epoch,
                train_loss=self.loss_sum / self.loss_steps,
                validation_score=score,
            )
        )
        self.loss_sum, self.loss_steps = 0.0, 0
        # Any first score is kept, even the worst possible one (an infinite perplexity).
        if keep == "last" or self.best is None or score > self.best_score:
            self.best_score, self.best_step, self.worse = score, self.step, 0
            self.best = copy_weights(model)
        else:
            self.worse += 1
        stopped = spec.patience is not None and self.worse >= spec.patience
        self.finished = stopped or self.step == total

    def progress_text(self, metric: MetricKind | None = None) -> str:
        """Return the last loss and the best score, as a value of `metric` if given, for a progress bar."""
        score = ""
        if self.best is not None:
            metric_name, value = (
                ("score", self.best_score)
                if metric is None
                else (metric.display_name, metric.rank(self.best_score))
            )
            score = f", best {metric_name} {value:.4f}"
        return f"loss {self.last_loss:.3f}{score}"

    def result(self, name: str, per_epoch: int) -> TrainResult:
        """Return the result of the finished training."""
        return TrainResult(
            Curve(name=name, points=tuple(self.points), seconds=self.elapsed_seconds),
            best_score=self.best_score,
            best_step=self.best_step,
            steps=self.step,
            epochs=self.step / per_epoch,
        )


def training_steps(spec: TrainingSpec, examples: int) -> tuple[int, int]:
    """Return the number of steps in an epoch over `examples` examples, and in the whole training."""
    per_epoch = math.ceil(examples / spec.batch_size)
    return per_epoch, max(1, round(spec.epochs * per_epoch))


def evaluation_steps(total: int, per_epoch: int, per_epoch_evaluations: int) -> frozenset[int]:
    """Return the steps to validate after: `per_epoch_evaluations` times an epoch, and the last of `total`."""
    interval = per_epoch / per_epoch_evaluations
    return frozenset(
        {max(1, round(k * interval)) for k in range(1, math.floor(total / interval) + 1)} | {total}
    )
