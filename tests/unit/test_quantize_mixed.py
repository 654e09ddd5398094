"""Mixed precision: the search for a loss that holds, the choice within a budget, and the distance of outputs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.passes.quantize.mixed.search import (
    LIMIT_MET,
    OUT_OF_TIME,
    UNREACHABLE,
    predicted_layers,
    requantize_until_limit,
    restore_until_limit,
    restore_within_budget,
)
from compress.passes.quantize.mixed.spec import MixedSpec
from compress.profile.schema import DataSpec
from compress.tasks.base import task_of
from tests.quantize_specs import quantize_spec

LOSSES = (0.01, 0.2, 0.03, 0.1)
WORST_FIRST = (1, 3, 2, 0)


def drop_of(given_back: frozenset[int]) -> float:
    return sum(loss for place, loss in enumerate(LOSSES) if place not in given_back)


def test_the_worst_are_given_back_until_the_loss_holds():
    found = restore_until_limit(WORST_FIRST, 0.05, drop_of, lambda: True)
    assert (found.best.float_layers, found.reason, found.target_met) == (frozenset({1, 3}), LIMIT_MET, True)
    assert found.best.drop == pytest.approx(0.04)
    # All in integers, one, two; then whether the second alone would have been enough.
    assert [sorted(trial.float_layers) for trial in found.trials] == [[], [1], [1, 3], [3]]


def test_what_was_given_back_in_vain_is_taken_back():
    # Only the layer that seemed the third worst matters.
    found = restore_until_limit(WORST_FIRST, 0.0, lambda given: 0.0 if 2 in given else 0.3, lambda: True)
    assert found.best.float_layers == {2}
    assert found.target_met


def test_nothing_is_given_back_where_the_loss_holds_at_once():
    found = restore_until_limit((), 0.5, drop_of, lambda: True)
    assert (found.best.float_layers, len(found.trials), found.target_met) == (frozenset(), 1, True)


def test_the_least_loss_is_kept_where_none_holds():
    losses = iter((0.3, 0.1, 0.2, 0.2, 0.2))
    found = restore_until_limit(WORST_FIRST, 0.05, lambda _: next(losses), lambda: True)
    assert (found.best.float_layers, found.reason, found.target_met) == (frozenset({1}), UNREACHABLE, False)


def test_the_time_ends_the_search_with_the_best_so_far():
    time = iter((True, False))
    found = restore_until_limit(WORST_FIRST, 0.05, drop_of, lambda: next(time))
    assert (found.best.float_layers, found.reason, found.target_met) == (frozenset({1}), OUT_OF_TIME, False)
    # Time that is up while layers are taken back leaves what holds.
    time = iter((True, True, False))
    assert restore_until_limit(WORST_FIRST, 0.05, drop_of, lambda: next(time)).target_met


def test_without_time_one_model_is_tried_with_what_was_learnt():
    guess = predicted_layers(WORST_FIRST, LOSSES, drop_of(frozenset()), 0.05)
    assert guess == {1, 3}
    found = restore_until_limit(WORST_FIRST, 0.05, drop_of, lambda: False, guess)
    assert (found.best.float_layers, found.reason, len(found.trials)) == (guess, LIMIT_MET, 2)
    found = restore_until_limit(WORST_FIRST, 0.05, drop_of, lambda: False)
    assert (found.best.float_layers, found.reason, found.target_met) == (frozenset({1}), OUT_OF_TIME, False)


def test_what_is_predicted_shares_the_loss_out():
    # 0.68 points are lost in all; half of what each layer does to the outputs.
    assert predicted_layers(WORST_FIRST, LOSSES, 0.68, 0.3) == {1}
    assert predicted_layers(WORST_FIRST, LOSSES, 0.68, 0.0) == {0, 1, 2, 3}
    assert predicted_layers((2, 0), (0.0, 0.0, 0.0), 0.5, 0.1) == {2}


def test_what_the_whole_has_no_room_for_is_taken_back_the_cheapest_loss_first():
    costs = (10.0, 10.0, 1.0, 10.0)
    whole = {4: 50.0, 3: 45.0, 2: 20.0, 1: 15.0, 0: 0.0}
    tried = []

    def measure(given: frozenset[int]) -> float:
        tried.append(sorted(given))
        return whole[len(given)]

    given = requantize_until_limit(frozenset(range(4)), LOSSES, costs, 31.0, measure)
    # Losses for a unit of cost: 0.001, 0.02, 0.03 and 0.01.
    assert given == (frozenset({1, 2}), 20.0)
    assert tried == [[0, 1, 2, 3], [1, 2, 3], [1, 2]]
    assert requantize_until_limit(frozenset({1}), LOSSES, costs, 1.0, measure, lambda: False) == (
        frozenset({1}),
        15.0,
    )


@settings(max_examples=100)
@given(
    layers=st.lists(st.tuples(st.integers(0, 20), st.integers(-3, 20)), min_size=1, max_size=6),
    budget=st.integers(0, 60),
)
def test_within_a_budget_the_choice_is_that_of_trying_all(layers: list[tuple[int, int]], budget: int):
    losses, costs = zip(*layers, strict=True)
    chosen = restore_within_budget(losses, costs, budget)
    every = itertools.chain.from_iterable(
        itertools.combinations(range(len(layers)), count) for count in range(len(layers) + 1)
    )
    spent = {subset: sum(max(costs[place], 0) for place in subset) for subset in every}
    saved = max(sum(losses[place] for place in subset) for subset, cost in spent.items() if cost <= budget)
    assert sum(max(costs[place], 0) for place in chosen) <= budget
    assert sum(losses[place] for place in chosen) == saved


def test_the_distance_of_logits_is_a_divergence():
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    outputs = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32))
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    labels = task_of("text-classification", DataSpec(path="unused"))
    assert labels.divergence(reference, outputs) == pytest.approx(by_hand / 2, rel=1e-6)
    # Logits are known up to a constant.
    assert labels.divergence(reference, reference + 100) == pytest.approx(0, abs=1e-6)


def test_the_distance_of_embeddings_is_that_of_their_directions():
    reference = np.array([[1, 0], [0, 2]], np.float32)
    outputs = np.array([[3, 0], [1, 1]], np.float32)
    vectors = task_of("sentence-embedding", DataSpec(path="unused"))
    assert vectors.divergence(reference, outputs) == pytest.approx((1 - math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("keys", [{}, {"max_drop": 0.01, "size_mb": 3.0}])
def test_one_thing_decides(keys: dict[str, float]):
    with pytest.raises(ValidationError, match="give exactly one of max_drop, size_mb and latency_ms"):
        MixedSpec.model_validate(keys)


@pytest.mark.parametrize(
    ("product", "only"), [({"bits": 16}, "4 and 8 bits"), ({"library": "bitsandbytes"}, "ONNX")]
)
def test_other_products_are_not_mixed(product: dict[str, Any], only: str):
    with pytest.raises(ValidationError, match=f"mixed serves {only} only"):
        quantize_spec({**product, "mixed": {"max_drop": 0.01}})


def test_blocks_are_mixed_within_a_size_alone():
    with pytest.raises(ValidationError, match="size_mb"):
        quantize_spec({"bits": 4, "mixed": {"max_drop": 0.01}})
    with pytest.raises(ValidationError, match="`mixed` chooses between 4 and 8 bits, but this is `bits: 8`"):
        quantize_spec({"bits": 8, "scheme": "weight_only", "mixed": {"size_mb": 1}})
