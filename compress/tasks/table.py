"""The tasks there are, by name: none is imported before it is asked for, and installed distributions may add some."""

from __future__ import annotations

from compress.core.plugins import Table
from compress.core.task_kind import MetricKind, Quantity, TaskKind

TASKS: Table[TaskKind] = Table(
    "compress.tasks",
    TaskKind,
    {
        "text-classification": "compress.tasks.text_classification.kind:KIND",
        "image-classification": "compress.tasks.image_classification.kind:KIND",
        "sentence-embedding": "compress.tasks.sentence_embedding.kind:KIND",
        "causal-lm": "compress.tasks.causal_lm.kind:KIND",
    },
)


def task_names() -> tuple[str, ...]:
    """What a profile may name as its `task`."""
    return tuple(TASKS)


def task_kind(name: str) -> TaskKind:
    """The kind of problem that a profile, a record or a model's `task.json` names.

    Raises:
        KeyError: there is none of this name.
    """
    return TASKS[name]


def writing_task() -> str:
    """The task whose models write texts."""
    return next(name for name, kind in TASKS.items() if kind.writes)


def users_of_keys() -> dict[str, dict[str, str]]:
    """The keys of a profile that not every task uses: which tasks do, and what they do with them."""
    found: dict[str, dict[str, str]] = {}
    for name, kind in TASKS.items():
        for key, verb in kind.uses.items():
            found.setdefault(key, {})[name] = verb
    return found


def quantities_of(task: str) -> tuple[Quantity, ...]:
    """What a task's models are measured by beside what all are; nothing of a task that is not installed."""
    return task_kind(task).quantities if task in TASKS else ()


def users_of_quantities() -> dict[str, list[str]]:
    """The tasks that declare a quantity, by its name."""
    found: dict[str, list[str]] = {}
    for name, kind in TASKS.items():
        for quantity in kind.quantities:
            found.setdefault(quantity.name, []).append(name)
    return found


def quantity_kind(name: str) -> Quantity | None:
    """A quantity by the name that records have for it; None: none is called so."""
    every = (quantity for task in TASKS.values() for quantity in task.quantities)
    return next((quantity for quantity in every if quantity.name == name), None)


def metric_kind(name: str) -> MetricKind:
    """A metric by the name that records have for it; one of a task that is not installed is a share of 1."""
    every = (metric for task in TASKS.values() for metric in task.metrics)
    return next((metric for metric in every if metric.name == name), MetricKind(name, name))
