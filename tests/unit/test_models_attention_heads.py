from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.models.anatomy.attention_heads import Heads


def heads(count: int, size: int, hidden: int, seed: int = 0) -> Heads:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    query, key, value = (draw(count, size, hidden + 1) for _ in range(3))
    return Heads(query, key, value, draw(count, hidden, size))


def attend(heads: Heads, rows: torch.Tensor, size: int) -> np.ndarray:
    """What attention of heads of `size` dimensions writes for rows (t, hidden), in numpy: (t, hidden)."""
    x = np.concatenate([rows.numpy(), np.ones((len(rows), 1))], axis=1)
    written = np.zeros((len(rows), rows.shape[1]))
    for query, key, value, out in zip(
        heads.query.numpy(), heads.key.numpy(), heads.value.numpy(), heads.out.numpy(), strict=True
    ):
        scores = (x @ query.T) @ (x @ key.T).T / np.sqrt(size)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        written += weights @ (x @ value.T) @ out.T
    return written


def rows(count: int = 5, hidden: int = 8) -> torch.Tensor:
    return torch.randn(count, hidden, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def of_low_rank(count: int, size: int, rank: int, hidden: int = 8) -> Heads:
    """Heads of `size` dimensions whose scores have a lower rank."""
    every, thin = heads(count, size, hidden), heads(count, rank, hidden, seed=1)
    room = torch.zeros(count, size - rank, hidden + 1, dtype=torch.float64)
    return Heads(
        torch.cat([thin.query, room], dim=1), torch.cat([thin.key, room], dim=1), every.value, every.out
    )


def test_the_heads_that_write_most_are_kept_in_their_order() -> None:
    every = heads(4, 3, 8)
    scaled = Heads(
        every.query, every.key, every.value, every.out * torch.tensor([1.0, 9, 0.1, 5])[:, None, None]
    )
    kept = scaled.select(2)
    assert torch.equal(kept.query, every.query[[1, 3]])


def test_shrinking_heads_of_low_rank_keeps_what_they_compute() -> None:
    every = heads(2, 3, 8)
    # six dimensions of which three are used
    query, key, value = (
        torch.cat([part, torch.zeros_like(part)], dim=1) for part in (every.query, every.key, every.value)
    )
    wide = Heads(query, key, value, torch.cat([every.out, torch.zeros_like(every.out)], dim=2))
    small = wide.shrink(3)
    assert small.query.shape == (2, 3, 9)
    assert np.allclose(attend(small, rows(), 3), attend(wide, rows(), 6))


def test_shrinking_is_the_best_approximation_of_its_rank() -> None:
    every = heads(1, 6, 8)
    product = every.out @ every.value
    small = every.shrink(2)
    singular = torch.linalg.svdvals(product[0])
    error = torch.linalg.matrix_norm(product - small.out @ small.value).item()
    assert error == pytest.approx(singular[2:].square().sum().sqrt().item(), rel=1e-9)


@given(st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_split_heads_write_what_the_whole_ones_wrote(count: int, parts: int) -> None:
    every = heads(count, 6, 8)
    several = every.split(parts)
    assert several.count == count * parts
    assert np.allclose(attend(several, rows(), 6), attend(every, rows(), 6))


@given(st.integers(1, 3), st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=20)
def test_heads_that_attend_alike_can_be_joined_without_loss(count: int, together: int) -> None:
    every = heads(count, 6, 8)
    joined = every.split(together).join(together)
    assert joined.size == together * 6
    assert np.allclose(attend(joined, rows(), joined.size), attend(every, rows(), 6))


def test_the_scores_of_joined_heads_are_the_mean_of_theirs() -> None:
    every = heads(2, 3, 8)
    joined = every.join(2)
    means = (every.query.transpose(1, 2) @ every.key / 3**0.5).mean(dim=0)
    assert torch.allclose(joined.query[0].T @ joined.key[0] / 6**0.5, means)
    assert torch.allclose(joined.out[0] @ joined.value[0], (every.out @ every.value).sum(dim=0))


def test_more_and_smaller_heads_are_exact_where_the_scores_have_so_low_a_rank() -> None:
    every = of_low_rank(count=2, size=6, rank=2)
    several = every.regroup(6, 2)
    assert several.query.shape == several.value.shape == (6, 2, 9)
    assert np.allclose(attend(several, rows(), 2), attend(every, rows(), 6))


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 6), st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_heads_are_regrouped_to_any_number_and_size(
    count: int, size: int, wanted: int, wanted_size: int
) -> None:
    found = heads(count, size, 8).regroup(wanted, wanted_size)
    assert found.count <= wanted
    assert found.size <= wanted_size
    assert found.value.shape[1] == found.out.shape[2] <= wanted_size
    for part in (found.query, found.key, found.value, found.out):
        assert part.isfinite().all()
    if wanted <= count and wanted_size <= size:
        assert found.query.shape == (wanted, wanted_size, 9)


def test_regrouping_to_the_same_number_and_size_computes_the_same() -> None:
    every = heads(3, 4, 8)
    assert np.allclose(attend(every.regroup(3, 4), rows(), 4), attend(every, rows(), 4))


def test_heads_of_the_same_size_stay_whole_where_more_are_asked_for() -> None:
    every = heads(3, 4, 8)
    found = every.regroup(5, 4)
    assert found.count == 3
    assert np.allclose(attend(found, rows(), 4), attend(every, rows(), 4))
