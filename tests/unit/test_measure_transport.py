"""Jobs on their way to a device, and what is believed of what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from compress.measuring.results import count_examples, output_fault, result_fault
from compress.measuring.transport import RemoteTransport, with_remote_paths
from compress.models.io.onnx_files import copy_onnx, read_onnx
from compress.runtimes import runner
from compress.targets.ssh import agent
from compress.targets.ssh.device import SshDevice
from tests.unit.test_onnx_copies import split_model


def test_every_path_of_a_job_is_moved_and_nothing_else() -> None:
    sent: list[str] = []

    def send(path: str) -> str:
        sent.append(path)
        return f"there{path}"

    job = {
        "kind": "latency",
        "models": ["/a", "/b"],
        "scenarios": [{"feeds": ["/c", "/d"]}],
        "tokenization": {"folder": "/e", "texts": ["/not a path"]},
        "seconds": 1,
    }
    assert with_remote_paths(job, send, "out") == {
        "kind": "latency",
        "models": ["there/a", "there/b"],
        "scenarios": [{"feeds": ["there/c", "there/d"]}],
        "tokenization": {"folder": "there/e", "texts": ["/not a path"]},
        "seconds": 1,
    }
    assert sent == ["/a", "/b", "/c", "/d", "/e"]
    scored = {"kind": "score", "model": "/m", "feeds": "/f", "outputs": "/o"}
    assert with_remote_paths(scored, send, "out") == {
        "kind": "score", "model": "there/m", "feeds": "there/f", "outputs": "out",
    }  # fmt: skip
    assert with_remote_paths({"kind": "latency", "tokenization": None}, send, "out")["tokenization"] is None


@pytest.mark.parametrize(
    "location", ["model.onnx.data", "model.onnx.data_1", "model.onnx_data_1", "model.onnx.data (1)", "w.bin"]
)
def test_weights_go_with_their_model_to_a_device(location: str, tmp_path: Path) -> None:
    names = copy_onnx(read_onnx(split_model(tmp_path / "mine", location)), tmp_path / "out" / "model.onnx")
    sent: list[str] = []

    class Device:
        def begin(self) -> None: ...

        def send(self, files: Sequence[Path]) -> str:
            sent.extend(file.name for file in files)
            return "group"

    moved = RemoteTransport(cast(SshDevice, Device()), 1)._send(str(tmp_path / "out" / "model.onnx"))
    assert moved == "group/model.onnx"
    assert sent == ["model.onnx", *names]
    assert all(agent._NAME.fullmatch(f"group/{name}") for name in sent)


@pytest.fixture
def scored(tmp_path: Path) -> dict[str, Any]:
    feeds = str(tmp_path / "feeds.npz")
    runner.write_batches(feeds, [{"x": np.zeros((2, 3))}, {"x": np.zeros((1, 5))}])
    return {"kind": "score", "feeds": feeds, "outputs": str(tmp_path / "outputs.npz")}


def test_examples_are_counted(scored: dict[str, Any]) -> None:
    assert count_examples(scored["feeds"]) == 3


KEPT = {"shape": [2], "refused": None}


@pytest.mark.parametrize(
    ("result", "right"),
    [
        ({"examples": 3, "seconds": 0.1, **KEPT}, True),
        ({"examples": 3, "seconds": 0.1}, False),
        ({"examples": 2, "seconds": 0.1, **KEPT}, False),
        ({"examples": "3", "seconds": 0.1, **KEPT}, False),
        ({"seconds": 0.1, **KEPT}, False),
        ([], False),
        (None, False),
    ],
)
def test_results_of_scoring(result: object, right: bool, scored: dict[str, Any]) -> None:
    assert (result_fault(scored, result) is None) is right


@pytest.mark.parametrize(
    ("samples", "right"),
    [
        ([[[1, 2], [3, 4]]], True),
        ([[[1, 2]]], False),
        ([[[1, 2], [3]]], False),
        ([[[], []]], False),
        ([[[1, -2], [3, 4]]], False),
        ([[[1, 2.5], [3, 4]]], False),
        ([], False),
    ],
)
def test_results_of_timing(samples: list[Any], right: bool) -> None:
    job = {"kind": "latency", "models": ["a", "b"], "scenarios": [{"feeds": []}]}
    result = {"seconds": 1.0, "scenarios": [{"samples_ns": one, "inputs": [0, 1]} for one in samples]}
    assert (result_fault(job, result) is None) is right


@pytest.mark.parametrize("inputs", [[0], [0, -1], [0, 0.5], None])
def test_every_time_has_its_input(inputs: Any) -> None:
    job = {"kind": "latency", "models": ["a"], "scenarios": [{"feeds": []}]}
    scenario = {"samples_ns": [[1, 2]], **({} if inputs is None else {"inputs": inputs})}
    assert result_fault(job, {"seconds": 1.0, "scenarios": [scenario]}) is not None


def test_times_are_of_batches_that_were_sent_and_of_texts_that_were_asked_for(scored: dict[str, Any]) -> None:
    job = {"kind": "latency", "models": ["a"], "scenarios": [{"feeds": [scored["feeds"]]}]}
    result = {"seconds": 1.0, "scenarios": [{"samples_ns": [[1, 2]], "inputs": [0, 1]}]}
    assert result_fault(job, result) is None
    assert (
        result_fault(job, {**result, "scenarios": [{"samples_ns": [[1, 2]], "inputs": [0, 2]}]}) is not None
    )
    assert result_fault(job, {**result, "tokenization_ns": [1]}) is not None
    texts = {**job, "tokenization": {"folder": "x", "texts": ["a", "b"]}}
    assert result_fault(texts, {**result, "tokenization_ns": [1, 2]}) is None
    assert result_fault(texts, result) is not None


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e9, "1", None])
@pytest.mark.parametrize("kind", ["memory", "latency"])
def test_seconds_are_seconds(kind: str, seconds: object) -> None:
    weighed = {"before_load_bytes": 1, "peak_bytes": 2, "method": "VmHWM", "gpu_peak_bytes": None}
    job = {"kind": kind, "models": [], "scenarios": []}
    assert result_fault(job, {**weighed, "scenarios": [], "seconds": 1.0}) is None
    assert result_fault(job, {**weighed, "scenarios": [], "seconds": seconds}) is not None


WAITED = {
    "samples_ns": [[9, 9], [3, 3]],
    "inputs": [0, 1],
    "waited_ns": [[0, 1], [2, 0]],
    "waited_by": "schedstat",
    "wanted": 2,
    "patient_s": 0.5,
    "machine": {"wall": 1.0, "pressure": 0.2, "stolen": None, "switches": 3},
}


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"waited_ns": None, "waited_by": "unknown"}, True),
        ({"waited_ns": [[0, 1]]}, False),
        ({"waited_ns": [[0, 1], [2]]}, False),
        ({"waited_ns": [[0, 1], [-2, 0]]}, False),
        ({"waited_by": "a friend"}, False),
        ({"wanted": 3}, False),
        ({"wanted": 0}, False),
        ({"patient_s": float("nan")}, False),
        ({"patient_s": -1.0}, False),
        ({"machine": {**WAITED["machine"], "stolen": float("inf")}}, False),  # type: ignore[dict-item]
        ({"machine": {}}, False),
    ],
)
def test_what_is_told_of_the_machine(changes: dict[str, Any], right: bool) -> None:
    job = {"kind": "latency", "models": ["a", "b"], "scenarios": [{"feeds": []}]}
    result = {"seconds": 1.0, "scenarios": [{**WAITED, **changes}]}
    assert (result_fault(job, result) is None) is right


def test_results_of_weighing() -> None:
    result = {
        "seconds": 1.0,
        "before_load_bytes": 1,
        "peak_bytes": 2,
        "method": "VmHWM",
        "gpu_peak_bytes": None,
    }
    assert result_fault({"kind": "memory"}, result) is None
    for change in (
        {"peak_bytes": 0},
        {"before_load_bytes": 3},
        {"peak_bytes": 2**60},
        {"gpu_peak_bytes": -1},
    ):
        assert result_fault({"kind": "memory"}, {**result, **change}) is not None


def test_outputs_are_numbers_of_every_example(scored: dict[str, Any]) -> None:
    def fault(array: np.ndarray) -> str | None:
        np.savez(scored["outputs"], allow_pickle=True, outputs=array)
        return output_fault(scored, KEPT)

    assert fault(np.zeros((3, 2), np.float32)) is None
    assert fault(np.zeros((2, 2), np.float32)) == "outputs of 2 examples"
    assert fault(np.zeros((3, 2), np.complex64)) is not None
    assert fault(np.zeros((3, 0), np.float32)) is not None
    assert fault(np.full((3, 2), np.nan, np.float32)) is not None
    # A pickle is never opened.
    assert "allow_pickle" in str(fault(np.array([{"a": 1}], dtype=object)))
    Path(scored["outputs"]).write_bytes(b"no array")
    assert output_fault(scored, KEPT) is not None
    # An array that stands alone, and one that may be far larger than its file.
    with open(scored["outputs"], "wb") as stream:
        np.save(stream, np.zeros((3, 2), np.float32))
    assert output_fault(scored, KEPT) is not None
    np.savez_compressed(scored["outputs"], outputs=np.zeros((3, 2), np.float32))
    assert output_fault(scored, KEPT) == "compressed outputs"
