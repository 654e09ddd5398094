"""From embeddings to records: correlation, recall, their intervals and verdicts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from compress.core.records import Accuracy
from compress.data.splits import UNLABELLED, Examples
from compress.encoding.tokens import TokenInputs
from compress.measuring.statistics import mean_interval
from compress.measuring.variants import MAX_SCORED_EXAMPLES, sample_for_scoring
from compress.profile.schema import DataSpec
from compress.tasks.base import Scored, Truth, answers_of, task_of
from compress.tasks.sentence_embedding.correlation import paired_correlations, spearman_interval
from compress.tasks.sentence_embedding.record import embedding_record
from compress.tasks.sentence_embedding.similarity import (
    compared_pairs,
    pair_similarities,
    recall_shares,
    similarities,
    spearman,
)

TASK = task_of("sentence-embedding", DataSpec(path="unused"))
BASELINE = Accuracy(
    split="test",
    batch_size=1,
    metrics=(),
    retention=1.0,
    p_value=None,
    verdict=None,
    predictions=(),
    truth=(),
)


def near(reference: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return (reference + noise * chance.normal(size=reference.shape)).astype(np.float32)


def embeddings(n: int, d: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def record(
    outputs: np.ndarray,
    reference: np.ndarray,
    scores: np.ndarray | None = None,
    is_baseline: bool = False,
    **changes: Any,
) -> Accuracy:
    texts = tuple(map(str, range(len(outputs))))
    return record_of(texts, outputs, reference, scores, None if is_baseline else BASELINE, **changes)


def record_of(
    texts: tuple[str, ...],
    outputs: np.ndarray,
    reference: np.ndarray | None,
    scores: np.ndarray | None,
    baseline: Accuracy | None,
    **changes: Any,
) -> Accuracy:
    examples = Examples(texts, np.full(len(texts), UNLABELLED), scores)
    theirs = None if reference is None else answers_of(TASK, reference)
    given = {"batch_size": 1, "seed": 0, "digest": "", **changes}
    return embedding_record(Scored(TASK, answers_of(TASK, outputs), examples, baseline, theirs, **given))


def test_the_baseline_agrees_with_itself() -> None:
    outputs = embeddings(40)
    made = record(outputs, outputs, is_baseline=True, unknown_token_share=0.25, digest="ab")
    assert [metric.name for metric in made.metrics] == ["spearman", "recall_at_10"]
    for metric in made.metrics:
        assert (metric.value, metric.low, metric.high, metric.n) == (1, 1, 1, 40)
    assert (made.retention, made.p_value, made.verdict) == (1.0, None, None)
    assert (made.retention_low, made.retention_high) == (None, None)
    assert (made.predictions, made.truth) == ((), ())
    assert (made.against, made.examples, made.unknown_token_share) == ("baseline", "ab", 0.25)
    assert made == Accuracy.model_validate_json(made.model_dump_json())


def test_a_student_is_scored_against_the_baseline() -> None:
    reference = embeddings(120)
    outputs = near(reference, 0.4)[:, :12]
    made = record(outputs, reference)
    score, recall = made.metrics
    assert score.value == pytest.approx(spearmanr(similarities(outputs), similarities(reference)).statistic)
    assert recall.value == pytest.approx(recall_shares(outputs, reference).mean())
    for metric in made.metrics:
        assert metric.low < metric.value < metric.high < 1
    assert made.retention == score.value
    assert (made.retention_low, made.retention_high) == (score.low, score.high)
    assert (made.verdict, made.p_value) == ("worse", None)


def test_arithmetic_alone_is_no_difference() -> None:
    reference = embeddings(80)
    made = record(near(reference, 1e-4), reference)
    assert made.metrics[0].value < 1
    assert made.verdict == "no difference"


def test_given_scores_are_tested_pair_by_pair() -> None:
    reference = embeddings(400)
    scores = pair_similarities(near(reference, 0.2, seed=5))
    worse, same = (record(near(reference, noise), reference, scores) for noise in (0.8, 0.001))
    value = worse.metrics[0].value
    expected = spearmanr(pair_similarities(near(reference, 0.8)), scores).statistic
    baseline = spearmanr(pair_similarities(reference), scores).statistic
    assert value == pytest.approx(expected)
    assert worse.metrics[0].n == 200
    assert worse.retention == pytest.approx(expected / baseline)
    assert worse.retention_low is not None
    assert worse.retention_high is not None
    assert worse.retention_low < worse.retention < worse.retention_high < 1
    assert worse.p_value is not None
    assert (worse.verdict, worse.against) == ("worse", "scores")
    assert worse.p_value < 0.01
    assert same.verdict == "no difference"
    assert worse.metrics[1].name == "recall_at_10"
    better = record(reference, near(reference, 0.8), scores)
    assert better.verdict == "better"
    itself = record(reference, reference, scores, is_baseline=True)
    assert (itself.retention, itself.p_value, itself.verdict) == (1.0, None, None)


def test_a_baseline_that_follows_no_score_has_no_retention() -> None:
    reference = embeddings(60)
    scores = -pair_similarities(reference)
    made = record(near(reference, 0.1), reference, scores)
    assert (made.retention, made.retention_low) == (None, None)


def test_texts_that_stand_in_several_pairs_are_neighbours_once() -> None:
    reference = np.repeat(embeddings(15), 4, axis=0)
    texts = tuple(np.repeat(list(map(str, range(15))), 4).tolist())
    made = record_of(texts, reference, reference, np.arange(30, dtype=np.float32), BASELINE)
    assert made.metrics[1].n == 15


def test_embeddings_need_those_of_the_baseline() -> None:
    with pytest.raises(ValueError, match="the baseline's embeddings are missing"):
        record_of(tuple("abcd"), embeddings(4), None, None, BASELINE)


def test_the_interval_is_that_of_a_plain_bootstrap_over_texts() -> None:
    reference = embeddings(60)
    outputs = near(reference, 0.5)
    first, second = compared_pairs(60)
    own, theirs = similarities(outputs), similarities(reference)
    found = spearman_interval(spearman(own, theirs), own, theirs, (first, second), seed=0)
    chance = np.random.default_rng(99)
    draws = []
    for _ in range(600):
        times = np.bincount(chance.integers(60, size=60), minlength=60)
        repeated = np.repeat(np.arange(len(own)), times[first] * times[second])
        draws.append(spearmanr(own[repeated], theirs[repeated]).statistic)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.015)
    assert found.high == pytest.approx(high, abs=0.015)


def test_equal_seeds_draw_equal_intervals() -> None:
    reference = embeddings(50)
    assert record(near(reference, 0.4), reference) == record(near(reference, 0.4), reference)


def test_the_mean_of_equal_numbers_is_certain() -> None:
    found = mean_interval(np.full(30, 0.5), seed=0)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    shares = np.random.default_rng(0).random(500)
    spread = mean_interval(shares, seed=0)
    half = 1.96 * shares.std() / np.sqrt(500)
    assert spread.low == pytest.approx(shares.mean() - half, abs=0.004)
    assert spread.high == pytest.approx(shares.mean() + half, abs=0.004)


def test_equal_models_have_p_one() -> None:
    series = np.random.default_rng(0).random((2, 50)).astype(np.float32)
    assert paired_correlations(series[0], series[0], series[1], seed=0).p_value == 1.0


@pytest.mark.slow
def test_two_thousand_texts_take_seconds() -> None:
    reference = embeddings(2000, 64)
    outputs = near(reference, 0.3)
    started = time.process_time()
    made = record(outputs, reference)
    assert time.process_time() - started < 20
    assert made.metrics[0].high - made.metrics[0].low < 0.02


def test_variants_are_scored_on_whole_pairs() -> None:
    pairs = 2 * MAX_SCORED_EXAMPLES
    scores = np.arange(pairs, dtype=np.float32)
    inputs = TokenInputs([np.ones(1, np.int64)] * 2 * pairs, ("input_ids",), 0)
    chosen, truth = sample_for_scoring(inputs, Truth(np.full(2 * pairs, UNLABELLED), scores), seed=0)
    assert len(chosen) == MAX_SCORED_EXAMPLES
    assert truth.scores is not None
    assert np.array_equal(chosen[0::2], 2 * truth.scores.astype(np.int64))
    assert np.array_equal(chosen[1::2], chosen[0::2] + 1)
