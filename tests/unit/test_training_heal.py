"""What recovery minimises, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.core.errors import PassError
from compress.core.progress import Silent
from compress.data.splits import UNLABELLED, Examples
from compress.profile.schema import DataSpec
from compress.profile.training_spec import RecoverySpec
from compress.tasks.base import TrainingData
from compress.tasks.sentence_embedding import SentenceEmbedding
from compress.training.heal import recover, recovery_loss

INDICES = torch.tensor([2, 0])


def value(loss: object, outputs: torch.Tensor) -> float:
    assert callable(loss)
    return float(loss(outputs, {}, INDICES))


def test_labels_are_taken_by_index() -> None:
    loss = recovery_loss(np.array([1, 0, 0]), None, 2.0, labelled=True)
    outputs = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    # Labels of the examples 2 and 0: 0 and 1.
    expected = (np.log(1 + np.exp(-3)) + np.log(1 + np.exp(-1))) / 2
    assert value(loss, outputs) == pytest.approx(expected, rel=1e-5)


def test_the_teachers_logits_are_taken_by_index() -> None:
    goal = np.array([[0.0, 1.0], [5.0, 5.0], [2.0, -1.0]], np.float32)
    loss = recovery_loss(np.zeros(3, np.int64), goal, 2.0, labelled=True)
    assert value(loss, torch.from_numpy(goal[[2, 0]])) == pytest.approx(0, abs=1e-6)
    assert value(loss, torch.from_numpy(goal[[0, 2]])) > 0.1


def test_embeddings_are_compared_by_their_cosines() -> None:
    goal = np.array([[1.0, 0.0], [9.0, 9.0], [1.0, 1.0]], np.float32)
    loss = recovery_loss(np.full(3, UNLABELLED), goal, 2.0, labelled=False)
    # Neither width, nor length, nor a rotation counts.
    assert value(loss, torch.tensor([[0.0, 2.0, 2.0], [0.0, 0.0, 5.0]])) == pytest.approx(0, abs=1e-6)
    cosine = 1 / np.sqrt(2)
    theirs = np.array([[1, cosine], [cosine, 1]])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    expected = 2 * np.mean((np.eye(2) - theirs) ** 2)
    student = torch.tensor([[1.0, 0.0], [0.0, 3.0]], requires_grad=True)
    assert value(loss, student) == pytest.approx(expected, rel=1e-5)
    torch.autograd.backward(loss(student, {}, INDICES))
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert float(student.grad.abs().sum()) > 0


def test_embeddings_without_a_teacher_cannot_recover(tmp_path: Path) -> None:
    examples = Examples(("a", "b"), np.full(2, UNLABELLED))
    with pytest.raises(PassError, match="without labels a model can only recover from a teacher"):
        recover(
            torch.nn.Linear(1, 1),
            None,
            SentenceEmbedding(DataSpec(path="unused")),
            TrainingData(examples, examples, ()),
            RecoverySpec(),
            allow_code=False,
            tokenizer=tmp_path,
            work=tmp_path,
            shared=tmp_path,
            seed=0,
            precision="fp32",
            device="cpu",
            progress=Silent(),
        )
