"""A metric of which less is better: retention, budget, front, check, verdicts and words follow it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from compress.core import task_kind as kinds
from compress.core.records import Accuracy, Metric, RunRecord
from compress.core.task_kind import MetricKind, TaskKind
from compress.engine.budget import judge
from compress.profile.specs.budget import BudgetSpec
from compress.reporting.checking import Tolerances, check
from compress.reporting.data.frame import contract
from compress.reporting.data.paired import paired_test
from compress.reporting.data.pareto import dominated_by
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.scores import metric_format
from compress.reporting.sections.headline import limit_words
from compress.tasks import table
from compress.tasks.base import Score
from tests.records import bert_run
from tests.terminal import printed

PERPLEXITY = MetricKind("perplexity", "perplexity", percent=False, smaller_is_better=True)
KIND = TaskKind(
    name="text-prediction",
    items="text",
    head="own",
    source="unused",
    data="unused",
    task="unused",
    record="unused",
    metrics=(PERPLEXITY, kinds.ACCURACY),
    label_loss=None,
    bundle="unused",
    starter="unused",
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch):
    """The task as a row of the table, as a distribution would add it."""
    built_in = {**dict.fromkeys((KIND.name,), f"{__name__}:KIND"), **table.TASKS._built_in}
    monkeypatch.setattr(table.TASKS, "_built_in", built_in)
    yield
    table.TASKS._loaded.pop(KIND.name, None)


def scored(value: float, width: float = 0.1) -> Accuracy:
    metric = Metric(
        name="perplexity", value=value, low=value - width, high=value + width, n=100, smaller_is_better=True
    )
    return Accuracy(
        split="test",
        batch_size=1,
        metrics=(metric,),
        retention=PERPLEXITY.retention(value, 10.0),
        p_value=None,
        verdict=None,
        predictions=(),
        truth=(),
        against="scores",
        examples="e",
    )


def run_of(*values: float) -> RunRecord:
    """A run whose steps have these perplexities, the baseline first."""
    run = bert_run()
    steps = []
    for step, value in zip(run.steps, values, strict=False):
        found = tuple(one.model_copy(update={"accuracy": scored(value)}) for one in step.measurements)
        steps.append(step.model_copy(update={"measurements": found}))
    return run.model_copy(
        update={"steps": tuple(steps), "metric": "perplexity", "task": KIND.name, "limits": ()}
    )


def test_retention_is_the_baseline_over_the_value():
    assert PERPLEXITY.retention(12.5, 10.0) == 0.8
    assert kinds.ACCURACY.retention(0.8, 1.0) == 0.8
    assert PERPLEXITY.retention(0.0, 1.0) is None
    assert kinds.ACCURACY.retention(1.0, 0.0) is None


def test_passes_compare_minus_the_value():
    assert Score(PERPLEXITY, 12.0).rank < Score(PERPLEXITY, 11.0).rank
    assert Score(kinds.ACCURACY, 0.9).rank == 0.9
    assert metric_format("perplexity").from_rank(-12.0) == 12.0


def test_a_loss_is_a_share_of_what_has_no_bound():
    # As much as retention lacks; of shares and correlations a difference.
    assert PERPLEXITY.degradation(-20.0, -25.0) == pytest.approx(1 - PERPLEXITY.retention(25.0, 20.0))  # type: ignore[operator]
    assert PERPLEXITY.degradation(-25.0, -20.0) == pytest.approx(-0.2)
    assert PERPLEXITY.degradation(-20.0, -math.inf) == 1
    assert PERPLEXITY.degradation(0.0, 0.0) == 0
    assert kinds.ACCURACY.degradation(0.9, 0.8) == pytest.approx(0.1)
    error = MetricKind("error", "error", smaller_is_better=True)
    assert error.degradation(error.rank(0.1), error.rank(0.2)) == pytest.approx(0.1)
    assert (PERPLEXITY.loss_unit, error.loss_unit) == ("%", "points")


@pytest.mark.parametrize(("limit", "held"), [(12.0, True), (11.0, False)])
def test_a_limit_of_the_score_is_a_ceiling(limit: float, held: bool):
    run = run_of(10.0, 11.5)
    (judged,) = judge(run.steps[1], BudgetSpec(score=limit))
    assert judged.held is held
    assert "the limit is at most" in limit_words(judged, "perplexity")
    assert "the limit is at least" in limit_words(judged, "accuracy")


@pytest.mark.parametrize(("control", "beaten"), [(9.0, ("distill (control)",)), (11.0, ())])
def test_the_front_holds_the_smaller_score(control: float, beaten: tuple[str, ...]):
    # The control is a little faster, and as large.
    run = run_of(10.0, 10.0, control)
    by_name = dict(zip((step.step for step in ordered_steps(run)), dominated_by(run), strict=True))
    assert by_name["distill"] == beaten


@pytest.mark.parametrize(("now", "worse"), [(11.0, True), (10.06, True), (10.04, False), (9.0, False)])
def test_a_check_fails_where_it_rose(now: float, worse: bool):
    before, after = (contract(run_of(10.0, value)) for value in (10.0, now))
    lines: list[Any] = [line for line in check(after, before, Tolerances()).lines if line.quantity == "score"]
    assert [line.worse for line in lines if line.step == before["rows"][-1]["step"]] == [worse]


def test_a_check_says_the_share_that_it_rose_by():
    before, after = (contract(run_of(24.0, value)) for value in (24.0, 25.0))
    shown = printed(check(after, before, Tolerances(), deployed_only=True).table(), width=120)
    assert re.search(r"24\.000 +25\.000 +\+4\.00 % +\+0\.50 %", shown), shown


def test_the_smaller_of_two_that_lie_apart_is_better():
    first, second = scored(10.0), scored(11.0)
    assert paired_test(first, second).verdict == "worse"  # type: ignore[union-attr]
    assert paired_test(second, first).verdict == "better"  # type: ignore[union-attr]


def test_a_report_says_the_direction_of_those_metrics_alone(tmp_path: Path):
    metric = contract(run_of(10.0, 11.0))["rows"][0]["targets"][0]["metrics"][0]
    assert metric["smaller_is_better"] is True
    assert "smaller_is_better" not in contract(bert_run())["rows"][0]["targets"][0]["metrics"][0]
