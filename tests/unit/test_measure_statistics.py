from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t
from sklearn.metrics import f1_score

from compress.measuring.statistics import (
    bootstrap_medians,
    bootstrap_p_value,
    bootstrap_ratios,
    macro_f1_interval,
    mcnemar_exact,
    mean_interval,
    percentile,
    percentile_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(90, 100, 0.8256, 0.9448), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_wilson_matches_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert interval.value == successes / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share_and_stays_a_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    interval = wilson_interval(successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    mirrored = wilson_interval(n - successes, n)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 2 * (1 + 10) / 1024), (4, 4, 1.0)]
)
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert mcnemar_exact(first, second) == pytest.approx(p)


@settings(deadline=None)
@given(st.integers(0, 1500), st.integers(0, 1500))
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected, abs=1e-9)
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_percentile_interpolates() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 95) == pytest.approx(4.8)


def test_a_constant_ratio_has_a_narrow_interval() -> None:
    generator = np.random.default_rng(0)
    model = [generator.lognormal(0, 0.3, 80) for _ in range(4)]
    _, ratio = bootstrap_medians([3 * group for group in model], model, seed=0)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((3, 3, 3), rel=1e-6)


def test_the_median_and_its_interval() -> None:
    p50, ratio = bootstrap_medians([np.array([2.0, 2.0, 2.0])], [np.array([1.0, 2.0, 4.0])], seed=0)
    assert (p50.low, p50.value, p50.high) == (1, 2, 4)
    assert (ratio.low, ratio.value, ratio.high) == (0.5, 1, 2)


def test_processes_that_disagree_widen_the_interval() -> None:
    generator = np.random.default_rng(1)
    model = [generator.normal(10, 0.01, 500) for _ in range(4)]
    baseline = [group * bias for group, bias in zip(model, (0.95, 1.05, 0.95, 1.05), strict=True)]
    _, ratio = bootstrap_medians(baseline, model, seed=0)
    assert ratio.low < 0.96
    assert ratio.high > 1.04


def test_the_interval_holds_the_ratio_of_processes_at_two_speeds() -> None:
    # The middle of all is where the slow ones begin, which is the middle of hardly any draw.
    model = [np.linspace(6.5, 6.9, 46), np.linspace(7.18, 7.7, 47)]
    baseline = [np.linspace(24.3, 24.5, 46), np.linspace(24.6, 28, 47)]
    _, ratio = bootstrap_medians(baseline, model, seed=0)
    assert ratio.low <= ratio.value <= ratio.high


def test_a_process_counts_by_its_rounds() -> None:
    # Three processes with few slow rounds beside one with many: the interval is about the rounds of all.
    model = [np.full(3000, 1.0), np.full(10, 2.0), np.full(10, 2.0), np.full(10, 2.0)]
    p50, ratio = bootstrap_medians([3 * np.ones_like(group) for group in model], model, seed=0, resamples=200)
    assert (p50.value, p50.low, p50.high) == (1.0, 1.0, 1.0)
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 3.0, 3.0)


def test_equal_seeds_draw_equally() -> None:
    groups = [np.random.default_rng(2).lognormal(0, 0.3, 50)]
    other = [groups[0][::-1]]
    assert bootstrap_medians(groups, other, 7) == bootstrap_medians(groups, other, 7)
    assert bootstrap_medians(groups, other, 7) != bootstrap_medians(groups, other, 8)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    held = 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        noise = generator.lognormal(0, 0.1, (4, 60))
        baseline = list(1.5 * noise * generator.lognormal(0, 0.05, (4, 60)))
        model = list(noise * generator.lognormal(0, 0.05, (4, 60)))
        _, ratio = bootstrap_medians(baseline, model, seed=trial, resamples=400)
        held += ratio.low <= 1.5 <= ratio.high
    assert held >= 180


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([np.ones(2)], [np.ones(3)]), ([np.ones(0)], [np.ones(0)])]
)
def test_series_must_pair_up(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="pair up"):
        bootstrap_medians(first, second, 0)


