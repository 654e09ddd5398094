from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.models.projection import (
    Heads,
    important_neurons,
    narrowing_basis,
    norm_scale,
    normalised,
    orthogonal_to_ones,
    read_through,
    second_moments,
)


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix


@given(st.integers(2, 40))
@settings(deadline=None)
def test_orthogonal_to_ones(size: int) -> None:
    columns = orthogonal_to_ones(size)
    assert columns.shape == (size, size - 1)
    assert torch.allclose(columns.T @ columns, torch.eye(size - 1, dtype=torch.float64), atol=1e-10)
    assert columns.sum(dim=0).abs().max() < 1e-10


@given(st.integers(3, 24), st.data())
@settings(deadline=None)
def test_the_basis_is_an_isometry_orthogonal_to_ones_on_both_sides(wide: int, data: st.DataObject) -> None:
    narrow = data.draw(st.integers(2, wide))
    basis = narrowing_basis(second_moments(rows(50, wide)), narrow)
    assert basis.shape == (wide, narrow)
    ones = torch.ones(narrow, narrow, dtype=torch.float64) / narrow
    assert torch.allclose(basis.T @ basis, torch.eye(narrow, dtype=torch.float64) - ones, atol=1e-9)
    assert basis.sum(dim=0).abs().max() < 1e-9
    assert (basis @ torch.ones(narrow, dtype=torch.float64)).abs().max() < 1e-9


def test_the_basis_keeps_what_matters_most() -> None:
    # all of the stream lies in a plane orthogonal to ones: three dimensions hold it exactly
    plane = orthogonal_to_ones(10)[:, 2:4]
    stream = torch.randn(30, 2, dtype=torch.float64) @ plane.T
    basis = narrowing_basis(second_moments(stream), 3)
    assert torch.allclose(stream @ basis @ basis.T, stream, atol=1e-9)


def test_a_layer_norm_commutes_with_a_full_basis() -> None:
    stream = rows(20, 12)
    basis = narrowing_basis(second_moments(normalised(stream)), 12)
    assert torch.allclose(normalised(stream @ basis), normalised(stream) @ basis, atol=1e-9)


def test_the_norm_scale_takes_back_what_the_basis_leaves_out() -> None:
    stream = normalised(rows(4000, 16))
    moments = second_moments(stream)
    basis = narrowing_basis(moments, 8)
    scale = norm_scale(torch.full((16,), 1.7), moments, basis)
    mine = normalised(stream @ basis) * scale
    goal = 1.7 * stream @ basis
    # on the average: the norm divides each row by its own length
    assert (mine * goal).sum() / (goal * goal).sum() == pytest.approx(1.0, abs=0.05)


def test_read_through_moves_the_lost_constant_into_the_bias() -> None:
    basis = narrowing_basis(second_moments(rows(30, 6)), 3)
    weight, bias = rows(4, 6, seed=1), rows(1, 4, seed=2)[0]
    shift = rows(1, 6, seed=3)[0]
    narrow_weight, narrow_bias = read_through(weight, bias, basis, shift)
    # reading exactly the constant: nothing is lost
    assert torch.allclose(narrow_weight @ (basis.T @ shift) + narrow_bias, weight @ shift + bias, atol=1e-9)


def heads(count: int, size: int, hidden: int) -> Heads:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    reads = [draw(count, size, hidden + 1) for _ in range(3)]
    return Heads(*reads, out=draw(count, hidden, size))


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
    wide = Heads(
        *(torch.cat([part, torch.zeros_like(part)], dim=1) for part in (every.query, every.key, every.value)),
        out=torch.cat([every.out, torch.zeros_like(every.out)], dim=2),
    )
    small = wide.shrink(3)
    assert small.query.shape == (2, 3, 9)
    scores = wide.query.transpose(1, 2) @ wide.key / 6**0.5
    assert torch.allclose(small.query.transpose(1, 2) @ small.key / 3**0.5, scores, atol=1e-9)
    assert torch.allclose(small.out @ small.value, wide.out @ wide.value, atol=1e-9)


def test_shrinking_is_the_best_approximation_of_its_rank() -> None:
    every = heads(1, 6, 8)
    product = every.out @ every.value
    small = every.shrink(2)
    singular = torch.linalg.svdvals(product[0])
    error = torch.linalg.matrix_norm(product - small.out @ small.value).item()
    assert error == pytest.approx(singular[2:].square().sum().sqrt().item(), rel=1e-9)


def test_important_neurons() -> None:
    reads = torch.tensor([[1.0, 0], [0, 2], [3, 0], [0.1, 0]])
    writes = torch.tensor([[1.0, 3, 0.5, 4]])
    assert important_neurons(reads, writes, 2).tolist() == [1, 2]
