import json
import math

import pandas as pd
import pytest

from compress.core.records import Limit, RunRecord
from compress.reporting.data.frame import contract, contract_text, rows
from compress.reporting.data.row import CONTRACT_KEYS
from tests.records import (
    TARGET,
    accuracy,
    bert_run,
    change_step,
    failed_run,
    measurement,
    missed_run,
    predictions_of,
    truth_of,
)

KEYS = [
    "step",
    "role",
    "score",
    "retention",
    "latency_p50_ms",
    "latency_p95_ms",
    "speedup",
    "throughput",
    "peak_memory_mb",
    "size_mb",
    "parameters",
    "macs",
    "seconds",
    "artifact",
]


def test_synthetic_runs_are_records():
    for run in (bert_run(), failed_run(), missed_run()):
        assert RunRecord.model_validate_json(run.model_dump_json()) == run


def test_the_fixed_names_stand_first():
    frame = rows(bert_run())
    assert list(CONTRACT_KEYS) == KEYS
    assert list(frame.columns[: len(KEYS)]) == KEYS
    for row in contract(bert_run())["rows"]:
        assert list(row)[: len(KEYS)] == KEYS


def test_contract_of_a_complete_run():
    answer = contract(bert_run())
    assert answer["status"] == "ok"
    assert answer["run"] == "bert_to_tiny-0a1b2c3d4e5f"
    assert answer["bundle"].endswith("bundle")
    assert answer["reason"] is None
    assert [row["step"] for row in answer["rows"]] == [
        "baseline",
        "distill",
        "distill (control)",
        "prune",
        "quantize",
        "export",
    ]
    first, last = answer["rows"][0], answer["rows"][-1]
    assert first["role"] == "baseline"
    assert first["retention"] == 1.0
    assert first["score"] == pytest.approx(435 / 445)
    assert last["retention"] == pytest.approx(429 / 435)
    assert last["retention_low"] < 429 / 435 < last["retention_high"]
    assert last["size_mb"] == 1.61
    assert (first["training_seconds"], last["training_seconds"]) == (90.0, None)
    assert last["parameters"] == 1_486_597
    assert last["artifact"] == "artifacts/k4"
    latency = bert_run().steps[-1].measurements[0].latency[0]
    assert last["latency_p50_ms"] == latency.p50_ms
    assert last["speedup_low"] == latency.speedup_low


def test_every_batch_size_is_nested_and_flat():
    last = contract(bert_run())["rows"][-1]
    (target,) = last["targets"]
    assert [timing["batch_size"] for timing in target["latency"]] == [1, 8]
    assert target["examples"] == 445
    frame = rows(bert_run())
    batch8 = frame.iloc[-1][f"latency_p50_ms[{TARGET} b8]"]
    assert batch8 == target["latency"][1]["latency_p50_ms"] != last["latency_p50_ms"]


def test_further_targets_have_their_own_columns():
    truth = truth_of()
    teacher = accuracy(predictions_of(truth, 10), truth, None)
    run = bert_run()
    steps = tuple(
        step.model_copy(
            update={
                "measurements": (
                    *step.measurements,
                    measurement(
                        teacher
                        if step.role == "baseline"
                        else accuracy(predictions_of(truth, 12), truth, teacher),
                        3.0,
                        30.0,
                        50.0,
                        target="phone",
                        timed=((1, "real"), (1, "fixed:64")),
                    ),
                )
            }
        )
        for step in run.steps
    )
    run = run.model_copy(update={"targets": (TARGET, "phone"), "steps": steps})
    frame = rows(run)
    assert frame.iloc[-1]["score[phone]"] == pytest.approx(433 / 445)
    assert frame.iloc[-1]["retention[phone]"] == pytest.approx(433 / 435)
    assert {"latency_p50_ms[phone b1]", "speedup[phone b1 fixed:64]", "peak_memory_mb[phone]"} <= set(
        frame.columns
    )
    assert [target["target"] for target in contract(run)["rows"][-1]["targets"]] == [TARGET, "phone"]
    assert frame.iloc[-1]["latency_p50_ms"] == run.steps[-1].measurements[0].latency[0].p50_ms


