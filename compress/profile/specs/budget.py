"""The limits of a profile's budget: those of every task, and one for each quantity that a task is measured by."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, create_model

from compress.core.spec import PassSpecBase
from compress.tasks.table import quantities_of, users_of_quantities


class BudgetSpec(PassSpecBase):
    """Limits that the deployed model must meet on the first target."""

    retention: Annotated[float, Field(gt=0)] | None = None
    """At least: score relative to the baseline's (baseline over score for a metric where less is better, such as
    perplexity)."""
    score: Annotated[float, Field(gt=0)] | None = None
    """At least: value of the task's metric; at most, where less is better."""
    speedup: Annotated[float, Field(gt=0)] | None = None
    """At least: median latency of the baseline over that of the model, at the first batch size."""
    latency_p50_ms: Annotated[float, Field(gt=0)] | None = None
    """At most: median latency in ms, at the first batch size."""
    latency_p95_ms: Annotated[float, Field(gt=0)] | None = None
    """At most: 95th percentile of the latency in ms, at the first batch size."""
    size_mb: Annotated[float, Field(gt=0)] | None = None
    """At most: size of the model's files in MB (10^6 bytes)."""
    peak_memory_mb: Annotated[float, Field(gt=0)] | None = None
    """At most: peak memory in MB (10^6 bytes), above the process size before the model is loaded."""
    judge: Literal["last", "each"] = "last"
    """`last`: check the deployed model only; `each`: check the result of every pass too."""


@cache
def budget_spec(task: str) -> type[BudgetSpec]:
    """Return the schema of a task's budget: the limits of every task, and one for each quantity that it measures."""
    limits: dict[str, Any] = {
        quantity.name: (
            Annotated[float, Field(gt=0)] | None,
            Field(
                default=None,
                description=f"At {'most' if quantity.smaller_is_better else 'least'}: {quantity.display_name}, "
                f"{quantity.unit}, at the first batch size and sequence length.",
            ),
        )
        for quantity in quantities_of(task)
    }
    if not limits:
        return BudgetSpec
    return cast(type[BudgetSpec], create_model("BudgetSpec", __base__=BudgetSpec, **limits))


def _validate_for_task(value: Any, info: ValidationInfo) -> Any:
    """Validate the budget of a task. Limits of other tasks are dropped: `key_faults` reports them."""
    task = info.data.get("task")
    if task is None or isinstance(value, BudgetSpec):
        return value
    if isinstance(value, dict):
        foreign = users_of_quantities().keys() - budget_spec(task).model_fields.keys()
        value = {key: limit for key, limit in value.items() if key not in foreign}
    return budget_spec(task).model_validate(value)


TaskBudget = Annotated[SerializeAsAny[BudgetSpec], BeforeValidator(_validate_for_task)]
"""The section `budget`; a field of this type must follow the field `task`."""
