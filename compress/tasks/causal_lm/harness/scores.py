"""Scores of a model on lm-eval tasks."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from compress.core.artifacts import TOKENIZER
from compress.core.disk.files import digest_of
from compress.core.errors import DataError
from compress.core.records import Metric, TaskScore
from compress.measuring.scoring import Generate
from compress.measuring.statistics import wilson_interval
from compress.models.text.tokenizer_files import open_without_truncation
from compress.tasks.base import Answers, Task
from compress.tasks.causal_lm.harness.tasks import MAIN_METRICS, TASKS, task_manager
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.windows import WindowInputs, read_text_format


def harness_scores(
    task: Task,
    model: Path,
    score_windows: Callable[[WindowInputs], Answers],
    generate: Generate,
    base: Path,
) -> tuple[TaskScore, ...]:
    """Return the scores of the artifact directory `model` on the tasks that the data names.

    Args:
        score_windows: maps windows to what is kept of the model's outputs, wherever it runs.
        generate: maps prompts and settings of `decoding.answers` to the tokens of the answers generated there.

    Raises:
        DataError: the documents of a task are not available.
        ModelError: the folder does not describe the model's text format.
    """
    data = task.data
    assert isinstance(data, LanguageData)
    spec = data.lm_eval
    if spec is None:
        return ()
    from lm_eval.evaluator import simple_evaluate

    from compress.tasks.causal_lm.harness.model import Harness

    harness = Harness(
        open_without_truncation(model / TOKENIZER), *read_text_format(model), score_windows, generate
    )
    with _isolated():
        try:
            results = simple_evaluate(
                harness,
                tasks=list(spec.tasks),
                limit=spec.limit,
                num_fewshot=spec.shots,
                task_manager=task_manager(spec, base),
                bootstrap_iters=0,
                torch_random_seed=None,
            )
        except (OSError, ValueError, KeyError, TypeError, ConnectionError) as error:
            raise DataError(f"lm-eval cannot run its tasks: {error}", where=TASKS) from error
    return tuple(_score(name, results) for name in spec.tasks)


def _score(name: str, results: Any) -> TaskScore:
    all_samples = sorted(results["samples"][name], key=lambda one: one["doc_id"])
    # Each way in which a task extracts the answer from the generated text is a filter; the first one decides.
    by_filter: dict[str, list[Any]] = {}
    for sample in all_samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    metrics = list[tuple[str, list[bool]]]()
    for filter_name, samples in by_filter.items():
        # Metrics that are right or wrong for each document become proportions; others are dropped.
        values_by_metric = {
            metric: [sample[metric] for sample in samples] for metric in samples[0]["metrics"]
        }
        binary_metrics = {
            metric: values
            for metric, values in values_by_metric.items()
            if all(sample in (0, 1) for sample in values)
        }
        main_metric = next(
            metric for metric in dict.fromkeys(MAIN_METRICS.values()) if metric in binary_metrics
        )
        for metric in sorted(binary_metrics, key=lambda one: (one != main_metric, one)):
            label = metric if len(by_filter) == 1 else f"{metric},{filter_name}"
            metrics.append((label, [bool(sample) for sample in binary_metrics[metric]]))
    hashes = [
        [sample["doc_hash"], sample["prompt_hash"], sample["target_hash"]]
        for sample in next(iter(by_filter.values()))
    ]
    return TaskScore(
        task=name,
        version=str(results["versions"][name]),
        harness=f"lm-eval {version('lm_eval')}",
        shots=int(results["n-shot"][name]),
        documents=digest_of(hashes),
        metrics=tuple(_metric(metric, values) for metric, values in metrics),
        right=tuple(metrics[0][1]),
    )


def _metric(name: str, correct: list[bool]) -> Metric:
    interval = wilson_interval(sum(correct), len(correct))
    return Metric(name=name, value=interval.value, low=interval.low, high=interval.high, n=len(correct))


@contextmanager
def _isolated() -> Iterator[None]:
    """Keep lm-eval's seeding of the process's random generators and its progress output from leaking out."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