def test_controls_and_variants_never_stand_last():
    run = bert_run()
    by_name = {step.step: step for step in run.steps}
    order = ("baseline", "distill", "distill (control)")
    run = run.model_copy(update={"steps": tuple(by_name[name] for name in order)})
    assert [row["step"] for row in contract(run)["rows"]] == ["baseline", "distill (control)", "distill"]
    assert list(rows(run)["step"]) == ["baseline", "distill (control)", "distill"]


def test_counts_stay_whole_numbers_where_some_are_missing():
    run = change_step(bert_run(), "quantize", macs=None, parameters=None)
    frame = rows(run)
    assert str(frame["macs"].dtype) == "Int64"
    assert frame["macs"].isna().sum() == 1
    assert "1361000000," in frame.to_csv(index=False)
    row = next(row for row in contract(run)["rows"] if row["step"] == "quantize")
    assert row["macs"] is None
    assert row["parameters"] is None


def test_numbers_that_json_does_not_know_become_null():
    run = bert_run()
    found = run.steps[1].measurements[0]
    timing = found.latency[0].model_copy(update={"speedup": math.nan, "throughput": math.inf})
    metric = found.accuracy.metrics[0].model_copy(update={"value": math.nan})
    scores = found.accuracy.model_copy(update={"metrics": (metric,)})
    run = change_step(
        run, "distill", measurements=(found.model_copy(update={"latency": (timing,), "accuracy": scores}),)
    )
    row = json.loads(contract_text(run))["rows"][1]
    assert row["speedup"] is None
    assert row["throughput"] is None
    assert row["score"] is None
    assert row["targets"][0]["latency"][0]["speedup"] is None
    assert row["targets"][0]["metrics"][0]["value"] is None
    assert pd.isna(rows(run).iloc[1]["speedup"])


def test_contract_is_the_same_for_the_same_records_and_for_cached_steps():
    run = bert_run()
    cached = run.model_copy(
        update={
            "steps": tuple(step.model_copy(update={"status": "cached"}) for step in run.steps),
            "seconds": 3.0,
            "started": "2026-02-02T00:00:00Z",
        }
    )
    again = RunRecord.model_validate_json(run.model_dump_json())
    assert contract_text(run) == contract_text(again) == contract_text(cached)


def test_a_missed_budget():
    answer = contract(missed_run())
    assert answer["status"] == "budget_missed"
    assert [limit["held"] for limit in answer["budget"]] == [True, False]


def test_a_failed_run_shows_what_was_completed_and_why_it_ended():
    answer = contract(failed_run())
    assert answer["status"] == "failed"
    assert answer["bundle"] is None
    assert "'prune'" in answer["reason"]
    assert "1,486,600 parameters" in answer["reason"]
    assert [row["status"] for row in answer["rows"]] == ["ok", "ok", "ok", "failed"]
    assert answer["rows"][-1]["error"] == failed_run().steps[-1].error
    assert answer["rows"][-1]["score"] is None


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_did_not_finish_has_failed_and_says_why(status):
    run = bert_run(status=status, bundle=None)
    answer = contract(run.model_copy(update={"steps": run.steps[:2]}))
    assert answer["status"] == "failed"
    assert "run the same command" in answer["reason"]


def test_a_run_without_steps():
    run = bert_run(status="failed", steps=(), limits=(), bundle=None, error="the data has one class only")
    assert contract(run)["rows"] == []
    assert contract(run)["reason"] == "the data has one class only"
    assert len(rows(run)) == 0


def test_limits_of_other_names_pass_through():
    run = bert_run(limits=(Limit(step="export", name="score", limit=0.9, value=0.95, held=True),))
    assert contract(run)["budget"][0]["name"] == "score"
