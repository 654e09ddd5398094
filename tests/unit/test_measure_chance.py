"""A baseline that is no better than always giving the most frequent answer: said first, and nothing is held."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from compress.core.records import Accuracy, RunRecord, StepRecord
from compress.engine.budget import BASELINE_AT_CHANCE, judge, measured_values, run_status
from compress.measuring.chance import (
    VALIDATION_FACT,
    PairedComparison,
    compare_with_most_frequent,
    most_frequent_label,
    no_better_than_chance,
)
from compress.profile.specs.budget import BudgetSpec
from compress.reporting.checking import Tolerances, check
from compress.reporting.data.frame import contract
from compress.reporting.render.terminal import RunTable, summary_lines
from compress.reporting.sections.content import document
from compress.reporting.sections.headline import status_words, tiles, verdicts
from tests.records import LABELS, accuracy, bert_run, embedding_accuracy, embedding_run, measurement
from tests.terminal import printed

# 72 % of the examples have the first label.
TRUTH = (0,) * 72 + (1,) * 28


def run_of(predictions: tuple[int, ...], truth: tuple[int, ...] = TRUTH, **facts: object) -> RunRecord:
    """A run whose teacher answers so, and everything after it as well."""
    teacher = accuracy(predictions, truth, None)
    run = bert_run()

    def answering(step: StepRecord) -> StepRecord:
        baseline = None if step.role == "baseline" else teacher
        scores = accuracy(predictions, truth, baseline)
        found = measurement(scores, step.measurements[0].latency[0].p50_ms, 12.4, 6.0)
        made = step.facts | facts if baseline is None else step.facts
        return step.model_copy(update={"measurements": (found,), "facts": made})

    return run.model_copy(update={"steps": tuple(map(answering, run.steps))})


CONSTANT = run_of((0,) * 100)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_test_is_the_exact_one(gained: int, lost: int) -> None:
    expected = 1.0
    if gained + lost:
        expected = binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue
    assert PairedComparison(gained, lost).p_value == pytest.approx(expected, rel=1e-6, abs=1e-15)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_it_counts_what_only_one_of_the_two_gets_right(pairs: list[tuple[int, int]]) -> None:
    predictions, truth = zip(*pairs, strict=True)
    found = compare_with_most_frequent(predictions, truth)
    answer = most_frequent_label(truth)
    right = sum(a == b for a, b in pairs)
    # The difference of the two is that of their hits.
    assert found.gained - found.lost == right - truth.count(answer)
    assert max(map(truth.count, truth)) == truth.count(answer)


def test_thousands_of_examples_do_not_overflow() -> None:
    assert PairedComparison(3000, 2000).p_value == 0
    assert PairedComparison(2500, 2500).p_value == pytest.approx(0.505, abs=0.01)


@pytest.mark.parametrize(
    ("wrong_of_0", "right_of_1", "useless"),
    [
        (0, 0, True),  # the constant teacher
        (0, 4, True),  # 4 : 0, p = 0.0625
        (0, 5, False),  # 5 : 0, p = 0.031
        (10, 10, True),
        (10, 19, True),  # p = 0.068
        (10, 21, False),  # p = 0.035
        (30, 28, True),
        (72, 28, True),
    ],
)
def test_a_teacher_is_of_use_where_it_is_better_than_one_answer(
    wrong_of_0: int, right_of_1: int, useless: bool
) -> None:
    predictions = (1,) * wrong_of_0 + (0,) * (72 - wrong_of_0) + (1,) * right_of_1 + (0,) * (28 - right_of_1)
    assert (no_better_than_chance(run_of(predictions).steps[0]) is not None) is useless


def test_the_validation_split_counts_too() -> None:
    predictions = (0,) * 72 + (1,) * 3 + (0,) * 25
    assert no_better_than_chance(run_of(predictions).steps[0])
    assert not no_better_than_chance(
        run_of(predictions, **{VALIDATION_FACT: {"gained": 4, "lost": 0}}).steps[0]
    )
    assert no_better_than_chance(run_of(predictions, **{VALIDATION_FACT: {"gained": 4, "lost": 9}}).steps[0])
    words = no_better_than_chance(CONSTANT.steps[0], LABELS)
    assert words is not None
    assert "always answering 'business': it gets 72 of 100 test examples right, that answer gets 72" in words


def test_it_is_said_first_and_no_retention_is_given() -> None:
    assert summary_lines(CONSTANT)[0].plain.startswith("The baseline is no better than always answering")
    assert verdicts(CONSTANT)[0] == summary_lines(CONSTANT)[0].plain
    assert "class_weights: balanced" in verdicts(CONSTANT)[0]
    assert status_words(CONSTANT)[1] == "bad"
    assert (tiles(CONSTANT)[0].value, tiles(CONSTANT)[0].tone) == ("useless", "bad")
    assert not any("kept" in tile.label for tile in tiles(CONSTANT))
    assert "100.0 %" not in printed(RunTable(CONSTANT))
    body = contract(CONSTANT)
    assert {row["retention"] for row in body["rows"]} == {None}
    assert {found["retention"] for row in body["rows"] for found in row["targets"]} == {None}
    assert body["baseline_fault"] in body["notes"][0]
    assert document(CONSTANT).verdicts[0] == verdicts(CONSTANT)[0]
    fine = contract(bert_run())
    assert (fine["baseline_fault"], fine["notes"]) == (None, [])
    assert fine["rows"][0]["retention"] == 1.0


def test_nothing_is_held_and_what_is_missed_is_missed() -> None:
    budget = BudgetSpec(retention=0.9, score=0.5, size_mb=6, peak_memory_mb=1)
    limits = judge(CONSTANT.steps[-1], budget, CONSTANT.steps[0])
    assert {limit.name: limit.held for limit in limits} == {
        "retention": None,
        "score": None,
        "size_mb": None,
        "peak_memory_mb": False,
    }
    assert {limit.name: limit.value for limit in limits}["retention"] is None
    assert {limit.reason for limit in limits if limit.held is None} == {BASELINE_AT_CHANCE}
    assert run_status([limit for limit in limits if limit.held is None]) == "not_judged"
    assert measured_values(CONSTANT.steps[-1], at_chance=True)["retention"] is None
    run = CONSTANT.model_copy(update={"limits": limits, "status": run_status(limits)})
    said = "\n".join(line.plain for line in summary_lines(run))
    assert "not judged  export: retention withheld, the limit is at least 90.0 %" in said
    assert "MISSED  export: peak_memory_mb" in said
    shown = document(run)
    assert "budget" in {section.key for section in shown.sections}
    good = bert_run()
    assert all(limit.held for limit in judge(good.steps[-1], BudgetSpec(retention=0.9), good.steps[0]))


def test_a_check_holds_nothing_either() -> None:
    found = check(contract(CONSTANT), contract(CONSTANT), Tolerances())
    assert found.lines
    assert found.unjudged == found.lines
    assert found.as_dict()["ok"] is False
    older = json.loads(json.dumps(contract(bert_run())))
    del older["baseline_fault"]
    assert not check(older, older, Tolerances()).unjudged


def scored_pairs(low: float) -> RunRecord:
    run = embedding_run()
    scores: Accuracy = embedding_accuracy(low + 0.004, 0.5, against="scores", retention=1.0)
    (found,) = run.steps[0].measurements
    baseline = run.steps[0].model_copy(
        update={"measurements": (found.model_copy(update={"accuracy": scores}),)}
    )
    return run.model_copy(update={"steps": (baseline, *run.steps[1:])})


@pytest.mark.parametrize(("low", "useless"), [(-0.1, True), (0.0, True), (0.01, False), (0.7, False)])
def test_a_correlation_whose_interval_holds_0_is_of_no_use(low: float, useless: bool) -> None:
    run = scored_pairs(low)
    assert (no_better_than_chance(run.steps[0]) is not None) is useless
    held = {limit.held for limit in judge(run.steps[-1], BudgetSpec(size_mb=6), run.steps[0])}
    assert held == ({None} if useless else {True})
    if useless:
        assert "class_weights" not in verdicts(run)[0]


def test_embeddings_that_are_compared_with_the_baseline_itself_have_no_such_test() -> None:
    assert no_better_than_chance(embedding_run().steps[0]) is None
    assert no_better_than_chance(None) is None
