"""Losses between examples, and masked language modelling."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from compress.training.loss_functions.contrastive import different_examples, info_nce
from compress.training.loss_functions.logits import hard_label_cross_entropy
from compress.training.loss_functions.masked_lm import mask_tokens, masked_lm_cross_entropy
from compress.training.loss_functions.similarity import (
    angle_relation,
    distance_relation,
    similarity_matrix_distance,
)
from compress.training.loss_functions.vectors import standardized, token_mean, unit

Values = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def tensors(*values: Values) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float32) for value in values]


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def test_distance_relation_against_numpy() -> None:
    student, teacher = 3 * draw(5, 4), draw(5, 6, seed=1)
    pairs = list(itertools.combinations(range(5), 2))
    lengths = [np.array([np.linalg.norm(rows[i] - rows[j]) for i, j in pairs]) for rows in (student, teacher)]
    mine, theirs = (one / one.mean() for one in lengths)
    expected = np.mean([huber(a - b) for a, b in zip(mine, theirs, strict=True)])
    assert distance_relation(*tensors(student, teacher)).item() == pytest.approx(expected, rel=1e-4)


def test_angle_relation_against_numpy() -> None:
    student, teacher = draw(4, 3), draw(4, 6, seed=1)

    def cosine(rows: Values, i: int, j: int, k: int) -> float:
        a, b = rows[i] - rows[j], rows[k] - rows[j]
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    triples = itertools.permutations(range(4), 3)
    expected = np.mean([huber(cosine(student, *t) - cosine(teacher, *t)) for t in triples])
    assert angle_relation(*tensors(student, teacher)).item() == pytest.approx(expected, rel=1e-4)


def test_similarity_matrices_against_numpy() -> None:
    student, teacher = draw(4, 3), draw(4, 6, seed=1)
    grams = [rows @ rows.T for rows in (student, teacher)]
    mine, theirs = (gram / np.linalg.norm(gram, axis=1, keepdims=True) for gram in grams)
    expected = np.linalg.norm(mine - theirs) ** 2 / 16
    assert similarity_matrix_distance(*tensors(student, teacher)).item() == pytest.approx(expected, rel=1e-4)


RELATIONS = {
    "distance": distance_relation,
    "angle": angle_relation,
    "matrix": similarity_matrix_distance,
}
relations = pytest.mark.parametrize("loss", RELATIONS.values(), ids=RELATIONS)


@relations
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_a_rotated_scaled_teacher_is_as_good_as_the_teacher(
    loss: Callable[[Tensor, Tensor], Tensor], scale: float, seed: int
) -> None:
    rows = draw(6, 4, seed=seed)
    rotation = np.linalg.qr(draw(4, 4, seed=seed + 1))[0]
    assert loss(*tensors(scale * rows @ rotation, rows)).item() == pytest.approx(0, abs=1e-6)


@relations
def test_duplicates_and_tiny_batches_have_finite_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    for count in (1, 2, 5):
        student = torch.ones(count, 3, requires_grad=True)
        loss(student, torch.tensor(draw(count, 4))).backward()
        assert student.grad is not None
        assert student.grad.isfinite().all()


@relations
def test_it_is_float32_under_bf16_and_spares_the_teacher(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = (one.bfloat16().requires_grad_() for one in tensors(draw(5, 4), draw(5, 6)))
    exact = loss(student.detach().float(), teacher.detach().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert teacher.grad is None


def test_info_nce_against_numpy() -> None:
    student, teacher = draw(2, 4), draw(3, 4, seed=1)
    counted = np.array([[True, True, False], [True, True, True]])
    mine, theirs = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (student, teacher))
    powers = np.where(counted, np.exp(mine @ theirs.T / 0.5), 0)
    expected = -np.mean(np.log(np.diagonal(powers) / powers.sum(1)))
    # The diagonal is the example itself, whatever the mask says of it.
    negative = torch.from_numpy(counted & ~np.eye(2, 3, dtype=bool))
    assert info_nce(*tensors(student, teacher), negative, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_without_negatives_is_zero_and_falls_with_a_better_match() -> None:
    rows = torch.eye(3)
    assert info_nce(rows, rows, torch.zeros(3, 3, dtype=torch.bool), 0.1).item() == 0
    others = ~torch.eye(3, dtype=torch.bool)
    assert info_nce(rows, rows, others, 0.1) < info_nce(rows, rows.roll(1, 0), others, 0.1)


def test_differ_tells_equal_representations_whatever_their_length() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    others = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 0.5]])
    assert different_examples(rows, others).tolist() == [[False, True, True], [True, True, False]]


def test_hard_labels_are_the_teachers_classes() -> None:
    student = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]))
    teacher = torch.tensor([[9.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    expected = -(np.log(0.7) + np.log(0.25)) / 2
    assert hard_label_cross_entropy(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_standardized_logits_are_z_scores_and_constant_rows_zero() -> None:
    logits = draw(3, 5)
    expected = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
    np.testing.assert_allclose(standardized(torch.tensor(logits)).numpy(), expected, rtol=1e-6)
    constant = torch.full((1, 4), 3.0, requires_grad=True)
    result = standardized(constant)
    result.square().sum().backward()
    assert not result.detach().any()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_token_mean_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [4.0], [6.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert token_mean(hidden, mask).flatten().tolist() == [2.0, 4.0]


def test_unit_vectors_are_of_length_one_and_zero_stays_zero() -> None:
    assert unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0])


def test_masking_hides_the_asked_share_in_the_asked_ways_and_spares_the_rest() -> None:
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (400, 100))
    may_change = torch.rand(ids.shape) < 0.9
    masked, chosen = mask_tokens(ids, may_change, 0.15, 4, 1000)
    assert not (chosen & ~may_change).any()
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert chosen.sum().item() / may_change.sum().item() == pytest.approx(0.15, abs=0.01)
    new, old = masked[chosen], ids[chosen]
    assert (new == 4).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (new == old).float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert ((new != old) & (new != 4)).float().mean().item() == pytest.approx(0.1, abs=0.015)


def test_masking_draws_from_the_global_generator() -> None:
    ids, may_change = torch.arange(200).view(2, 100), torch.ones(2, 100, dtype=torch.bool)
    torch.manual_seed(3)
    first, second = (mask_tokens(ids, may_change, 0.3, 0, 50) for _ in range(2))
    torch.manual_seed(3)
    again = mask_tokens(ids, may_change, 0.3, 0, 50)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])


def test_masked_lm_cross_entropy_is_the_mean_over_hidden_tokens_and_zero_without_any() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    expected = -(np.log(0.5) + np.log(0.1)) / 2
    assert masked_lm_cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-5)
    nothing = torch.zeros(0, 2, requires_grad=True)
    loss = masked_lm_cross_entropy(nothing, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
