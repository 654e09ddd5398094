"""Validation of the results of jobs, which come from child processes or devices and are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

SampleNs = Annotated[int, Field(gt=0, lt=10**14)]
"""Nanoseconds for one batch or text, at most about a day."""
WaitNs = Annotated[int, Field(ge=0, lt=10**16)]
"""Nanoseconds that all threads waited in that time, summed."""
Seconds = Annotated[FiniteFloat, Field(ge=0, lt=10**7)]
"""Seconds, or a share of them."""
Bytes = Annotated[int, Field(ge=0, lt=2**50)]
MAX_OUTPUT_WIDTH = 2**20
"""Maximum number of values in the output for one example."""


class _Result(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    seconds: Annotated[float, Field(ge=0, lt=10**7)]


class _Score(_Result):
    examples: NonNegativeInt
    shape: Annotated[list[NonNegativeInt], Field(max_length=16)]
    refused: Annotated[str, Field(max_length=1000)] | None


class _MachineCounters(BaseModel):
    model_config = ConfigDict(strict=True)

    wall: Seconds
    pressure: Seconds | None
    stolen: Seconds | None
    switches: Annotated[int, Field(ge=0, lt=2**50)] | None


class _ScenarioResult(BaseModel):
    model_config = ConfigDict(strict=True)

    samples_ns: list[list[SampleNs]]
    inputs: list[NonNegativeInt]
    waited_ns: list[list[WaitNs]] | None = None
    waited_by: Literal["schedstat", "processor time", "unknown"] = "unknown"
    wanted: PositiveInt = 1
    patient_s: Seconds = 0.0
    machine: _MachineCounters | None = None


class _Latency(_Result):
    scenarios: list[_ScenarioResult]
    load_ns: list[SampleNs] | None = None
    tokenization_ns: list[SampleNs] | None = None


class _Memory(_Result):
    before_load_bytes: Annotated[Bytes, Field(gt=0)]
    peak_bytes: Annotated[Bytes, Field(gt=0)]
    method: Annotated[str, Field(max_length=100)]
    gpu_peak_bytes: Bytes | None


_KINDS: dict[str, type[_Result]] = {
    "score": _Score,
    "latency": _Latency,
    "memory": _Memory,
}


def result_fault(job: Mapping[str, Any], result: object) -> str | None:
    """Return what is wrong with the parsed result of a job; None if it is valid."""
    try:
        parsed = _KINDS[job["kind"]].model_validate(result)
    except ValidationError as error:
        return str(error)
    if isinstance(parsed, _Score):
        expected = count_examples(job["feeds"])
        return None if parsed.examples == expected else f"{parsed.examples} of {expected} examples"
    if isinstance(parsed, _Latency):
        return _timing_fault(job, parsed)
    if isinstance(parsed, _Memory) and parsed.peak_bytes < parsed.before_load_bytes:
        return "a peak below the memory held before loading"
    return None


def _timing_fault(job: Mapping[str, Any], parsed: _Latency) -> str | None:
    models = len(job["models"])
    # Per scenario: the number of samples and waits of each model, and of the recorded inputs.
    sample_counts = [
        [*map(len, one.samples_ns), *map(len, one.waited_ns or one.samples_ns), len(one.inputs)]
        for one in parsed.scenarios
    ]
    consistent = len(sample_counts) == len(job["scenarios"]) and all(
        len(counts) == 2 * models + 1 and len(set(counts)) == 1 and counts[0] > 0 for counts in sample_counts
    )
    if not consistent:
        return f"{sample_counts} timings"
    for scenario, requested in zip(parsed.scenarios, job["scenarios"], strict=True):
        if scenario.wanted > len(scenario.inputs):
            return "fewer rounds than requested"
        if requested["feeds"] and max(scenario.inputs) >= len(_first_shapes(requested["feeds"][0])):
            return "timings of batches that do not exist"
    if parsed.load_ns is not None and len(parsed.load_ns) != models:
        return f"{len(parsed.load_ns)} load times"
    texts = job["tokenization"]["texts"] if job.get("tokenization") else []
    times = parsed.tokenization_ns or []
    return None if len(times) == len(texts) else f"timings of {len(times)} of {len(texts)} texts"


def output_fault(job: Mapping[str, Any], result: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the output file of a scoring job; None if it is valid."""
    if result["refused"] is not None:
        return None
    try:
        with ZipFile(job["outputs"]) as stored:
            # A small compressed file could expand beyond the available memory.
            if any(one.compress_type != ZIP_STORED for one in stored.infolist()):
                return "compressed outputs"
        answers = load_answers(job["outputs"])
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile) as error:
        return str(error)
    examples = count_examples(job["feeds"])
    if not answers:
        return "no answers"
    for name, values in answers.items():
        if values.dtype.kind not in "biuf" or values.ndim < 1:
            return f"{name} that are not numbers"
        if len(values) != examples:
            return f"outputs of {len(values)} examples"
        if not values.size or values[0].size > MAX_OUTPUT_WIDTH:
            return f"outputs of shape {values.shape}"
        if not np.isfinite(values).all():
            return "outputs that are not finite numbers"
    return None


def load_answers(path: str | Path) -> dict[str, NDArray[Any]]:
    """Load the named arrays that a scoring job wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: np.asarray(stored[name]) for name in stored.files}


def count_examples(feeds: str) -> int:
    """Return the number of examples in a file of `runner.write_batches`."""
    return int(_first_shapes(feeds)[:, 0].sum())


def _first_shapes(feeds: str) -> NDArray[np.int64]:
    """Return the shape of the first input in each batch, (batches, rank)."""
    with np.load(feeds, allow_pickle=False) as stored:
        return np.asarray(stored["shapes.0"], np.int64)
