from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ModelError
from compress.training.objective.terms import layer_pairs

counts = st.integers(1, 24)


def test_uniform_is_tinyberts_map() -> None:
    # TinyBERT: layer m of 4 learns from layer 3 m of 12, counted from 1
    assert layer_pairs("hidden", "uniform", 4, 12) == ((0, 2), (1, 5), (2, 8), (3, 11))
    assert layer_pairs("hidden", "uniform", 2, 3) == ((0, 0), (1, 2))


def test_last_pairs_the_last_layers() -> None:
    assert layer_pairs("hidden", "last", 2, 6) == ((1, 5),)


def test_a_deeper_student_is_mapped_the_other_way_round() -> None:
    assert layer_pairs("hidden", "uniform", 6, 2) == ((2, 0), (5, 1))


@given(counts, counts)
def test_uniform_pairs_rise_stay_in_range_and_end_with_the_last(student: int, teacher: int) -> None:
    pairs = layer_pairs("hidden", "uniform", student, teacher)
    assert len(pairs) == min(student, teacher)
    assert pairs[-1] == (student - 1, teacher - 1)
    assert pairs[0][0] >= 0
    assert pairs[0][1] >= 0
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))


def test_given_pairs_are_taken_as_they_are() -> None:
    assert layer_pairs("hidden", ((0, 3), (0, 5)), 2, 6) == ((0, 3), (0, 5))


def test_a_pair_out_of_range_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match=r"\[1, 6\] names layer 6 of the teacher, whose layers are 0 to 5"):
        layer_pairs("hidden", ((0, 0), (1, 6)), 2, 6)
    with pytest.raises(ModelError, match="layer 2 of the student, whose layers are 0 to 1"):
        layer_pairs("hidden", ((2, 0),), 2, 6)
