from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.encoding.tokens import encode_texts
from compress.measuring import outputs_scorer
from compress.measuring.results import load_answers
from compress.runtimes import runner
from tests.tiny_onnx import LABELS, write_embedder_artifact, write_votes_artifact

SOURCE = Path(runner.__file__).read_text(encoding="utf-8")


def test_it_stands_alone_on_python_3_9() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "tokenizers", "PIL"}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_batches_survive_the_file(shapes: list[tuple[int, int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    batches = [
        {"ids": generator.integers(0, 99, shape), "x": generator.random((*shape, 2), np.float32)}
        for shape in shapes
    ]
    with tempfile.TemporaryDirectory() as folder:
        runner.write_batches(folder + "/b.npz", batches)
        read = runner.read_batches(folder + "/b.npz")
    assert len(read) == len(batches)
    for before, after in zip(batches, read, strict=True):
        for name in ("ids", "x"):
            assert after[name].dtype == before[name].dtype
            np.testing.assert_array_equal(after[name], before[name])


class Clock:
    """Time that passes only while a model runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: self.now)

    def model(self, name: str, milliseconds: float, calls: list[tuple[str, int]]) -> runner.Predict:
        def predict(batch: runner.Batch) -> None:
            calls.append((name, batch["n"]))
            self.now += int(milliseconds * 1e6)

        return predict


def feeds(count: int) -> list[runner.Batch]:
    return [{"n": number} for number in range(count)]


def test_turns_swap_and_both_models_see_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []
    models = [clock.model("A", 10, calls), clock.model("B", 20, calls)]
    samples, _, inputs, *_ = runner.time_in_turns(models, [feeds(6), feeds(6)], seconds=0.001, rounds=8)
    assert samples == [[10_000_000] * 8, [20_000_000] * 8]
    assert inputs == [0, 1, 2, 3, 4, 5, 0, 1]
    # After one run of each to see how long they take: a turn of 4 batches, its first one untimed before.
    first, second = [0, 0, 1, 2, 3], [4, 4, 5, 0, 1]
    expected = [("A", 0), ("B", 0)]
    expected += [("A", n) for n in first] + [("B", n) for n in first]
    expected += [("B", n) for n in second] + [("A", n) for n in second]
    assert calls == expected


def test_every_batch_meets_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []
    models = [clock.model("A", 10, calls), clock.model("B", 10, calls)]
    _, _, inputs, *_ = runner.time_in_turns(models, [feeds(8), feeds(8)], seconds=0.001, rounds=32)
    firsts: dict[int, set[str]] = {}
    position = 2
    for turn in range(len(inputs) // 4):
        for index in inputs[4 * turn : 4 * turn + 4]:
            firsts.setdefault(index, set()).add(calls[position][0])
        position += 10
    assert firsts == {index: {"A", "B"} for index in range(8)}


def test_a_fast_model_settles_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []
    models = [clock.model("slow", 30, calls), clock.model("fast", 0.5, calls)]
    samples, *_ = runner.time_in_turns(models, [feeds(4), feeds(4)], seconds=0.001, rounds=4)
    assert [len(times) for times in samples] == [4, 4]
    settling = runner.SETTLE_NS // 500_000
    assert [name for name, _ in calls].count("fast") == 1 + settling + 4
    assert [name for name, _ in calls].count("slow") == 1 + 1 + 4


def test_time_and_rounds_are_both_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pair = [clock.model("A", 1, []), clock.model("B", 1, [])]
    samples, *_ = runner.time_in_turns(pair, [feeds(4), feeds(4)], seconds=1.0, rounds=1)
    assert sum(map(sum, samples)) > 0.4e9
    samples, *_ = runner.time_in_turns(pair, [feeds(4), feeds(4)], seconds=0.001, rounds=50)
    assert len(samples[0]) >= 50


@pytest.mark.parametrize(("seconds", "timed"), [(4.0, 24), (0.1, 4)])
def test_all_batches_are_covered_unless_that_takes_far_too_long(
    seconds: float, timed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    pair = [clock.model("A", 100, []), clock.model("B", 100, [])]
    samples, *_ = runner.time_in_turns(pair, [feeds(24), feeds(24)], seconds=seconds, rounds=2, cover=24)
    assert len(samples[0]) == timed


def test_three_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []
    models = [clock.model(name, 10, calls) for name in "ABC"]
    samples, *_ = runner.time_in_turns(models, [feeds(12)] * 3, seconds=0.001, rounds=12)
    order = [calls[3 + 5 * turn][0] for turn in range(9)]
    assert order == list("ABC") + list("BCA") + list("CAB")
    assert [len(times) for times in samples] == [12, 12, 12]


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(
        runner.softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3)]])), [[0.5, 0.5], [0.25, 0.75]]
    )


TEXTS = ["red cat", "dog dog runs zebra", "a " * 40]


def test_it_encodes_as_the_task_does(tmp_path: Path) -> None:
    folder = write_votes_artifact(tmp_path / "m").path
    task = runner.load_task(str(folder))
    encoded = runner.encode(runner.load_tokenizer(str(folder), task["max_length"]), TEXTS, task)
    expected = encode_texts(TEXTS, folder / "tokenizer.json", folder / "task.json").batch([0, 1, 2])
    assert list(encoded) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(encoded[name], values)


def test_a_classifier_predicts_labels_with_their_probability(tmp_path: Path) -> None:
    classify = runner.Classifier(str(write_votes_artifact(tmp_path / "m").path))
    (first, second) = classify(["red blue cat", "runs"])
    assert first[0] == "colour"
    assert first[1] == pytest.approx(np.e**2 / (np.e**2 + np.e + 1))
    assert second[0] == "verb"


def test_a_sentence_encoder_embeds_and_compares(tmp_path: Path) -> None:
    encoder = runner.open_predictor(str(write_embedder_artifact(tmp_path / "m").path))
    assert isinstance(encoder, runner.SentenceEncoder)
    assert encoder.labels == []
    np.testing.assert_array_equal(encoder(["red blue cat", "runs"]), [[2, 1, 0], [0, 0, 1]])
    assert encoder.similarity("red blue cat", "cat dog") == pytest.approx(1 / np.sqrt(5))
    assert encoder.similarity("red", "runs") == 0


def test_a_task_of_another_time_is_refused(tmp_path: Path) -> None:
    folder = write_votes_artifact(tmp_path / "m").path
    task = {**runner.load_task(str(folder)), "task": "mind-reading"}
    (folder / "task.json").write_text(json.dumps(task))
    with pytest.raises(runner.RunnerError, match="unknown task 'mind-reading'; known: image-class"):
        runner.open_predictor(str(folder))


def test_labels_of_a_bundle_come_first(tmp_path: Path) -> None:
    folder = write_votes_artifact(tmp_path / "m").path
    assert runner.load_labels(str(folder)) == list(LABELS)
    (folder / "labels.json").write_text('["x", "y", "z"]')
    assert runner.load_labels(str(folder)) == ["x", "y", "z"]


def test_the_libraries_of_cuda_are_found_before_the_provider_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A provider that is a plugin is not there before."""
    import onnxruntime

    found = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: found.insert(0, "CUDAExecutionProvider"), raising=False
    )
    runner.require_cuda()


def test_cuda_without_its_provider_is_refused(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(runner.RunnerError, match="onnxruntime-gpu"):
        runner.OnnxRuntime().prepare(1, "cuda")
    model = write_votes_artifact(tmp_path / "m").model_file
    with pytest.raises(runner.RunnerError, match="CUDAExecutionProvider"):
        runner.open_session(str(model), 1, "cuda")


def test_sessions_do_not_spin_and_keep_the_slow_fusion_out(tmp_path: Path) -> None:
    session = runner.open_session(str(write_votes_artifact(tmp_path / "m").model_file), threads=2)
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_gpu_memory_of_one_process() -> None:
    answer = "4711, 312\n99, 5\n4711, 8\nnonsense\n7, [N/A]\n"
    assert runner.parse_compute_apps(answer, 4711) == 320 * 2**20
    assert runner.parse_compute_apps(answer, 1) is None
    assert runner.parse_compute_apps(answer, 7) is None


class Recording:
    """A runtime of plain functions."""

    def __init__(self, megabytes: int = 0) -> None:
        self.megabytes = megabytes
        self.opened: list[str] = []
        self.held: list[bytearray] = []

    def prepare(self, threads: int, device: str) -> None:
        return None

    def open(self, path: str, threads: int, device: str) -> runner.Predict:
        self.opened.append(path)
        self.held.append(bytearray(b"x") * (self.megabytes * 10**6))
        return lambda batch: batch["n"].astype(np.float32)

    def gpu_peak_bytes(self) -> int | None:
        return 7


def job(folder: Path, **body: Any) -> dict[str, Any]:
    runner.write_batches(str(folder / "f.npz"), [{"n": np.array([[1], [2]])}, {"n": np.array([[3]])}])
    return {"threads": 1, "device": "cpu", "feeds": str(folder / "f.npz"), "model": "m", **body}


def test_a_scoring_job_keeps_the_order(tmp_path: Path) -> None:
    outputs = tmp_path / "out.npz"
    body = {"outputs": str(outputs), "scorer": outputs_scorer.__file__, "settings": {}}
    result = runner.score_job(job(tmp_path, **body), Recording())
    assert result == {"examples": 3, "shape": [1], "refused": None}
    assert load_answers(outputs)["outputs"].tolist() == [[1], [2], [3]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "out.npz"]


def test_a_latency_job_loads_in_the_order_asked_for(tmp_path: Path) -> None:
    body = {
        "models": ["a", "b"],
        "load_order": [1, 0],
        "scenarios": [{"feeds": [str(tmp_path / "f.npz")] * 2}],
        "seconds": 0.01,
        "rounds": 3,
        "share": [1, 2],
    }
    runtime = Recording()
    (scenario,) = runner.latency_job(job(tmp_path, **body), runtime)["scenarios"]
    assert runtime.opened == ["b", "a"]
    assert scenario["inputs"][:3] == [1, 0, 1]
    assert all(len(times) == len(scenario["inputs"]) >= 3 for times in scenario["samples_ns"])


@pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux's")
def test_a_memory_job_sees_what_loading_takes(tmp_path: Path) -> None:
    result = runner.memory_job(job(tmp_path), Recording(megabytes=60))
    assert 55e6 < result["peak_bytes"] - result["before_load_bytes"] < 140e6
    assert result["method"] == "VmHWM, reset after the imports"
    assert result["gpu_peak_bytes"] is None


def test_where_the_counter_cannot_be_reset_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "reset_peak", lambda: False)
    assert runner.memory_job(job(tmp_path), Recording())["method"].endswith("imports included")


def test_without_proc_the_peak_is_that_of_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "status_bytes", lambda field: None)
    peak, method = runner.peak_bytes()
    assert method == "ru_maxrss"
    assert peak > 10**6
    assert runner.resident_bytes() == pytest.approx(peak, rel=0.5)


def test_tokenization_is_timed_text_by_text(tmp_path: Path) -> None:
    folder = write_votes_artifact(tmp_path / "m").path
    times = runner.time_tokenization(str(folder), TEXTS)
    assert len(times) == 3
    assert all(time > 0 for time in times)


def test_the_command_refuses_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main([]) == 2
    assert "usage" in capsys.readouterr().err
    (tmp_path / "job.json").write_text('{"kind": "speed"}')
    assert runner.main([str(tmp_path / "job.json"), str(tmp_path / "r.json")]) == 2
    assert "'speed'; known: latency, memory, score" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_the_command_writes_its_result_whole(tmp_path: Path) -> None:
    model = str(write_votes_artifact(tmp_path / "m").model_file)
    ids = np.array([[2, 3, 4]])
    runner.write_batches(str(tmp_path / "f.npz"), [{"input_ids": ids, "attention_mask": np.ones_like(ids)}])
    body = {
        "kind": "score",
        "model": model,
        "scorer": outputs_scorer.__file__,
        "settings": {},
        "outputs": str(tmp_path / "o.npz"),
        "threads": 1,
        "device": "cpu",
    }
    (tmp_path / "job.json").write_text(json.dumps({**body, "feeds": str(tmp_path / "f.npz")}))
    assert runner.main([str(tmp_path / "job.json"), str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["examples"] == 1
    assert load_answers(tmp_path / "o.npz")["outputs"].tolist() == [[2, 1, 0]]
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_process_keeps_to_its_cores() -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    code = (
        "import os, threading; from compress.runtimes.runner import pin_to_cores\n"
        f"pin_to_cores([{core}])\n"
        "thread = threading.Thread(target=lambda: print(os.sched_getaffinity(0))); thread.start(); thread.join()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == f"{{{core}}}\n"


def test_cores_that_are_not_there_are_an_error() -> None:
    with pytest.raises(runner.RunnerError, match=r"cannot keep to the cores \[9000\]"):
        runner.pin_to_cores([9000])


def test_outputs_of_other_lengths_are_joined_with_zeros_after_their_end():
    parts = [np.ones((2, 3, 4), np.float32), np.ones((1, 5, 4), np.float32)]
    found = runner.concatenate_padded(parts)
    assert found.shape == (3, 5, 4)
    assert found[:2, :3].all()
    assert not found[:2, 3:].any()
    assert np.array_equal(runner.concatenate_padded([parts[0], parts[0]]), np.ones((4, 3, 4)))
    assert runner.concatenate_padded([np.ones(2), np.ones(3)]).tolist() == [1] * 5
