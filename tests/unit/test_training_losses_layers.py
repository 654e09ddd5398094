"""Losses between positions: hidden states, embeddings, outputs, attention, relations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compress.training.loss_functions.attention import (
    attention_kl,
    attention_mse,
    attention_scores,
    averaged_log_attention,
    averaged_scores,
    log_attention,
    scores_mse,
    spatial_attention,
    spatial_attention_distance,
)
from compress.training.loss_functions.hidden import hidden_cosine, hidden_mse, map_tokens
from compress.training.loss_functions.output import output_cosine, output_mse
from compress.training.loss_functions.relation import relation_kl

MASK = np.array([[True, True, True], [True, True, False]])
Values = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def softmax(values: Values) -> Values:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def tensors(*values: Values) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float32) for value in values]


def test_hidden_mse_is_the_mean_over_real_tokens_and_dimensions() -> None:
    student, teacher = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    expected = np.mean([(student[i, j] - teacher[i, j]) ** 2 for i, j in np.argwhere(MASK)])
    found = hidden_mse(*tensors(student, teacher), torch.from_numpy(MASK))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert hidden_mse(*tensors(student, teacher)).item() == pytest.approx(
        ((student - teacher) ** 2).mean(), rel=1e-5
    )


def test_hidden_cosine_by_hand() -> None:
    # angles of 60, 90 and 180 degrees; the last is padding
    student = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]]])
    teacher = torch.tensor([[[1.0, math.sqrt(3)], [5.0, 0.0], [-1.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    assert hidden_cosine(student, teacher, mask).item() == pytest.approx((0.5 + 1.0) / 2, abs=1e-6)
    assert hidden_cosine(student, teacher).item() == pytest.approx((0.5 + 1.0 + 2.0) / 3, abs=1e-6)


def test_output_distances_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 1.0]])
    assert output_mse(student, teacher).item() == pytest.approx(1.0)
    assert output_cosine(student, teacher).item() == pytest.approx((1 - 24 / 25 + 1) / 2, abs=1e-6)


def test_map_tokens_averages_a_finer_map_down() -> None:
    feature = torch.arange(16.0).view(1, 1, 4, 4)
    assert map_tokens(feature, 4, 4).flatten().tolist() == list(range(16))
    assert map_tokens(feature, 2, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert map_tokens(torch.randn(2, 5, 4, 4), 2, 2).shape == (2, 4, 5)


def numpy_scores(query: Values, key: Values, heads: int) -> Values:
    size = query.shape[-1] // heads
    parts = [
        query[..., h * size : (h + 1) * size]
        @ key[..., h * size : (h + 1) * size].swapaxes(1, 2)
        / np.sqrt(size)
        for h in range(heads)
    ]
    return np.stack(parts, 1)


def numpy_attention(scores: Values, mask: NDArray[np.bool_]) -> Values:
    return softmax(np.where(mask[:, None, None, :], scores, -np.inf))


def test_attention_scores_and_probabilities_against_numpy() -> None:
    query, key = draw(2, 3, 8), draw(2, 3, 8, seed=1)
    scores = attention_scores(*tensors(query, key), 2)
    expected = numpy_scores(query, key, 2)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-6)
    logs = log_attention(scores, torch.from_numpy(MASK))
    np.testing.assert_allclose(logs.exp().numpy(), numpy_attention(expected, MASK), rtol=1e-4, atol=1e-6)


def test_averages_over_heads_are_those_of_scores_and_of_probabilities() -> None:
    scores = torch.tensor(draw(2, 4, 3, 3))
    np.testing.assert_allclose(averaged_scores(scores)[:, 0], scores.numpy().mean(1))
    averaged = averaged_log_attention(scores.log_softmax(-1))
    np.testing.assert_allclose(averaged.exp()[:, 0], softmax(scores.numpy()).mean(1))


def test_attention_losses_against_numpy() -> None:
    student, teacher = draw(2, 2, 3, 3), draw(2, 2, 3, 3, seed=1)
    p, q = numpy_attention(teacher, MASK), numpy_attention(student, MASK)
    mask = torch.from_numpy(MASK)
    pairs = [(i, h, a, b) for i, h, a, b in np.ndindex(student.shape) if MASK[i, a] and MASK[i, b]]
    mine, theirs = tensors(student, teacher)
    logs = log_attention(mine, mask), log_attention(theirs, mask)

    expected = np.mean([(student[place] - teacher[place]) ** 2 for place in pairs])
    assert scores_mse(mine, theirs, mask).item() == pytest.approx(expected, rel=1e-5)
    expected = np.mean([(q[place] - p[place]) ** 2 for place in pairs])
    assert attention_mse(*logs, mask).item() == pytest.approx(expected, rel=1e-4)
    rows = 2 * MASK.sum()
    expected = sum(p[place] * np.log(p[place] / q[place]) for place in pairs) / rows
    assert attention_kl(*logs, mask).item() == pytest.approx(expected, rel=1e-4)


def test_a_text_without_real_tokens_leaves_attention_finite() -> None:
    scores = torch.randn(1, 2, 3, 3, requires_grad=True)
    mask = torch.zeros(1, 3, dtype=torch.bool)
    loss = attention_kl(log_attention(scores, mask), log_attention(torch.randn(1, 2, 3, 3), mask), mask)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_spatial_attention_by_hand() -> None:
    # energies 9 + 16 = 25 and 0 + 144 = 144: a unit vector of them
    feature = torch.tensor([[[[3.0, 0.0]], [[4.0, 12.0]]]])
    length = math.hypot(25, 144)
    torch.testing.assert_close(
        spatial_attention(feature, 1, 2), torch.tensor([[25 / length, 144 / length]]), rtol=1e-5, atol=0
    )
    other = torch.tensor([[[[1.0, 0.0]]]])
    expected = (25 / length - 1) ** 2 + (144 / length) ** 2
    assert spatial_attention_distance(feature, other).item() == pytest.approx(expected, rel=1e-5)


def test_spatial_attention_of_two_resolutions_is_compared_at_the_coarser_one() -> None:
    fine, coarse = draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)
    energy = (fine**2).sum(1).reshape(2, 2, 2, 2, 2).mean((2, 4)).reshape(2, 4)
    other = (coarse**2).sum(1).reshape(2, 4)
    mine, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (energy, other))
    expected = ((mine - theirs) ** 2).sum(1).mean()
    assert spatial_attention_distance(*tensors(fine, coarse)).item() == pytest.approx(expected, rel=1e-4)
    assert spatial_attention_distance(*tensors(coarse, fine)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_relations_of_models_of_unlike_widths_against_numpy(heads: int) -> None:
    a, b = draw(2, 3, 8), draw(2, 3, 8, seed=1)
    c, d = draw(2, 3, 12, seed=2), draw(2, 3, 12, seed=3)
    q = numpy_attention(numpy_scores(a, b, heads), MASK)
    p = numpy_attention(numpy_scores(c, d, heads), MASK)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p / np.where(q > 0, q, 1), 1)), 0).sum(-1)
    expected = np.mean([terms[i, h, row] for i, row in np.argwhere(MASK) for h in range(heads)])
    found = relation_kl(*tensors(a, b, c, d), heads, torch.from_numpy(MASK))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def relation_of_one(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return relation_kl(student, student, teacher, teacher, 2, mask)


def probabilities_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    mine, theirs = (attention_scores(one, one, 2) for one in (student, teacher))
    return attention_kl(log_attention(mine, mask), log_attention(theirs, mask), mask)


def averaged_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    logs = (log_attention(attention_scores(one, one, 2), mask) for one in (student, teacher))
    return attention_mse(*map(averaged_log_attention, logs), mask)


def scores_of_one(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return scores_mse(attention_scores(student, student, 2), attention_scores(teacher, teacher, 2), mask)


TOKEN_LOSSES: dict[str, Callable[..., Tensor]] = {
    "hidden mse": hidden_mse,
    "hidden cosine": hidden_cosine,
    "scores": scores_of_one,
    "probabilities": averaged_mse,
    "kl": probabilities_kl,
    "relation": relation_of_one,
}
token_losses = pytest.mark.parametrize("loss", TOKEN_LOSSES.values(), ids=TOKEN_LOSSES)


@token_losses
def test_it_is_zero_where_the_student_equals_the_teacher(loss: Callable[..., Tensor]) -> None:
    values = torch.tensor(draw(2, 3, 8), dtype=torch.float32)
    assert loss(values, values.clone(), torch.from_numpy(MASK)).item() == pytest.approx(0, abs=1e-6)
    assert loss(values, values + 1.5 * values.flip(0)).item() > 1e-4


@token_losses
@given(padding=st.integers(1, 4), garbage=st.sampled_from([0.0, 7.0, -1e4]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_padding_changes_neither_the_loss_nor_its_gradient(
    loss: Callable[..., Tensor], padding: int, garbage: float, seed: int
) -> None:
    results = []
    for extra in (0, padding):
        pad = (0, 0, 0, extra)
        student, teacher = (
            functional.pad(one, pad, value=garbage)
            for one in tensors(draw(2, 3, 8, seed=seed), draw(2, 3, 8))
        )
        student.requires_grad_()
        value = loss(student, teacher, functional.pad(torch.from_numpy(MASK), (0, extra), value=False))
        value.backward()
        assert student.grad is not None
        results.append((value.detach(), student.grad[:, :3]))
        assert not student.grad[:, 3:].any()
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


@token_losses
def test_it_is_float32_and_finite_under_bf16_and_spares_the_teacher(loss: Callable[..., Tensor]) -> None:
    student, teacher = tensors(draw(2, 3, 8), draw(2, 3, 8, seed=1))
    exact = loss(student.bfloat16().float(), teacher.bfloat16().float(), torch.from_numpy(MASK))
    mine, theirs = student.bfloat16().requires_grad_(), teacher.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(mine, theirs, torch.from_numpy(MASK))
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    assert mine.grad is not None
    assert mine.grad.isfinite().all()
    assert mine.grad.any()
    assert theirs.grad is None


@pytest.mark.parametrize("loss", [hidden_cosine, output_cosine, spatial_attention_distance])
def test_zero_vectors_have_finite_gradients(loss: Callable[..., Tensor]) -> None:
    shape = (2, 3, 2, 2) if loss is spatial_attention_distance else (2, 3)
    student = torch.zeros(shape, requires_grad=True)
    loss(student, torch.ones(shape)).backward()
    assert student.grad is not None
    assert student.grad.abs().max() <= 10
