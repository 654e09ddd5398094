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
from compress.measuring.scoring import Writes
from compress.measuring.statistics import wilson
from compress.models.text.tokenizer_files import open_without_truncation
from compress.tasks.base import Answers, Task
from compress.tasks.causal_lm.harness.tasks import FIRST, TASKS, tasks_of
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.windows import WindowInputs, reading_of


def scored_in(
    task: Task,
    model: Path,
    answer: Callable[[WindowInputs], Answers],
    write: Writes,
    base: Path,
) -> tuple[TaskScore, ...]:
    """Return the scores of the artifact directory `model` on the tasks that the data names.

    Args:
        answer: maps windows to what is kept of the model's outputs, wherever it runs.
        write: maps prompts and settings of `decoding.answers` to the tokens of the answers generated there.

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

    asking = Harness(open_without_truncation(model / TOKENIZER), *reading_of(model), answer, write)
    with _quiet_and_drawn_alike():
        try:
            found = simple_evaluate(
                asking,
                tasks=list(spec.tasks),
                limit=spec.limit,
                num_fewshot=spec.shots,
                task_manager=tasks_of(spec, base),
                bootstrap_iters=0,
                torch_random_seed=None,
            )
        except (OSError, ValueError, KeyError, TypeError, ConnectionError) as error:
            raise DataError(f"lm-eval cannot run its tasks: {error}", where=TASKS) from error
    return tuple(_score(name, found) for name in spec.tasks)


def _score(name: str, found: Any) -> TaskScore:
    every = sorted(found["samples"][name], key=lambda one: one["doc_id"])
    # Each way in which a task extracts the answer from the generated text is a filter; the first one decides.
    ways: dict[str, list[Any]] = {}
    for one in every:
        ways.setdefault(one["filter"], []).append(one)
    metrics = list[tuple[str, list[bool]]]()
    for way, samples in ways.items():
        # Metrics that are right or wrong for each document become proportions; others are dropped.
        said = {metric: [one[metric] for one in samples] for metric in samples[0]["metrics"]}
        shares = {metric: values for metric, values in said.items() if all(one in (0, 1) for one in values)}
        first = next(metric for metric in dict.fromkeys(FIRST.values()) if metric in shares)
        for metric in sorted(shares, key=lambda one: (one != first, one)):
            named = metric if len(ways) == 1 else f"{metric},{way}"
            metrics.append((named, [bool(one) for one in shares[metric]]))
    asked = [[one["doc_hash"], one["prompt_hash"], one["target_hash"]] for one in next(iter(ways.values()))]
    return TaskScore(
        task=name,
        version=str(found["versions"][name]),
        harness=f"lm-eval {version('lm_eval')}",
        shots=int(found["n-shot"][name]),
        documents=digest_of(asked),
        metrics=tuple(_metric(metric, values) for metric, values in metrics),
        right=tuple(metrics[0][1]),
    )


def _metric(name: str, right: list[bool]) -> Metric:
    share = wilson(sum(right), len(right))
    return Metric(name=name, value=share.value, low=share.low, high=share.high, n=len(right))


@contextmanager
def _quiet_and_drawn_alike() -> Iterator[None]:
    """Keep lm-eval's seeding of the process's random generators and its progress output from leaking out."""
    drawn, numbers = random.getstate(), np.random.get_state()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(numbers)
