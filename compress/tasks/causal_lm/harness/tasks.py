"""Find lm-eval tasks, and reject unusable ones before anything is trained."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress.core.errors import DataError
from compress.models.teacher.location import check_code_allowed
from compress.tasks.causal_lm.keys import LmEvalSpec

TASKS = "data.lm_eval.tasks"
MAIN_METRICS = {"multiple_choice": "acc", "loglikelihood": "acc", "generate_until": "exact_match"}
"""Supported output types of tasks, and the metric that decides whether a document is answered correctly."""


def check_tasks(spec: LmEvalSpec, base: Path, *, allow_code: bool) -> None:
    """Check that tasks are available and can be scored here, without running anything of them.

    Raises:
        DataError: lm-eval is not installed, a task is unknown, or its documents have no right-or-wrong score.
        UsageError: the user's own tasks are not allowed to run code.
    """
    if spec.include is not None:
        # Besides `!function`, their templates are Jinja that lm-eval renders outside of a sandbox.
        check_code_allowed(spec.include, allow_code, "your own tasks are loaded")
        if not (base / spec.include).is_dir():
            raise DataError(
                "this folder of tasks does not exist", where=f"data.lm_eval.include: {spec.include}"
            )
    if find_spec("lm_eval") is None:
        raise DataError(
            "lm-eval tasks are requested, but lm-eval is not installed",
            where="data.lm_eval",
            hint="Install it: pip install lm-eval",
            code="not-installed",
        )
    index = task_manager(spec, base).task_index
    for name in spec.tasks:
        if (entry := index.get(name)) is None:
            raise DataError(
                f"lm-eval has no task {name!r}", where=TASKS, hint="`lm-eval ls tasks` lists them."
            )
        settings = entry.cfg or {}
        main_metric = MAIN_METRICS.get(settings.get("output_type", "multiple_choice"))
        metrics = [metric_entry.get("metric") for metric_entry in settings.get("metric_list", [])]
        if entry.kind.name != "TASK" or main_metric is None or (metrics and main_metric not in metrics):
            known = ", ".join(f"{output_type} by `{metric}`" for output_type, metric in MAIN_METRICS.items())
            raise DataError(
                f"{name!r} is not a single task whose documents are right or wrong ({known}); only such tasks can be "
                "scored",
                where=TASKS,
            )
        samples = settings.get("generation_kwargs", {}).get("do_sample") or settings.get("repeats", 1) > 1
        if main_metric == MAIN_METRICS["generate_until"] and samples:
            raise DataError(
                f"{name!r} asks for sampled answers, but only greedy decoding is supported here",
                where=TASKS,
            )
        if spec.shots and settings.get("num_fewshot") == 0:
            raise DataError(
                f"{name!r} is fixed at zero shots, and lm-eval enforces that",
                where="data.lm_eval.shots",
            )


def task_manager(spec: LmEvalSpec, base: Path) -> Any:
    """Return a manager of the user's own tasks, with lm-eval's if needed: indexing those takes seconds."""
    from lm_eval.tasks import TaskManager

    if spec.include is None:
        return _default_manager()
    task_folder = str(base / spec.include)
    own_manager = TaskManager(include_path=task_folder, include_defaults=False)
    if all(name in own_manager.task_index for name in spec.tasks):
        return own_manager
    return TaskManager(include_path=task_folder)


@cache
def _default_manager() -> Any:
    """Return the manager of lm-eval's own tasks, shared by all models that a process scores."""
    from lm_eval.tasks import TaskManager

    return TaskManager()
