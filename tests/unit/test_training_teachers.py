from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.progress import Silent
from compress.tasks.text_classification import TextClassification
from compress.training.prediction import predict, score
from compress.training.teachers import teacher_logits
from tests.tiny import tiny_bert
from tests.unit.test_training_loop import examples


def one_by_one(model: nn.Module, inputs: object) -> np.ndarray:
    found = []
    for index in range(len(inputs)):  # type: ignore[arg-type]
        batch = {name: torch.from_numpy(array) for name, array in inputs.batch([index]).items()}  # type: ignore[attr-defined]
        with torch.no_grad():
            found.append(model(**batch).logits.numpy()[0])
    return np.stack(found)


def test_predictions_stand_in_the_order_of_the_examples() -> None:
    model, (inputs, _) = tiny_bert(), examples(37)
    found = predict(model, inputs, precision="fp32", device="cpu", batch_size=8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(model, inputs), atol=1e-5)
    chosen = predict(model, inputs, precision="fp32", device="cpu", indices=[5, 0, 20])
    np.testing.assert_allclose(chosen, found[[5, 0, 20]], atol=1e-5)


def test_predicting_leaves_the_model_as_it_was() -> None:
    model, (inputs, _) = tiny_bert().train(), examples(5)
    first = predict(model, inputs, precision="fp32", device="cpu")
    assert model.training
    np.testing.assert_array_equal(first, predict(model, inputs, precision="fp32", device="cpu"))


def test_no_examples_no_logits() -> None:
    inputs, _ = examples(5)
    assert len(predict(tiny_bert(), inputs, precision="fp32", device="cpu", indices=[])) == 0


def test_the_score_is_the_tasks() -> None:
    model, (inputs, labels) = tiny_bert(), examples(40)
    expected = float((one_by_one(model, inputs).argmax(1) == labels.numpy()).mean())
    found = score(model, inputs, labels.numpy(), TextClassification(32), precision="fp32", device="cpu")
    assert found == pytest.approx(expected)


def test_logits_are_computed_once(tmp_path: Path) -> None:
    model, (inputs, _) = tiny_bert(), examples(50)
    loads = []

    def load() -> nn.Module:
        loads.append(1)
        return model

    first = teacher_logits(load, inputs, tmp_path, device="cpu", progress=Silent(), chunk=16)
    again = teacher_logits(load, inputs, tmp_path, device="cpu", progress=Silent(), chunk=16)
    assert len(loads) == 1
    np.testing.assert_allclose(first, one_by_one(model, inputs), atol=1e-5)
    np.testing.assert_array_equal(first, again)
    assert isinstance(first, np.memmap)


class Dying(nn.Module):
    """A model that dies at its n-th batch."""

    def __init__(self, model: nn.Module, after: int) -> None:
        super().__init__()
        self.model, self.left, self.rows = model, after, 0

    def forward(self, **batch: torch.Tensor) -> object:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.rows += len(batch["input_ids"])
        return self.model(**batch)


def test_finished_chunks_survive_a_kill(tmp_path: Path) -> None:
    inputs, _ = examples(50)
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(
            lambda: Dying(tiny_bert(), 2), inputs, tmp_path, device="cpu", progress=Silent(), chunk=16
        )
    assert not (tmp_path / "logits.npy").exists()
    rest = Dying(tiny_bert(), 99)
    found = teacher_logits(lambda: rest, inputs, tmp_path, device="cpu", progress=Silent(), chunk=16)
    assert rest.rows == 50 - 32
    np.testing.assert_allclose(found, one_by_one(tiny_bert(), inputs), atol=1e-5)
