from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.models.students.projection import (
    Moments,
    StreamReader,
    important_neurons,
    narrow_norm,
    narrowing_basis,
    norm_gain,
    normalised,
    orthogonal_to_ones,
)


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix


def moved(count: int, width: int) -> torch.Tensor:
    """Rows whose mean is not 0."""
    return rows(count, width) + 3 * rows(1, width, seed=5)


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
    basis = narrowing_basis(Moments.of(rows(50, wide)).second_moments, narrow)
    assert basis.shape == (wide, narrow)
    ones = torch.ones(narrow, narrow, dtype=torch.float64) / narrow
    assert torch.allclose(basis.T @ basis, torch.eye(narrow, dtype=torch.float64) - ones, atol=1e-9)
    assert basis.sum(dim=0).abs().max() < 1e-9
    assert (basis @ torch.ones(narrow, dtype=torch.float64)).abs().max() < 1e-9


def test_the_basis_keeps_what_matters_most() -> None:
    # all of the stream lies in a plane orthogonal to ones: three dimensions hold it exactly
    plane = orthogonal_to_ones(10)[:, 2:4]
    stream = torch.randn(30, 2, dtype=torch.float64) @ plane.T
    basis = narrowing_basis(Moments.of(stream).second_moments, 3)
    assert torch.allclose(stream @ basis @ basis.T, stream, atol=1e-9)


def test_the_basis_is_no_worse_than_any_other_of_its_width() -> None:
    stream = normalised(rows(200, 12))
    square = Moments.of(stream).second_moments
    lost = [
        float((stream - stream @ basis @ basis.T).square().sum())
        for basis in (
            narrowing_basis(square, 5),
            *(narrowing_basis(Moments.of(rows(40, 12, s)).second_moments, 5) for s in range(1, 20)),
        )
    ]
    assert lost[0] == min(lost)


def test_a_layer_norm_commutes_with_a_full_basis() -> None:
    stream = rows(20, 12)
    basis = narrowing_basis(Moments.of(normalised(stream)).second_moments, 12)
    assert torch.allclose(normalised(stream @ basis), normalised(stream) @ basis, atol=1e-9)


@given(st.integers(2, 8), st.integers(0, 5))
@settings(deadline=None)
def test_the_moments_of_a_scaled_and_shifted_stream(width: int, seed: int) -> None:
    stream = moved(40, width)
    scale, shift = rows(2, width, seed=seed)
    found, expected = Moments.of(stream).scaled(scale, shift), Moments.of(stream * scale + shift)
    assert torch.allclose(found.mean, expected.mean)
    assert torch.allclose(found.second_moments, expected.second_moments)
    assert torch.allclose(found.covariance, torch.cov((stream * scale + shift).T, correction=0), atol=1e-6)


def test_the_gain_of_a_norm_takes_back_what_the_basis_leaves_out() -> None:
    stream = normalised(rows(4000, 16))
    square = Moments.of(stream).second_moments
    basis = narrowing_basis(square, 8)
    mine, goal = norm_gain(square, basis) * normalised(stream @ basis), stream @ basis
    # on the average: the norm divides each row by its own length
    assert (mine * goal).sum() / (goal * goal).sum() == pytest.approx(1.0, abs=0.05)


def test_a_norm_in_the_stream_keeps_scale_and_mean() -> None:
    stream = normalised(moved(4000, 16))
    seen = Moments.of(stream)
    basis = narrowing_basis(seen.second_moments, 8)
    shift = rows(1, 16, seed=3)[0]
    weight, bias = narrow_norm(torch.full((16,), 1.7), shift, seen, basis)
    mine, goal = normalised(stream @ basis) * weight + bias, (1.7 * stream + shift) @ basis
    assert torch.allclose(
        weight, torch.full((8,), 1.7, dtype=torch.float64) * norm_gain(seen.second_moments, basis)
    )
    assert (mine - goal).mean(dim=0).norm() < 0.05 * goal.mean(dim=0).norm()


def test_a_direction_that_no_example_shows_gets_the_mean_scale() -> None:
    stream = normalised(rows(3, 16))
    weight, bias = narrow_norm(
        rows(1, 16, seed=2)[0],
        torch.zeros(16),
        Moments.of(stream),
        narrowing_basis(Moments.of(stream).second_moments, 10),
    )
    assert weight.abs().max() < 20
    assert bias.isfinite().all()


def test_a_reader_of_the_stream_moves_the_lost_mean_into_the_bias() -> None:
    basis = narrowing_basis(Moments.of(rows(30, 6)).second_moments, 3)
    weight, bias = rows(4, 6, seed=1), rows(1, 4, seed=2)[0]
    mean = rows(1, 6, seed=3)[0]
    narrow_weight, narrow_bias = StreamReader.of_stream(basis, mean).read(weight, bias)
    # reading exactly the mean: nothing is lost
    assert torch.allclose(narrow_weight @ (basis.T @ mean) + narrow_bias, weight @ mean + bias, atol=1e-9)


@given(st.integers(3, 12))
@settings(deadline=None)
def test_a_reader_behind_a_norm_of_any_scale_is_exact_at_full_width(width: int) -> None:
    stream = normalised(moved(20, width))
    seen = Moments.of(stream)
    basis = narrowing_basis(seen.second_moments, width)
    scale, shift, weight = rows(1, width, 2)[0], rows(1, width, 3)[0], rows(4, width, 4)
    mine, bias = StreamReader.of_norm(basis, seen.mean, scale, shift).read(weight, None)
    # each row of `stream` has mean 0, and that is all that the basis leaves out
    assert torch.allclose(stream @ basis @ mine.T + bias, (stream * scale + shift) @ weight.T, atol=1e-8)


def test_important_neurons() -> None:
    reads = torch.tensor([[1.0, 0], [0, 2], [3, 0], [0.1, 0]])
    writes = torch.tensor([[1.0, 3, 0.5, 4]])
    assert important_neurons(reads, writes, 2).tolist() == [1, 2]
