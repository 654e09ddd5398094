"""From results to records: accuracy, latency, memory."""

from __future__ import annotations

import numpy as np
import pytest

from compress.core.records import Accuracy
from compress.data.splits import Examples
from compress.measuring.accuracy import accuracy_record
from compress.measuring.artifact import memory_record
from compress.measuring.protocol import SPEED_RESOLUTION
from compress.measuring.statistics import Interval
from compress.measuring.timing.feeds import Scenario
from compress.measuring.timing.latency import latency_jobs, latency_record, milliseconds, speed_verdict
from compress.profile.schema import MeasureSpec
from compress.reporting.sections.calibration import error_of
from compress.tasks.base import Scored, answers_of
from tests.tiny import text_task

TASK = text_task(16)


def outputs_of(predictions: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[predictions]


def record_of(
    outputs: np.ndarray, truth: np.ndarray, baseline: Accuracy | None, unknown: float | None = None
) -> Accuracy:
    examples = Examples(("x",) * len(truth), truth)
    answers = answers_of(TASK, outputs)
    return accuracy_record(Scored(TASK, answers, examples, baseline, None, 1, 0, "d", unknown))


def test_scores_of_a_baseline() -> None:
    truth = np.array([0, 1, 2, 2])
    record = record_of(outputs_of([0, 1, 2, 0]), truth, None, 0.25)
    assert [metric.name for metric in record.metrics] == ["accuracy", "macro_f1"]
    assert record.metrics[0].value == 0.75
    assert record.metrics[0].n == 4
    assert (record.retention, record.p_value, record.verdict) == (1.0, None, None)
    assert record.predictions == (0, 1, 2, 0)
    assert record.unknown_token_share == 0.25
    assert record.examples == "d"


def test_a_probability_that_rounding_left_above_1_is_1() -> None:
    # As a Softmax in 8 bits gives it.
    outputs = np.array([[1.0004, 0.0, 0.0], [0.0, 0.75, 0.25]], np.float32)
    record = record_of(outputs, np.array([0, 1]), None)
    assert record.confidence == (1.0, 0.75)
    earlier = record.model_copy(update={"confidence": (1.0004, 0.75)})
    assert error_of(earlier) == error_of(record) == pytest.approx(0.125)


def test_scores_against_a_baseline() -> None:
    truth = np.zeros(20, np.int64)
    baseline = record_of(outputs_of([0] * 16 + [1] * 4), truth, None)
    record = record_of(outputs_of([1] * 8 + [0] * 8 + [1] * 4), truth, baseline)
    assert record.retention == 0.5
    assert record.p_value == pytest.approx(2 / 2**8)
    assert record.verdict == "worse"


def test_a_baseline_that_is_always_wrong_has_no_retention() -> None:
    truth = np.zeros(3, np.int64)
    baseline = record_of(outputs_of([1, 1, 1]), truth, None)
    assert record_of(outputs_of([0, 0, 0]), truth, baseline).retention is None


def test_another_split_is_refused() -> None:
    baseline = record_of(outputs_of([0, 1]), np.array([0, 1]), None)
    with pytest.raises(ValueError, match="other examples"):
        record_of(outputs_of([0, 1]), np.array([1, 0]), baseline)


@pytest.mark.parametrize(
    ("won", "lost", "verdict"),
    [(8, 0, "better"), (0, 8, "worse"), (3, 0, "no difference"), (9, 9, "no difference")],
)
def test_paired_verdicts(won: int, lost: int, verdict: str) -> None:
    truth = np.zeros(won + lost + 5, np.int64)
    baseline = record_of(outputs_of([1] * won + [0] * lost + [0] * 5), truth, None)
    assert record_of(outputs_of([0] * won + [1] * lost + [0] * 5), truth, baseline).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.2, 1.3, "faster"),
        (1 + SPEED_RESOLUTION / 2, 1.3, "no difference"),
        (0.98, 1.01, "no difference"),
        (0.7, 0.8, "slower"),
        (0.7, 1 - SPEED_RESOLUTION / 2, "no difference"),
    ],
)
def test_speed_verdicts_keep_their_distance_from_one(low: float, high: float, verdict: str) -> None:
    assert speed_verdict(Interval((low + high) / 2, low, high)) == verdict


def test_latency_of_pooled_processes() -> None:
    baseline = [np.array([4.0, 4.0]), np.array([4.0, 4.0])]
    model = [np.array([1.0, 2.0]), np.array([2.0, 3.0])]
    record = latency_record(Scenario(8, None, np.zeros((1, 8), np.int64)), [baseline, model], 11.5, 0)
    assert (record.p50_ms, record.baseline_p50_ms, record.speedup, record.rounds) == (2, 4, 2, 4)
    assert record.p95_ms == pytest.approx(2.85)
    assert record.throughput == pytest.approx(8 * 4 / 8e-3)
    assert record.samples_ms == (1, 2, 2, 3)
    assert record.lengths == "real"
    assert record.mean_tokens == 11.5


def test_latency_jobs_share_the_time_and_swap_the_order_of_loading() -> None:
    spec = MeasureSpec(min_seconds=2, min_rounds=30)
    texts = {"folder": "t", "texts": []}
    jobs = latency_jobs(["a", "b"], [["fa", "fb"]], spec, texts, processes=4)
    bodies = [job.body for job in jobs]
    assert [body["seconds"] for body in bodies] == [0.5] * 4
    assert [body["rounds"] for body in bodies] == [8] * 4
    assert [body["load_order"] for body in bodies] == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert [body["share"] for body in bodies] == [[0, 4], [1, 4], [2, 4], [3, 4]]
    assert [body["tokenization"] for body in bodies] == [texts, None, None, None]


def test_times_are_milliseconds() -> None:
    result = {"scenarios": [{"samples_ns": [[1_500_000], [2_000_000]]}]}
    assert milliseconds(result, 0, 1).tolist() == [2.0]


def test_memory_is_what_the_model_added() -> None:
    record = memory_record(
        {"peak_bytes": 90_000_000, "before_load_bytes": 50_000_000, "gpu_peak_bytes": None, "method": "VmHWM"}
    )
    assert (record.peak_mb, record.absolute_peak_mb, record.before_load_mb) == (40, 90, 50)
    assert record.gpu_peak_mb is None
