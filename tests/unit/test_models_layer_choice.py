from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ModelError
from compress.models.students.layer_choice import LayerStrategy, choose_layers


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(1, (5,)), (2, (2, 5)), (3, (1, 3, 5)), (4, (0, 2, 3, 5)), (6, (0, 1, 2, 3, 4, 5)), ((4, 0), (4, 0))],
)
def test_layers_are_evenly_spread_or_as_given(
    wanted: int | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert choose_layers(wanted, 6) == expected


@pytest.mark.parametrize(
    ("how", "expected"), [("first", (0, 1)), ("last", (4, 5)), ("uniform", (2, 5)), ("similarity", (1, 4))]
)
def test_a_number_of_layers_is_chosen_as_asked(how: LayerStrategy, expected: tuple[int, ...]) -> None:
    assert choose_layers(2, 6, how, (0.1, 0.5, 0.2, 0.2, 0.3, 0.2)) == expected


def test_of_layers_that_change_the_stream_alike_the_lower_stays() -> None:
    assert choose_layers(2, 4, "similarity", (0.2, 0.2, 0.2, 0.2)) == (0, 1)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=12), st.data())
def test_no_layer_left_out_changes_more_than_one_that_stays(
    influence: list[float], data: st.DataObject
) -> None:
    wanted = data.draw(st.integers(1, len(influence)))
    kept = choose_layers(wanted, len(influence), "similarity", influence)
    assert list(kept) == sorted(set(kept))
    assert len(kept) == wanted
    left = [value for layer, value in enumerate(influence) if layer not in kept]
    assert not left or max(left) <= min(influence[layer] for layer in kept)


def test_given_layers_are_taken_whatever_the_choice_says() -> None:
    assert choose_layers((3, 1), 4, "similarity") == (3, 1)


@pytest.mark.parametrize("wanted", [7, (0, 6), (1, 1), (), (-1,)])
def test_layers_that_the_teacher_lacks_are_refused(wanted: int | tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="layers"):
        choose_layers(wanted, 6)


def test_similarity_without_anything_to_compare_on_is_refused() -> None:
    with pytest.raises(ModelError, match="no") as error:
        choose_layers(2, 6, "similarity")
    assert "choose: uniform" in str(error.value)
