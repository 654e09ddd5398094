from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional

from compress.data.splits import UNLABELLED
from compress.training.loss_functions.labels import balanced_weights, label_cross_entropy
from compress.training.loss_functions.logits import divergence

logits = arrays("float64", (4, 3), elements=st.floats(-20, 20))
temperatures = st.floats(0.25, 10)


def test_the_divergence_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4) at T = 1: 1/2 ln 2 + 1/2 ln(2/3)
    student = torch.tensor([[0.0, math.log(3.0)]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergence(student, torch.zeros(1, 2), 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_the_divergence_at_a_temperature_is_scaled_by_its_square() -> None:
    student, teacher = torch.randn(5, 4, generator=torch.manual_seed(0)), torch.zeros(5, 4)
    assert divergence(student, teacher, 3.0).item() == pytest.approx(
        9 * divergence(student / 3, teacher, 1.0).item(), rel=1e-6
    )


@given(logits, logits, temperatures)
@settings(deadline=None)
def test_the_divergence_is_never_negative(student: object, teacher: object, temperature: float) -> None:
    assert divergence(torch.tensor(student), torch.tensor(teacher), temperature).item() >= -1e-4


@given(logits, temperatures, st.floats(-5, 5))
@settings(deadline=None)
def test_the_divergence_is_zero_where_the_softmaxes_agree(
    values: object, temperature: float, shift: float
) -> None:
    teacher = torch.tensor(values)
    assert divergence(teacher + shift, teacher, temperature).item() == pytest.approx(0, abs=1e-3)


def test_the_divergence_sends_no_gradient_to_the_teacher() -> None:
    student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    divergence(student, teacher, 2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_gradient_keeps_its_size_for_large_temperatures() -> None:
    teacher = torch.tensor([[1.0, 0.0, -1.0]])
    sizes = []
    for temperature in (10.0, 100.0):
        student = torch.zeros(1, 3, requires_grad=True)
        divergence(student, teacher, temperature).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_label_cross_entropy_leaves_unlabelled_examples_out() -> None:
    values = torch.randn(4, 3, generator=torch.manual_seed(1))
    labels = torch.tensor([0, -1, 2, -1])
    expected = functional.cross_entropy(values[[0, 2]], torch.tensor([0, 2]))
    assert label_cross_entropy(values, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_label_cross_entropy_without_any_label_is_zero_and_has_a_gradient() -> None:
    values = torch.randn(2, 3, requires_grad=True)
    loss = label_cross_entropy(values, torch.tensor([-1, -1]), smoothing=0.1)
    loss.backward()
    assert loss.item() == 0
    assert values.grad is not None
    assert not values.grad.any()


def test_label_smoothing_by_hand() -> None:
    # uniform probabilities: every target distribution costs ln 2
    assert label_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), 0.3).item() == pytest.approx(math.log(2))
    # p = (0.9, 0.1), smoothing 0.2 aims at (0.9, 0.1): the entropy of that
    values = torch.log(torch.tensor([[0.9, 0.1]]))
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert label_cross_entropy(values, torch.tensor([0]), 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_losses_are_float32_for_bf16_logits() -> None:
    values = torch.randn(2, 3).bfloat16()
    assert divergence(values, values, 2.0).dtype == torch.float32
    assert label_cross_entropy(values, torch.tensor([0, 1])).dtype == torch.float32


def test_balanced_weights_let_each_class_weigh_the_same() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [3] + [UNLABELLED] * 5)
    weights = balanced_weights(labels, 4)
    # 10 examples of 3 classes; the one that does not occur weighs 1.
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 1.0, 10 / 3]))
    known = labels[labels != UNLABELLED]
    sums = torch.zeros(4).index_add(0, known, weights[known])
    torch.testing.assert_close(sums[[0, 1, 3]], torch.full((3,), 10 / 3))


def test_weighted_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    labels = torch.tensor([0, 1])
    expected = (0.5 * math.log(2) + 2 * math.log(4)) / 2
    found = label_cross_entropy(logits, labels, weights=torch.tensor([0.5, 2.0]))
    assert found.item() == pytest.approx(expected, rel=1e-6)
