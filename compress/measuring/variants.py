"""Comparison of variants of a model on validation examples, for passes that choose by measuring."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.core.numerics import core_count
from compress.encoding.inputs import Inputs, per_row
from compress.measuring.jobs import Job, JobFolder
from compress.measuring.results import load_answers
from compress.measuring.timing.disturbance import any_disturbed
from compress.measuring.timing.feeds import sample_indices, scenarios
from compress.measuring.timing.latency import VariantTimes, median_ms, time_models
from compress.profile.schema import MeasureSpec
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Answers, Task, Truth

TIMING_SETTINGS = MeasureSpec(examples=50, min_seconds=1.0, min_rounds=12)
"""Settings for timing each variant."""
MAX_SCORED_EXAMPLES = 1000
"""Maximum number of scored examples."""
PROCESSES = 2
_TEMP_PREFIX = "compress-variants-"


class Variant(NamedTuple):
    """Result of a variant: its score (larger is better), its median milliseconds per example, and whether the timing is
    unusable because of other processes."""

    score: float
    p50_ms: float
    disturbed: bool = False


@dataclass(frozen=True)
class VariantComparison:
    """Setup for comparing variants of a model: examples and target.

    Args:
        inputs: encoded validation examples, the same for all variants.
        truth: what outputs are scored against; pairs are sampled as a whole.
        task: the task that scores outputs.
        target: target for scoring and timing, one example at a time.
        seed: seed for sampling examples if there are more than needed.
        reference: ONNX file of the model that the variants replace; its outputs become the reference of `truth`, for
            tasks that compare with one.
    """

    inputs: Inputs
    truth: Truth
    task: Task
    target: ResolvedTarget
    seed: int
    reference: Path | None = None

    def compare(self, paths: Mapping[str, Path]) -> dict[str, Variant]:
        """Score ONNX files and time them in alternation, in child processes; return results by name.

        Raises:
            TargetError: a variant cannot be run, or the device of the target is lost.
        """
        with tempfile.TemporaryDirectory(prefix=_TEMP_PREFIX) as name:
            jobs = JobFolder.of_target(Path(name), self.target)
            scores = self._scores(jobs, [*paths.values()])
            times = _times(jobs, [*paths.values()], self.inputs, self.seed)
        found = zip(paths, scores, times.ms, strict=True)
        return {path: Variant(score, ms, times.disturbed) for path, score, ms in found}

    def scores(self, paths: Mapping[str, Path]) -> dict[str, float]:
        """Score ONNX files as in `compare`, without timing them.

        Raises:
            TargetError: a variant cannot be run, or the device of the target is lost.
        """
        with tempfile.TemporaryDirectory(prefix=_TEMP_PREFIX) as name:
            jobs = JobFolder.of_target(Path(name), self.target)
            return dict(zip(paths, self._scores(jobs, [*paths.values()]), strict=True))

    def _scores(self, jobs: JobFolder, paths: Sequence[Path]) -> list[float]:
        indices, truth = sample_for_scoring(self.inputs, self.truth, self.seed)
        # Remote devices may be small, so they run one process at a time.
        max_parallel = core_count() // self.target.spec.threads if self.target.device is None else 1
        if self.reference is not None:
            (outputs,) = _outputs(jobs, [self.reference], self.inputs, indices, 1)
            truth = replace(truth, reference=outputs)
        feeds = jobs.feeds("scored", [self.inputs.batch([index]) for index in indices.tolist()])
        scoring_jobs = [
            jobs.score(str(file), feeds, self.task, {}, f"answers-{number}")
            for number, file in enumerate(paths)
        ]
        _run_in_groups(jobs, [job for job, _ in scoring_jobs], max_parallel)
        return [self.task.score(load_answers(file), truth).rank for _, file in scoring_jobs]


def variant_outputs(
    files: Sequence[Path], inputs: Inputs, indices: NDArray[np.int64], threads: int
) -> list[NDArray[np.float32]]:
    """Compute the outputs of ONNX files for some of the inputs, in child processes on this machine's CPU.

    Returns:
        For each file an array (len(chosen), ...), with shorter outputs zero-padded to the longest.

    Raises:
        TargetError: a file cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix=_TEMP_PREFIX) as name:
        jobs = JobFolder(Path(name), "onnxruntime", "cpu", threads, "quantization variants")
        return _outputs(jobs, files, inputs, indices, core_count() // threads)


def variant_answers(
    file: Path, inputs: Inputs, indices: NDArray[np.int64], task: Task, threads: int
) -> Answers:
    """Compute the task's reduced outputs of an ONNX file for some of the inputs, run as in `variant_outputs`.

    Raises:
        TargetError: the file cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix=_TEMP_PREFIX) as name:
        jobs = JobFolder(Path(name), "onnxruntime", "cpu", threads, "quantization variants")
        feeds = jobs.feeds("scored", [inputs.batch([index]) for index in indices.tolist()])
        job, answers = jobs.score(str(file), feeds, task, {})
        jobs.run(job)
        return load_answers(answers)


def variant_ms(file: Path, inputs: Inputs, target: ResolvedTarget, *, seed: int) -> VariantTimes:
    """Time an ONNX file on a target, in child processes; the median milliseconds per example.

    Raises:
        TargetError: the file cannot be run, or the device of the target is lost.
    """
    with tempfile.TemporaryDirectory(prefix=_TEMP_PREFIX) as name:
        return _times(JobFolder.of_target(Path(name), target), [file], inputs, seed)


def _outputs(
    jobs: JobFolder,
    files: Sequence[Path],
    inputs: Inputs,
    indices: NDArray[np.int64],
    max_parallel: int,
) -> list[NDArray[np.float32]]:
    feeds = jobs.feeds("scored", [inputs.batch([index]) for index in indices.tolist()])
    output_jobs = [jobs.outputs(str(file), feeds, f"outputs-{number}") for number, file in enumerate(files)]
    _run_in_groups(jobs, [job for job, _ in output_jobs], max_parallel)
    return [load_answers(file)["outputs"] for _, file in output_jobs]


def _run_in_groups(jobs: JobFolder, pending: Sequence[Job], max_parallel: int) -> None:
    """Run jobs, at most `max_parallel` in parallel, but at least one."""
    max_parallel = max(1, max_parallel)
    for start in range(0, len(pending), max_parallel):
        jobs.run(*pending[start : start + max_parallel])


def _times(jobs: JobFolder, files: Sequence[Path], inputs: Inputs, seed: int) -> VariantTimes:
    """Time files in alternation; the median milliseconds per example of each."""
    scenario = scenarios(sample_indices(len(inputs), TIMING_SETTINGS.examples, seed), [1], [])[0]
    feeds = jobs.feeds("timed", scenario.batches(inputs))
    spec = TIMING_SETTINGS.model_copy(update={"min_seconds": TIMING_SETTINGS.min_seconds * len(files)})
    results = time_models(
        jobs, [str(file) for file in files], [[feeds] * len(files)], spec, processes=PROCESSES
    )
    return VariantTimes(
        tuple(median_ms(results, which) for which in range(len(files))), any_disturbed(results)
    )


def sample_for_scoring(inputs: Inputs, truth: Truth, seed: int) -> tuple[NDArray[np.int64], Truth]:
    """Sample at most `MAX_SCORED_EXAMPLES` rows of encoded examples to score; return their indices and the truth for
    them.

    A row of a long text is a window; pairs stay together.
    """
    if truth.scores is None:
        indices = np.sort(sample_indices(len(inputs), MAX_SCORED_EXAMPLES, seed))
        return indices, truth.take(per_row(np.arange(len(truth.labels)), inputs)[indices])
    pairs = np.sort(sample_indices(len(inputs) // 2, MAX_SCORED_EXAMPLES // 2, seed))
    indices = np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)
    return indices, Truth(truth.labels[indices], truth.scores[pairs])
