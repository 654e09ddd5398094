import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.records import Metric
from compress.measuring.statistics import mcnemar_exact as mcnemar
from compress.reporting.data.paired import PairedCounts, paired_counts, ratio_interval, retention_interval
from tests.records import accuracy, predictions_of, truth_of

counts = st.integers(min_value=0, max_value=300)


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == 2 / 2**5
    assert mcnemar(1, 3) == 2 * (1 + 4) / 2**4
    assert mcnemar(4, 4) == 1.0


@given(counts, counts)
def test_mcnemar_is_a_probability_and_takes_no_side(lost, gained):
    assert 0 < mcnemar(lost, gained) <= 1
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_verdicts():
    assert PairedCounts(100, 5, 4).test.verdict == "no difference"
    assert PairedCounts(100, 20, 4).test.verdict == "worse"
    assert PairedCounts(100, 4, 20).test.verdict == "better"


def test_ratio_interval_by_hand():
    # 9 examples, 8 and 2 right: z = 1.96 * sqrt(10 / 27) / (sqrt(2 / 99) + sqrt(8 / 33)) = 1.880, whose Wilson
    # intervals are 0.5796 to 0.9789 and 0.0663 to 0.5348.
    low, high = ratio_interval(PairedCounts(both=1, lost=7, gained=1))
    assert low == pytest.approx(0.0663 / 0.9789, abs=2e-4)
    assert high == pytest.approx(0.5348 / 0.5796, abs=2e-4)


@given(st.integers(min_value=1, max_value=3000), counts, counts)
def test_ratio_interval_holds_the_ratio(both, lost, gained):
    low, high = ratio_interval(PairedCounts(both, lost, gained))
    assert 0 < low <= (both + gained) / (both + lost) <= high


def test_ratio_interval_has_a_width_without_discordant_examples():
    low, high = ratio_interval(PairedCounts(400, 0, 0))
    assert low < 1 < high
    assert ratio_interval(PairedCounts(0, 0, 3)) is None


def test_ratio_interval_covers_the_truth_in_about_95_of_100_samples():
    chance, hits, draws = random.Random(0), 0, 400
    both, lost, gained = 0.93, 0.035, 0.02
    for _ in range(draws):
        kinds = chance.choices(range(4), (both, lost, gained, 1 - both - lost - gained), k=445)
        low, high = ratio_interval(PairedCounts(kinds.count(0), kinds.count(1), kinds.count(2)))
        hits += low <= (both + gained) / (both + lost) <= high
    assert 0.92 <= hits / draws <= 0.985


def test_models_on_other_examples_are_not_paired():
    truth = truth_of(50)
    one = accuracy(predictions_of(truth, 4), truth, None)
    assert paired_counts(one, accuracy(predictions_of(truth[:40], 4), truth[:40], None)) is None
    assert paired_counts(one, None) is None
    assert paired_counts(one, one) == PairedCounts(46, 0, 0)


def test_no_retention_interval_where_the_metric_is_not_the_share_of_hits():
    truth = truth_of(50)
    one = accuracy(predictions_of(truth, 4), truth, None)
    other = accuracy(
        predictions_of(truth, 6),
        truth,
        one,
        metrics=(Metric(name="macro_f1", value=0.7, low=0.6, high=0.8, n=50),),
    )
    assert retention_interval(one, other) is None
    assert retention_interval(one, one) is not None
