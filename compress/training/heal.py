"""Recovery: training after a pass that damaged the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.artifacts import Artifact
from compress.models.checkpoints import load_model
from compress.profile.training_spec import RecoverySpec
from compress.progress import Progress
from compress.tasks.base import Task, TrainingData
from compress.training.loop import TrainResult, train
from compress.training.losses import label_cross_entropy, logits_kl
from compress.training.prediction import Device, Precision, score
from compress.training.teachers import teacher_logits


def recover(
    model: nn.Module,
    teacher: Artifact | None,
    task: Task,
    data: TrainingData,
    spec: RecoverySpec,
    *,
    tokenizer: Path,
    work: Path,
    seed: int,
    precision: Precision,
    device: Device,
    progress: Progress,
    name: str = "recover",
) -> TrainResult:
    """Train `model` in place from the teacher's logits, or from the labels where there is no teacher.

    The model is left with its best weights by the validation score.

    Args:
        tokenizer: the artifact directory whose tokenizer the model reads (the input of the pass).
        work: the step's work folder; the logits and checkpoints stand in sub-folders of it.
    """
    train_inputs = task.encode(data.train, tokenizer)
    validation = task.encode(data.validation, tokenizer)
    logits: NDArray[np.float32] | None = None
    if teacher is not None:
        logits = teacher_logits(
            lambda: load_model(teacher.path),
            task.encode(data.train, teacher.path),
            work / "recover-teacher",
            precision=precision,
            device=device,
            progress=progress,
        )
    return train(
        model,
        train_inputs,
        RecoveryLoss(data.train.labels, logits, spec.temperature),
        spec,
        lambda current: score(
            current, validation, data.validation.labels, task, precision=precision, device=device
        ),
        work=work / "recover",
        seed=seed,
        precision=precision,
        device=device,
        progress=progress,
        name=name,
    )


class RecoveryLoss:
    """KL to the teacher's logits where there are any, else cross-entropy with the labels."""

    def __init__(
        self, labels: NDArray[np.int64], logits: NDArray[np.float32] | None, temperature: float
    ) -> None:
        self.labels = torch.from_numpy(np.ascontiguousarray(labels))
        self.logits = logits
        self.temperature = temperature

    def __call__(self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        """The loss of one batch."""
        if self.logits is None:
            return label_cross_entropy(outputs, self.labels[indices].to(outputs.device))
        goal = torch.from_numpy(self.logits[indices.numpy()]).to(outputs.device)
        return logits_kl(outputs, goal, self.temperature)
