"""Registry of tasks by name, imported lazily; installed distributions may add some."""

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
    """Return the names that a profile's `task` may have."""
    return tuple(TASKS)


def task_kind(name: str) -> TaskKind:
    """Return the kind of task named by a profile, a record or a model's `task.json`.

    Raises:
        KeyError: there is no task of this name.
    """
    return TASKS[name]


def generative_task() -> str:
    """Return the name of the task whose models generate text."""
    return next(name for name, kind in TASKS.items() if kind.generates)


def users_of_keys() -> dict[str, dict[str, str]]:
    """Return the profile keys that not every task uses: key -> task -> how the task uses it, as a verb phrase."""
    users: dict[str, dict[str, str]] = {}
    for name, kind in TASKS.items():
        for key, verb in kind.uses.items():
            users.setdefault(key, {})[name] = verb
    return users


def quantities_of(task: str) -> tuple[Quantity, ...]:
    """Return the task-specific quantities that models are measured by; none for a task that is not installed."""
    return task_kind(task).quantities if task in TASKS else ()


def users_of_quantities() -> dict[str, list[str]]:
    """Return the tasks that declare each quantity, by its name."""
    users: dict[str, list[str]] = {}
    for name, kind in TASKS.items():
        for quantity in kind.quantities:
            users.setdefault(quantity.name, []).append(name)
    return users


def quantity_kind(name: str) -> Quantity | None:
    """Return a quantity by its name in records; None if it is unknown."""
    quantities = (quantity for task in TASKS.values() for quantity in task.quantities)
    return next((quantity for quantity in quantities if quantity.name == name), None)


def metric_kind(name: str) -> MetricKind:
    """Return a metric by its name in records; one of a task that is not installed is assumed to be a fraction of 1."""
    metrics = (metric for task in TASKS.values() for metric in task.metrics)
    return next((metric for metric in metrics if metric.name == name), MetricKind(name, name))
