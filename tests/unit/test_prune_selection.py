"""Choosing what goes: the knapsack against brute force, global ranking, schedules, tables."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import PassError
from compress.core.knapsack import Option, choose_options, min_total_cost
from compress.passes.prune.choosing.budget import Budget, choose_sizes, solve_budget
from compress.passes.prune.choosing.importance import LayerScores
from compress.passes.prune.choosing.latency_table import (
    LayerShape,
    interpolate,
    isotonic,
    part_graph,
    timed_sizes,
)
from compress.passes.prune.choosing.selection import (
    comparable_scores,
    least_important_globally,
    losses_by_size,
    remaining_count,
    removal_schedule,
)

PLACES = st.lists(
    st.lists(
        st.builds(Option, st.integers(1, 9), st.integers(0, 30), st.integers(0, 50)), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=4,
)


def brute_force(places: list[list[Option]], budget: float) -> float | None:
    every = [
        sum(one.loss for one in chosen)
        for chosen in itertools.product(*places)
        if sum(one.cost for one in chosen) <= budget
    ]
    return min(every, default=None)


@settings(max_examples=200)
@given(places=PLACES, budget=st.integers(-1, 90))
def test_the_knapsack_finds_what_trying_all_finds(places: list[list[Option]], budget: int):
    found = choose_options(places, budget)
    best = brute_force(places, budget)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert all(option in place for option, place in zip(found, places, strict=True))
    assert sum(option.cost for option in found) <= budget
    assert sum(option.loss for option in found) == best


@settings(max_examples=100)
@given(places=PLACES, budget=st.floats(0.01, 9), scale=st.floats(0.01, 0.1))
def test_fractional_costs_never_exceed_the_budget(places: list[list[Option]], budget: float, scale: float):
    scaled = [[Option(one.size, one.cost * scale, one.loss) for one in place] for place in places]
    found = choose_options(scaled, budget)
    if found is not None:
        assert sum(option.cost for option in found) <= budget * (1 + 1e-9)
    best = brute_force(scaled, budget * (1 - len(places) / 20_000))
    if best is not None:
        # What fits with the rounding to spare is found, or something better.
        assert found is not None
        assert sum(option.loss for option in found) <= best


def test_a_budget_that_nothing_fits_says_what_is_needed():
    places = [[Option(1, 3, 0)], [Option(1, 4, 0), Option(2, 9, 0)]]
    assert min_total_cost(places) == 7
    message = "a latency of 5 ms cannot be reached: .* still cost 7 where 5 are left for them"
    with pytest.raises(PassError, match=message) as caught:
        solve_budget(places, 5, "a latency of 5 ms", "prune.target.latency_ms")
    assert caught.value.where == "prune.target.latency_ms"


def test_shares_rise_fast_and_end_at_all():
    assert removal_schedule(1) == (1.0,)
    assert removal_schedule(2) == (0.875, 1.0)
    assert np.allclose(removal_schedule(4), [1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1])


@given(
    final=st.integers(1, 64),
    more=st.integers(0, 100),
    share=st.floats(0, 1),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_what_is_left_on_the_way(final: int, more: int, share: float, multiple: int):
    whole = final * multiple + more
    left = remaining_count(whole, final * multiple, share, multiple)
    assert final * multiple <= left <= whole
    assert left == whole or left % multiple == 0
    assert remaining_count(whole, final * multiple, 1.0, multiple) == final * multiple
    assert remaining_count(whole, final * multiple, 0.0, multiple) == whole


def test_the_least_important_blocks_of_all_layers_go():
    scores = [torch.tensor([1.0, 9, 2, 8]), torch.tensor([5.0, 6, 7, 4])]
    assert least_important_globally(scores, 4, 2, 2) == [(0, 2), (0, 3)]
    assert least_important_globally(scores, 2, 1, 1) == [(0, 2), ()]
    # Each layer keeps one, however little it matters.
    assert least_important_globally([torch.zeros(3), torch.ones(3)], 4, 1, 1) == [(0, 1), (0, 1)]
    assert least_important_globally([torch.zeros(3), torch.ones(3)], 9, 1, 1) == [(0, 1), (0, 1)]


@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    count=st.integers(0, 120),
    block=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 9),
)
def test_global_ranking_keeps_its_promises(widths: list[int], count: int, block: int, seed: int):
    torch.manual_seed(seed)
    scores = [torch.rand(width) for width in widths]
    gone = least_important_globally(scores, count, block, block)
    assert sum(map(len, gone)) <= count
    for width, lost, each in zip(widths, gone, scores, strict=True):
        kept = width - len(lost)
        assert kept == width or (kept >= block and kept % block == 0)
        if lost:
            left = [float(each[index]) for index in range(width) if index not in lost]
            assert max(float(each[index]) for index in lost) <= min(left)


def test_comparable_scores():
    scores = [torch.tensor([1.0, 3.0]), torch.tensor([10.0, 30.0])]
    assert comparable_scores(scores, loss=True)[1].tolist() == [10, 30]
    assert [each.tolist() for each in comparable_scores(scores, loss=False)] == [[0.5, 1.5]] * 2
    assert torch.isfinite(comparable_scores([torch.zeros(2)], loss=False)[0]).all()


def test_losses_are_sums_of_the_lowest_scores():
    assert losses_by_size(torch.tensor([3.0, 1.0, 2.0]), [1, 2, 3]) == [3, 1, 0]


def scores_of(heads: list[float], units: list[float]) -> LayerScores:
    return LayerScores(torch.tensor(heads), torch.tensor(units))


def test_sizes_follow_importance_and_cost():
    scores = [scores_of([1, 1], [1, 1, 1, 1]), scores_of([50, 50], [90, 90, 90, 90])]
    budget = Budget("x", "y", 31.0, 10.0, lambda layer, heads: 5.0 * heads, lambda layer, width: 1.0 * width)
    # 38 are spent, 31 may be: a head and two units of the first layer are the cheapest loss.
    assert budget.predicted([(2, 4), (2, 4)]) == 38
    assert choose_sizes(scores, budget, 1.0, 2, loss_units=True) == [(1, 2), (2, 4)]
    # Half of the way is 34.5.
    half = choose_sizes(scores, budget, 0.5, 2, loss_units=True)
    assert half[1] == (2, 4)
    assert 31 < budget.predicted(half) <= 34.5
    # Other scores count as shares of their part of the layer, so that no layer is spared for its scale.
    shares_only = choose_sizes(scores, budget, 1.0, 2, loss_units=False)
    assert budget.predicted(shares_only) <= 31


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_rising_times_never_fall_and_keep_their_sum(times: list[float]):
    found = isotonic(times)
    assert all(first <= second + 1e-9 for first, second in itertools.pairwise(found))
    assert sum(found) == pytest.approx(sum(times))
    assert isotonic(sorted(times)) == pytest.approx(sorted(times))


def test_the_table_is_interpolated():
    points = ((1, 1.0), (3, 2.0))
    assert [interpolate(points, size) for size in (1, 2, 3, 4)] == [1, 1.5, 2, 2]


@pytest.mark.parametrize(
    ("whole", "multiple"), [(12, 1), (4, 1), (1, 1), (1536, 8), (64, 8), (5, 8), (100, 8)]
)
def test_timed_sizes(whole: int, multiple: int):
    sizes = timed_sizes(whole, multiple)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == whole
    assert sizes[0] == min(multiple, whole)
    assert len(sizes) <= 8
    assert all(size % min(multiple, whole) == 0 for size in sizes[:-1])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("part", ["attention", "feed_forward"])
@pytest.mark.parametrize("masked", [False, True])
def test_graphs_of_parts_run(part: str, last: bool, masked: bool, tmp_path: Path):
    shape = LayerShape(batch=1, tokens=5, hidden=16, head_size=4, last_tokens=1, masked=masked)
    file = tmp_path / "part.onnx"
    file.write_bytes(part_graph(shape, part, 3, 2, last=last).SerializeToString())
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    reads = 1 if last and part == "feed_forward" else 5
    feeds = {"x": np.ones((1, reads, 16), np.float32), "mask": np.ones((1, reads), np.int32)}
    (result,) = session.run(None, feeds)
    assert result.shape == (1, 1 if last else 5, 16)
    assert np.isfinite(result).all()
