"""Whether what a device sent back is what a job of that kind makes: nothing else is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError


class _Result(BaseModel):
    model_config = ConfigDict(strict=True)

    seconds: float


class _Accuracy(_Result):
    examples: NonNegativeInt


class _Timed(BaseModel):
    model_config = ConfigDict(strict=True)

    samples_ns: list[list[PositiveInt]]
    inputs: list[NonNegativeInt]


class _Latency(_Result):
    scenarios: list[_Timed]
    tokenization_ns: list[PositiveInt] | None = None


class _Memory(_Result):
    before_load_bytes: PositiveInt
    peak_bytes: PositiveInt
    method: str
    gpu_peak_bytes: NonNegativeInt | None


_KINDS: dict[str, type[_Result]] = {"accuracy": _Accuracy, "latency": _Latency, "memory": _Memory}


def result_fault(job: Mapping[str, Any], result: object) -> str | None:
    """What is wrong with the parsed result of a job; None where nothing is."""
    try:
        parsed = _KINDS[job["kind"]].model_validate(result)
    except ValidationError as error:
        return str(error)
    if isinstance(parsed, _Accuracy):
        expected = examples_in(job["feeds"])
        return None if parsed.examples == expected else f"{parsed.examples} of {expected} examples"
    if isinstance(parsed, _Latency):
        models = len(job["models"])
        # Of each model, and of the batches that they were timed on.
        shapes = [[*map(len, one.samples_ns), len(one.inputs)] for one in parsed.scenarios]
        right = len(shapes) == len(job["scenarios"]) and all(
            len(lengths) == models + 1 and len(set(lengths)) == 1 and lengths[0] > 0 for lengths in shapes
        )
        return None if right else f"{shapes} timings"
    return None


def output_fault(job: Mapping[str, Any]) -> str | None:
    """What is wrong with the file of outputs of an accuracy job; None where nothing is."""
    try:
        outputs = np.load(job["outputs"], mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return str(error)
    if not isinstance(outputs, np.ndarray) or outputs.dtype != np.float32 or outputs.ndim < 2:
        return "no array of numbers for each example"
    return None if len(outputs) == examples_in(job["feeds"]) else f"outputs of {len(outputs)} examples"


def examples_in(feeds: str) -> int:
    """Examples in a file of `runner.write_batches`."""
    with np.load(feeds, allow_pickle=False) as stored:
        name = next(name for name in stored.files if name.endswith(".shape"))
        return int(stored[name][:, 0].sum())
