"""What a report says of clustered weights."""

from __future__ import annotations

from compress.core.records import RunRecord
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Section, Table, row
from compress.reporting.render.numbers import count


def clusters(run: RunRecord) -> Section:
    """How many values the weights of how many maps share."""
    rows = tuple(
        row(step.step, count(found["maps"]), count(found["values"]))
        for step in ordered_steps(run)
        if step.kind == "cluster" and (found := step.facts.get("clustered"))
    )
    tables = (Table("Shared values", ("Step", "linear maps", "values each"), rows, frozenset({1, 2})),)
    return Section("clusters", "Clustered weights", (), tables if rows else ())
