"""Measuring whole artifacts in real child processes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from compress.core.artifacts import ONNX_MODEL, Artifact, open_artifact
from compress.core.errors import TargetError
from compress.core.records import TargetMeasurement
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import UNLABELLED, Examples
from compress.measuring.artifact import measure
from compress.measuring.jobs import Job, JobFolder, model_path
from compress.measuring.memory_limit import check_memory_limit
from compress.measuring.protocol import PROTOCOL_VERSION
from compress.measuring.size import size_of
from compress.measuring.timing.feeds import split_by_bytes
from compress.measuring.variants import VariantComparison
from compress.profile.schema import DataSpec, MeasureSpec, TargetSpec
from compress.runtimes.torch_worker import TorchRuntime
from compress.targets.local import resolve
from compress.tasks.base import Truth, task_of
from compress.tasks.sentence_embedding.similarity import similarities
from tests.gpu import gpu_target
from tests.tiny import text_task, tiny_bert, write_torch_artifact
from tests.tiny_onnx import VOTES, votes_table, write_votes_artifact

TASK = text_task(16)
SPEC = MeasureSpec(examples=20, min_seconds=0.2, min_rounds=8)
TEXTS = (
    "red blue",
    "cat",
    "dog cat red",
    "runs",
    "sings runs cat",
    "blue",
    "zebra dog",
    "red runs runs",
    "cat cat",
    "x",
)
TRUTH = (0, 1, 1, 2, 2, 0, 1, 2, 1, UNLABELLED)
TEST = Examples(TEXTS, np.array(TRUTH))


def measured(
    artifact: Artifact,
    baseline: Artifact | None = None,
    measurement: TargetMeasurement | None = None,
    spec: MeasureSpec = SPEC,
    **target: Any,
) -> TargetMeasurement:
    resolved = resolve(TargetSpec(**target))
    return measure(
        artifact, baseline or artifact, measurement, resolved, TASK, TEST, spec, 0, "key", SilentProgress()
    )


def test_a_baseline_is_scored_timed_against_itself_and_weighed(tmp_path: Path) -> None:
    record = measured(write_votes_artifact(tmp_path / "m"), batch_sizes=(2, 4), sequence_lengths=(12,))
    assert record.accuracy.predictions == TRUTH[:-1]
    assert record.accuracy.truth == TRUTH[:-1]
    assert record.accuracy.metrics[0].value == 1
    assert record.accuracy.retention == 1
    assert record.accuracy.batch_size == 2
    # 'zebra' is the only unknown word of the 18 that have a label.
    assert record.accuracy.unknown_token_share == pytest.approx(1 / 18)
    timed = [(row.batch_size, row.lengths) for row in record.latency]
    assert timed == [(2, "real"), (4, "real"), (2, "fixed:12"), (4, "fixed:12")]
    told = []
    for row in record.latency:
        assert len(row.samples_ms) == len(row.baseline_samples_ms) == row.rounds >= 8
        assert row.p50_low <= row.p50_ms <= row.p50_high
        told.append(row.verdict == "no difference" or row.disturbed)
    # A few millionths of a second each: now and then one is told apart by chance.
    assert sum(told) >= 3
    assert record.latency[2].mean_tokens == 12
    assert record.tokenization_ms is not None
    assert 0 < record.tokenization_ms < 50
    assert 0 < record.memory.peak_mb < record.memory.absolute_peak_mb
    assert (record.key, record.target, record.protocol) == ("key", "cpu-onnxruntime-1t", PROTOCOL_VERSION)
    assert record == TargetMeasurement.model_validate_json(record.model_dump_json())


def test_a_rival_is_compared_with_the_baseline(tmp_path: Path) -> None:
    slow = write_votes_artifact(tmp_path / "slow", matmuls=60)
    fast = write_votes_artifact(tmp_path / "fast", {**VOTES, "dog": 2, "runs": 1})
    base = measured(slow)
    record = measured(fast, slow, base)
    assert record.accuracy.predictions == (0, 1, 0, 1, 1, 0, 2, 1, 1)
    assert record.accuracy.retention == pytest.approx(4 / 9)
    assert record.accuracy.p_value == pytest.approx(2 / 2**5)
    assert record.accuracy.verdict == "no difference"
    (row,) = record.latency
    assert row.verdict == (None if row.disturbed else "faster")
    assert row.speedup == pytest.approx(row.baseline_p50_ms / row.p50_ms)
    assert row.speedup_low <= row.speedup <= row.speedup_high
    assert row.disturbed or row.speedup_low > 1.03
    (back,) = measured(slow, fast, record).latency
    assert back.verdict == (None if back.disturbed else "slower")


def test_memory_holds_the_weights(tmp_path: Path) -> None:
    light = write_votes_artifact(tmp_path / "light")
    heavy = write_votes_artifact(tmp_path / "heavy", ballast_mb=30)
    assert size_of(heavy).model_mb - size_of(light).model_mb == pytest.approx(30, abs=0.1)
    difference = measured(heavy).memory.peak_mb - measured(light).memory.peak_mb
    assert 27 < difference < 125


def test_a_model_that_needs_more_than_the_limit_is_an_error(tmp_path: Path) -> None:
    heavy = measured(
        write_votes_artifact(tmp_path / "heavy", ballast_mb=60), memory_limit_mb=120, name="small"
    )
    assert heavy.memory.over_limit
    with pytest.raises(TargetError) as caught:
        check_memory_limit([heavy])
    assert caught.value.where == "small"
    words = r"the model's peak memory is (\d+\.\d) MB \(\d+\.\d MB of it before .* allows 120 MB"
    found = re.search(words, str(caught.value))
    assert found is not None
    # The weights, and a product with them for each of the examples.
    assert 60 < float(found[1]) < 400
    light = measured(write_votes_artifact(tmp_path / "light"), memory_limit_mb=1000)
    assert not light.memory.over_limit
    check_memory_limit([light])


def test_jobs_are_kept_on_their_cores(tmp_path: Path) -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    artifact, target = write_votes_artifact(tmp_path / "m"), resolve(TargetSpec(cores=(core,)))
    jobs = JobFolder.of_target(tmp_path, target)
    feeds = jobs.feeds("feeds", [TASK.encode(TEST, artifact.path).batch([0])])
    body = {"kind": "memory", "model": model_path(artifact, target), "feeds": feeds}
    (result,) = jobs.run(Job(body, "seeing where it runs"))
    assert result["cores"] == [core]


def test_equal_seeds_score_equally(tmp_path: Path) -> None:
    artifact = write_votes_artifact(tmp_path / "m")
    assert measured(artifact).accuracy == measured(artifact).accuracy


def test_a_broken_model_file_is_a_target_error(tmp_path: Path) -> None:
    artifact = write_votes_artifact(tmp_path / "m")
    model = artifact.path / ONNX_MODEL
    model.write_bytes(b"\xff" * model.stat().st_size)
    with pytest.raises(TargetError, match="scoring the model failed") as caught:
        measured(open_artifact(artifact.path))
    assert caught.value.where == "cpu-onnxruntime-1t"
    assert caught.value.exit_code == 5


def test_a_runtime_refuses_the_other_form(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="runtime torch cannot run this model"):
        measured(write_votes_artifact(tmp_path / "m"), runtime="torch")
    with pytest.raises(TargetError, match="runtime onnxruntime cannot run this model"):
        measured(write_torch_artifact(tmp_path / "t"))


@pytest.mark.slow
def test_torch_is_measured_as_onnxruntime_is(tmp_path: Path) -> None:
    artifact = write_torch_artifact(tmp_path / "m")
    record = measured(artifact, runtime="torch", batch_sizes=(2,))
    predict = TorchRuntime().open(str(artifact.path), 1, "cpu")
    inputs = TASK.encode(Examples(TEXTS[:-1], np.array(TRUTH[:-1])), artifact.path)
    expected = [
        int(label)
        for start in range(0, 9, 2)
        for label in predict(inputs.batch(range(start, min(start + 2, 9)))).argmax(1)
    ]
    assert list(record.accuracy.predictions) == expected
    assert record.latency[0].verdict == "no difference" or record.latency[0].disturbed
    assert record.memory.before_load_mb > 100
    assert record.memory.gpu_peak_mb is None


def test_variants_are_scored_and_timed(tmp_path: Path) -> None:
    artifacts = {
        "good": write_votes_artifact(tmp_path / "good", matmuls=60),
        "fast": write_votes_artifact(tmp_path / "fast", {**VOTES, "dog": 2, "runs": 1}),
        "twin": write_votes_artifact(tmp_path / "twin", matmuls=60),
    }
    examples = Examples(TEXTS[:-1], np.array(TRUTH[:-1]))
    inputs = TASK.encode(examples, artifacts["good"].path)
    paths = {name: artifact.model_file for name, artifact in artifacts.items()}
    found = VariantComparison(inputs, Truth.of(examples), TASK, resolve(TargetSpec()), seed=0).compare(paths)
    assert list(found) == ["good", "fast", "twin"]
    assert [found[name][0] for name in found] == pytest.approx([1, 4 / 9, 1])
    if not found["good"].disturbed:
        assert found["fast"].p50_ms < 0.8 * found["good"].p50_ms
        assert found["twin"].p50_ms == pytest.approx(found["good"].p50_ms, rel=0.3)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_cuda(runtime: Any, tmp_path: Path) -> None:
    gpu_target(runtime)
    if runtime == "torch":
        artifact = write_torch_artifact(tmp_path / "m", tiny_bert(hidden=64))
    else:
        artifact = write_votes_artifact(tmp_path / "m", matmuls=4)
    on_cpu = measured(artifact, runtime=runtime)
    on_gpu = measured(artifact, device="cuda", runtime=runtime)
    assert on_gpu.accuracy.predictions == on_cpu.accuracy.predictions
    assert on_gpu.fingerprint != on_cpu.fingerprint
    assert on_gpu.latency[0].verdict == "no difference" or on_gpu.latency[0].disturbed
    if runtime == "torch":
        assert on_gpu.memory.gpu_peak_mb is not None
        assert on_gpu.memory.gpu_peak_mb > 0


EMBEDDING = task_of("sentence-embedding", DataSpec(path="unused"))


def test_embeddings_are_compared_with_the_baselines(tmp_path: Path) -> None:
    test = Examples(TEXTS, np.full(len(TEXTS), UNLABELLED))
    target, shared = resolve(TargetSpec()), tmp_path / "shared"
    one = write_votes_artifact(tmp_path / "one")
    two = write_votes_artifact(tmp_path / "two", {**VOTES, "dog": 2, "runs": 1})

    def embedded(artifact: Artifact, before: TargetMeasurement | None) -> TargetMeasurement:
        return measure(
            artifact, one, before, target, EMBEDDING, test, SPEC, 0, "key", SilentProgress(), shared
        )

    base = embedded(one, None)
    assert (base.accuracy.metrics[0].value, base.accuracy.against) == (1.0, "baseline")
    (kept,) = shared.glob("*.npz")
    votes = np.load(kept)["vector"]
    assert votes.shape == (len(TEXTS), 3)
    rival = embedded(two, base)
    theirs = load_votes(two, test)
    expected = spearmanr(similarities(theirs), similarities(votes)).statistic
    assert rival.accuracy.metrics[0].value == pytest.approx(expected)
    # Ten texts are too few to tell.
    assert rival.accuracy.verdict == "no difference"
    assert rival.accuracy.examples == base.accuracy.examples
    assert rival.accuracy.unknown_token_share == base.accuracy.unknown_token_share
    kept.write_bytes(kept.read_bytes()[:-8])
    assert embedded(two, base).accuracy == rival.accuracy
    assert (np.load(kept)["vector"] == votes).all()


def load_votes(artifact: Artifact, test: Examples) -> np.ndarray:
    """The votes of an artifact's model, by hand."""
    table = votes_table({**VOTES, "dog": 2, "runs": 1})
    inputs = EMBEDDING.encode(test, artifact.path)
    return np.stack([table[inputs.batch([index])["input_ids"][0]].sum(0) for index in range(len(inputs))])


def test_pairs_are_scored_whole_and_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array([3, 1, 2, 5, 4], np.float32)
    test = Examples(TEXTS, np.full(len(TEXTS), UNLABELLED), scores)
    one = write_votes_artifact(tmp_path / "one")
    target = resolve(TargetSpec(batch_sizes=(2,)))
    made = measure(one, one, None, target, EMBEDDING, test, SPEC, 0, "key", SilentProgress())
    assert (made.accuracy.against, made.accuracy.metrics[0].n) == ("scores", 5)
    monkeypatch.setattr(
        "compress.measuring.scoring.split_by_bytes", lambda batches: split_by_bytes(batches, max_bytes=1)
    )
    again = measure(one, one, None, target, EMBEDDING, test, SPEC, 0, "key", SilentProgress())
    assert again.accuracy == made.accuracy
