import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.reporting.render import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.31234, "0.312"),
        (13.01, "13.0"),
        (1234.5, "1234"),
        (90.95, "91.0"),
        (0.0, "0"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (-0.5, "-0.500"),
    ],
)
def test_significant(value, text):
    assert numbers.significant(value) == text


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_significant_is_within_half_a_unit_of_the_third_digit(value):
    assert float(numbers.significant(value)) == pytest.approx(value, rel=0.0051)


def test_percentages():
    assert numbers.percent(0.9412) == "94.1 %"
    assert numbers.percent(math.nan) == "–"
    assert numbers.percent_range(0.921, 0.9575) == "92.1–95.8 %"
    assert numbers.percent_range(0.921, None) == ""
    assert numbers.percent_range(math.nan, 1.0) == ""


@pytest.mark.parametrize(
    ("difference", "text"), [(-0.0123, "−1.2"), (0.005, "+0.5"), (0.0, "0.0"), (-0.0001, "0.0"), (None, "–")]
)
def test_points_are_signed_and_zero_is_not(difference, text):
    assert numbers.points(difference) == text


def test_factors_counts_and_p_values():
    assert numbers.times(21.34) == "21.3×"
    assert numbers.times_range(0.98, 1.043) == "0.980–1.04×"
    assert numbers.count(22713216) == "22,713,216"
    assert numbers.count(None) == "–"
    assert numbers.p_value(0.00002) == "p < 0.001"
    assert numbers.p_value(0.0312) == "p = 0.031"
    assert numbers.p_value(1.0) == "p = 1"
    assert numbers.p_value(None) == ""