def test_two_thousand_resamples_of_five_hundred_take_no_time() -> None:
    groups = [np.random.default_rng(3).lognormal(0, 0.3, 125) for _ in range(4)]
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        bootstrap_medians(groups, groups, 0, resamples=2000)
        spent.append(time.perf_counter() - started)
    assert min(spent) < 0.2


def test_no_interval_is_made_of_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="not a number"):
        percentile_interval(1.0, np.array([0.9, np.nan, 1.1]))


def _documents(trial: int, documents: int) -> tuple[np.ndarray, ...]:
    """Tokens of documents of very different lengths, and of two equally good models the nats of each."""
    generator = np.random.default_rng(trial)
    tokens = np.maximum(generator.lognormal(5, 0.8, documents).round(), 2)
    each = generator.normal(3, 0.4, documents)
    one, two = (tokens * (each + generator.normal(0, 0.05, documents)) for _ in range(2))
    return tokens, one, two


@pytest.mark.parametrize("documents", [2, 3, 6, 20])
def test_few_documents_seldom_tell_two_equally_good_models_apart(documents: int) -> None:
    found = 0
    for trial in range(100):
        tokens, one, two = _documents(trial, documents)
        (first, second), drawn_from = bootstrap_ratios([(one, tokens), (two, tokens)], trial)
        share = float(min((first <= second).mean(), (first >= second).mean()))
        found += bootstrap_p_value(share, len(first), drawn_from) < 0.05
    assert found <= 12


def test_the_interval_of_few_documents_holds_the_mean_about_as_often_as_it_says() -> None:
    held = 0
    for trial in range(200):
        tokens, one, _ = _documents(trial, 6)
        (draws,), drawn_from = bootstrap_ratios([(one, tokens)], trial)
        interval = percentile_interval(float(one.sum() / tokens.sum()), draws, drawn_from)
        held += interval.low <= 3 <= interval.high
    assert held >= 180


def test_the_interval_of_few_is_about_that_of_student() -> None:
    values = np.random.default_rng(3).normal(5, 1, 12)
    low, high = t.interval(0.95, 11, values.mean(), values.std(ddof=1) / np.sqrt(12))
    interval = mean_interval(values, seed=0)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.1)


def test_a_p_value_of_draws() -> None:
    # Of many units twice the tail; of few more; never 0; and a single unit proves nothing.
    assert bootstrap_p_value(0.01, 20_000, 5000) == pytest.approx(0.02, rel=0.02)
    assert bootstrap_p_value(0.01, 20_000, 6) > 0.05
    assert bootstrap_p_value(0.0, 2000, 5000) == pytest.approx(0.001, rel=0.02)
    assert bootstrap_p_value(0.0, 2000, 1) == 1.0
    assert bootstrap_p_value(0.5, 2000, 10) == 1.0


def test_macro_f1_by_hand() -> None:
    # class 0: precision 1, recall 1/2; class 1: precision 2/3, recall 1
    interval = macro_f1_interval(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), seed=0)
    assert interval.value == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_perfect_predictions_of_few_examples_leave_a_doubt() -> None:
    truth = np.arange(20) % 2
    assert macro_f1_interval(truth, truth, seed=0) == wilson_interval(20, 20)
    assert macro_f1_interval(1 - truth, truth, seed=0) == wilson_interval(0, 20)
    held = 0
    for trial in range(100):
        generator = np.random.default_rng(trial)
        predicted = np.where(generator.random(20) < 0.95, truth, 1 - truth)
        interval = macro_f1_interval(predicted, truth, trial, resamples=200)
        held += interval.low <= 0.95 <= interval.high
    assert held >= 90


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_macro_f1_agrees_with_the_task(pairs: list[tuple[int, int]]) -> None:
    predicted, truth = (np.array(column) for column in zip(*pairs, strict=True))
    interval = macro_f1_interval(predicted, truth, seed=0, resamples=20)
    assert interval.value == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
