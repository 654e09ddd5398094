"""Similarities of embeddings against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from compress.core.errors import ModelError
from compress.data.splits import UNLABELLED, Examples
from compress.profile.schema import DataSpec
from compress.tasks.base import Truth, score_of, task_of
from compress.tasks.sentence_embedding.similarity import (
    compared_pairs,
    pair_similarities,
    recall_shares,
    similarities,
    spearman,
    unit_vectors,
    weighted_spearman,
)

TASK = task_of("sentence-embedding", DataSpec(path="unused"))
seeds = st.integers(0, 2**32 - 1)


def embeddings(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def cosines(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    return wide @ wide.T / np.outer(lengths, lengths)


def truth(n: int, **values: np.ndarray) -> Truth:
    return Truth(np.full(n, UNLABELLED), **values)


def test_spearman_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6.
    first, second = np.array([1, 2, 3, 4], np.float32), np.array([5, 1, 9, 7], np.float32)
    assert spearman(first, second) == pytest.approx(0.6)
    assert spearman(first, first) == 1.0
    assert spearman(first, -first) == -1.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=60))
def test_spearman_shares_the_ranks_of_ties_as_scipy_does(rows: list[tuple[int, int]]) -> None:
    first, second = np.array(rows, np.float32).T
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) == 0.0
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)), min_size=4, max_size=40))
def test_weights_stand_for_repeated_items(rows: list[tuple[int, int, int]]) -> None:
    first, second, times = np.array(rows, np.int64).T
    ones, twos = (np.repeat(side, times).astype(np.float32) for side in (first, second))
    expected = spearman(ones, twos) if len(ones) else 0.0
    assert weighted_spearman(first, second, times.astype(float)) == pytest.approx(expected, abs=1e-9)


def test_series_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="series of shapes"):
        spearman(np.zeros(3, np.float32), np.zeros(4, np.float32))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 10, 11, 64])
def test_all_pairs_of_few_texts_are_compared_once(n: int) -> None:
    first, second = compared_pairs(n)
    pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(first) == len(pairs) == n * (n - 1) // 2
    assert all(len(pair) == 2 for pair in pairs)


def test_of_many_texts_evenly_chosen_pairs_are_compared() -> None:
    first, second = compared_pairs(1000, max_pairs=5000)
    assert len({frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}) == 5000
    assert set(np.bincount(np.concatenate([first, second])).tolist()) == {10}
    assert np.array_equal(first, compared_pairs(1000, max_pairs=5000)[0])


@pytest.mark.parametrize(("n", "most"), [(7, 1000), (8, 1000), (40, 100)])
def test_similarities_are_cosines_of_the_compared_pairs(n: int, most: int) -> None:
    vectors = embeddings(n)
    assert similarities(vectors, most) == pytest.approx(cosines(vectors)[compared_pairs(n, most)], abs=1e-6)


def test_a_zero_vector_is_like_nothing() -> None:
    vectors = np.array([[0, 0], [3, 4], [3, 4]], np.float32)
    assert unit_vectors(vectors)[1].tolist() == pytest.approx([0.6, 0.8])
    assert sorted(similarities(vectors).tolist()) == pytest.approx([0, 0, 1])


def test_pairs_stand_one_behind_the_other() -> None:
    vectors = np.array([[1, 0], [0, 2], [1, 1], [2, 2]], np.float32)
    assert pair_similarities(vectors).tolist() == pytest.approx([0, 1])


def test_the_score_is_that_of_all_pairs_of_texts() -> None:
    outputs, reference = embeddings(30, 5), embeddings(30, 9, seed=1)
    reference[:, :5] += 2 * outputs
    upper = np.triu_indices(30, 1)
    expected = spearmanr(cosines(outputs)[upper], cosines(reference)[upper]).statistic
    score = score_of(TASK, outputs, truth(30, reference=reference))
    assert (score.metric.name, score.value) == ("spearman", pytest.approx(expected, abs=1e-6))


def test_given_scores_go_before_the_reference() -> None:
    outputs = embeddings(12)
    scores = np.array([1, 5, 2, 2, 4, 0], np.float32)
    expected = spearmanr(cosines(outputs)[np.arange(0, 12, 2), np.arange(1, 12, 2)], scores).statistic
    found = score_of(TASK, outputs, truth(12, scores=scores, reference=embeddings(12, seed=3)))
    assert found.value == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(0.01, 100))
def test_neither_rotation_nor_scale_of_embeddings_changes_the_scores(seed: int, scale: float) -> None:
    chance = np.random.default_rng(seed)
    outputs, reference = chance.normal(size=(2, 40, 6))
    turned, _ = np.linalg.qr(chance.normal(size=(6, 6)))
    changed = (scale * outputs @ turned).astype(np.float32)
    outputs, reference = outputs.astype(np.float32), reference.astype(np.float32)
    before, after = (
        score_of(TASK, each, truth(40, reference=reference)).value for each in (outputs, changed)
    )
    assert after == pytest.approx(before, abs=1e-4)
    assert recall_shares(changed, reference).mean() == pytest.approx(
        recall_shares(outputs, reference).mean(), abs=0.006
    )


def test_the_same_embeddings_score_one() -> None:
    outputs = embeddings(50)
    assert score_of(TASK, outputs, truth(50, reference=outputs)).value == 1.0
    assert recall_shares(outputs, outputs).tolist() == [1.0] * 50


def test_collapsed_embeddings_order_nothing() -> None:
    same = np.ones((20, 4), np.float32)
    assert score_of(TASK, same, truth(20, reference=embeddings(20))).value == 0.0


def test_recall_by_brute_force() -> None:
    outputs, reference = embeddings(60, 4), embeddings(60, 7, seed=1)
    expected = []
    for near, wanted in zip(cosines(outputs), cosines(reference), strict=True):
        # The text itself comes first.
        found = set(np.argsort(-near)[1:11]) & set(np.argsort(-wanted)[1:11])
        expected.append(len(found) / 10)
    assert recall_shares(outputs, reference).tolist() == pytest.approx(expected)


def test_of_few_texts_all_others_are_neighbours() -> None:
    assert recall_shares(embeddings(5), embeddings(5, seed=1)).tolist() == [1.0] * 5


def test_outputs_that_are_no_numbers_are_refused() -> None:
    outputs = embeddings(4)
    outputs[2, 1] = np.nan
    with pytest.raises(ModelError, match="not finite numbers"):
        score_of(TASK, outputs, truth(4, reference=embeddings(4)))


def test_the_task_says_what_it_needs() -> None:
    none = np.full(4, UNLABELLED)
    texts = ("a", "b", "c", "d")
    assert TASK.needs_reference(Examples(texts, none))
    assert not TASK.needs_reference(Examples(texts, none, np.zeros(2, np.float32)))
    assert TASK.kind.label_loss is None
    with pytest.raises(ValueError, match="neither given scores nor the teacher's outputs"):
        score_of(TASK, embeddings(4), truth(4))
