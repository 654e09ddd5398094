"""Recovery: training after a pass that damaged the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.artifacts import Artifact
from compress.core.errors import PassError
from compress.core.progress import Progress
from compress.profile.training_spec import RecoverySpec
from compress.tasks.base import Task, TrainingData
from compress.training.loop import Loss, TrainResult, train
from compress.training.losses import label_cross_entropy, logits_kl
from compress.training.losses.similarity import similarity_matrix_distance
from compress.training.prediction import Device, Precision, score
from compress.training.references import Outputs, teacher_outputs, truth_beside


def recover(
    model: nn.Module,
    teacher: Artifact | None,
    task: Task,
    data: TrainingData,
    spec: RecoverySpec,
    *,
    allow_code: bool,
    tokenizer: Path,
    work: Path,
    shared: Path,
    seed: int,
    precision: Precision,
    device: Device,
    progress: Progress,
    name: str = "recover",
) -> TrainResult:
    """Train `model` in place from what the teacher puts out, or from the labels where there is no teacher.

    The model is left with its best weights by the validation score.

    Args:
        allow_code: whether the code of a teacher may run.
        tokenizer: the artifact directory that says what the model reads (the input of the pass).
        work: the step's work folder; checkpoints stand in a sub-folder of it.
        shared: the folder of the cache for what teachers say.

    Raises:
        PassError: the task has no labels, and there is no teacher.
    """

    goal: Outputs | None = None
    if teacher is not None:
        goal = teacher_outputs(
            teacher,
            task,
            data.train,
            allow_code=allow_code,
            shared=shared,
            precision=precision,
            device=device,
            progress=progress,
        )
    if not task.labelled and goal is None:
        raise PassError("without labels a model can only recover from a teacher", where="recover")
    truth = truth_beside(
        teacher,
        task,
        data.validation,
        allow_code=allow_code,
        shared=shared,
        precision=precision,
        device=device,
        progress=progress,
    )
    validation = task.encode(data.validation, tokenizer)
    return train(
        model,
        task.encode(data.train, tokenizer),
        recovery_loss(data.train.labels, goal, spec.temperature, labelled=task.labelled),
        spec,
        lambda current: score(current, validation, truth, task, precision=precision, device=device),
        work=work / "recover",
        seed=seed,
        precision=precision,
        device=device,
        progress=progress,
        name=name,
    )


def recovery_loss(
    labels: NDArray[np.int64], goal: Outputs | None, temperature: float, *, labelled: bool
) -> Loss:
    """What recovery minimises.

    Of classifiers the KL divergence to the teacher's logits where there are any, else cross-entropy with the labels. Of
    embeddings the distance of the matrices of cosine similarities in a batch (Tung and Mori 2019, arXiv:1907.09682).

    Args:
        labels: int64 (n,). goal: the teacher's outputs, float32 (n, labels or width), or None.
    """
    if goal is None:
        return _FromLabels(labels)
    return _FromLogits(goal, temperature) if labelled else _FromEmbeddings(goal)


class _FromLabels:
    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = torch.from_numpy(np.ascontiguousarray(labels))

    def __call__(self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        return label_cross_entropy(outputs, self.labels[indices].to(outputs.device))


class _FromLogits:
    def __init__(self, goal: Outputs, temperature: float) -> None:
        self.goal = goal
        self.temperature = temperature

    def __call__(self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        return logits_kl(outputs, _rows(self.goal, indices, outputs), self.temperature)


class _FromEmbeddings:
    def __init__(self, goal: Outputs) -> None:
        self.goal = goal

    def __call__(self, outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        mine, theirs = (
            nn.functional.normalize(rows.float(), dim=-1)
            for rows in (outputs, _rows(self.goal, indices, outputs))
        )
        # The entries of a row of length 1 fall with the size of the batch; the loss should not.
        return similarity_matrix_distance(mine, theirs) * len(outputs)


def _rows(goal: Outputs, indices: Tensor, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(goal[indices.numpy()])).to(like.device)
