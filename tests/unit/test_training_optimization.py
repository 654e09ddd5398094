from __future__ import annotations

import pytest
import torch

from compress.profile.specs.training import TrainingSpec
from compress.training.optimization import adamw, learning_rate
from tests.tiny import tiny_bert


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    spec = TrainingSpec(learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(step, 10, spec) for step in range(10)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125])


def test_without_warm_up_the_first_step_is_the_peak() -> None:
    spec = TrainingSpec(learning_rate=0.1, warmup=0.0)
    assert [learning_rate(step, 4, spec) for step in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_the_learning_rate_stays_between_zero_and_its_peak(steps: int, warmup: float) -> None:
    spec = TrainingSpec(learning_rate=0.1, warmup=warmup)
    assert all(0 < learning_rate(step, steps, spec) <= 0.1 + 1e-12 for step in range(steps))


def test_biases_norms_and_embeddings_have_no_decay() -> None:
    model = tiny_bert()
    decayed, plain = adamw(model, TrainingSpec(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    assert {id(p) for p in decayed["params"]} == matrices
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
