"""Latencies without what disturbs them."""

from __future__ import annotations

from compress.measure.latency import undisturbed_ms


def test_slow_rounds_of_an_input_do_not_count():
    def result(samples: list[float], inputs: list[int]) -> dict[str, object]:
        return {"scenarios": [{"samples_ns": [[one * 1e6 for one in samples]], "inputs": inputs}]}

    # Inputs of 1, 2 and 3 ms, of which two rounds were disturbed.
    first = result([1, 2, 3, 40, 2, 3], [0, 1, 2, 0, 1, 2])
    second = result([1, 90, 3, 1, 2, 3], [0, 1, 2, 0, 1, 2])
    assert undisturbed_ms([first, second], 0) == 2
