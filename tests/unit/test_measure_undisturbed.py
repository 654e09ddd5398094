"""Latencies without what disturbs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from compress.measuring.jobs import JobFolder
from compress.measuring.timing.latency import time_separately, undisturbed_ms
from compress.passes.prune.choosing.latency_table import LayerShape, part_graph
from compress.profile.schema import MeasureSpec


def test_slow_rounds_of_an_input_do_not_count():
    def result(samples: list[float], inputs: list[int]) -> dict[str, object]:
        return {"scenarios": [{"samples_ns": [[one * 1e6 for one in samples]], "inputs": inputs}]}

    # Inputs of 1, 2 and 3 ms, of which two rounds were disturbed.
    first = result([1, 2, 3, 40, 2, 3], [0, 1, 2, 0, 1, 2])
    second = result([1, 90, 3, 1, 2, 3], [0, 1, 2, 0, 1, 2])
    assert undisturbed_ms([first, second], 0) == 2


def test_models_are_timed_in_processes_of_their_own(tmp_path: Path):
    shape = LayerShape(batch=1, tokens=16, hidden=64, head_size=16, last_tokens=16, masked=False)
    paths = [str(tmp_path / f"{copies}.onnx") for copies in (1, 12)]
    for path, copies in zip(paths, (1, 12), strict=True):
        onnx.save(part_graph(shape, "feed_forward", 256, copies, last=False), path)
    jobs = JobFolder(tmp_path, "onnxruntime", "cpu", 1, "two models")
    batch = {"x": np.ones((1, 16, 64), np.float32), "mask": np.ones((1, 16), np.int32)}
    spec = MeasureSpec(examples=1, min_seconds=0.2, min_rounds=8)
    small, large = time_separately(jobs, paths, jobs.feeds("feeds", [batch]), spec, processes=2)
    for results in (small, large):
        assert [len(result["scenarios"][0]["samples_ns"]) for result in results] == [1, 1]
    assert undisturbed_ms(large, 0) > 1.5 * undisturbed_ms(small, 0)
