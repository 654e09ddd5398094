"""Section on the quantities that a task declares beside the common ones."""

from __future__ import annotations

from compress.core.records import RunRecord
from compress.reporting.data.row import all_measured
from compress.reporting.render.document import Cell, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, significant
from compress.reporting.sections.run_sections import length_words
from compress.tasks.table import quantities_of


def quantities(run: RunRecord) -> Section:
    """Build the section of the task's quantities on each target, at every batch size and length that provides them."""
    declared = quantities_of(run.task)
    columns = ("Step", "batch", "timed", *(f"{each.words}, {each.unit}" for each in declared))
    tables = [
        Table(
            f"On {target}",
            columns,
            tuple(
                row(
                    step.step,
                    count(latency.batch_size),
                    Cell(length_words(latency.lengths), "disturbed" * latency.disturbed),
                    *(
                        significant(each.of(latency)) if each.among([latency]) else MISSING
                        for each in declared
                    ),
                    kind=step.role,
                )
                for step, found in all_measured(run, target)
                for latency in found.latency
                if any(each.among([latency]) for each in declared)
            ),
            frozenset({2}),
        )
        for target in run.targets
    ]
    words = (
        "Derived from the timings below, from their medians unless stated otherwise. Their names in budgets and "
        f"columns: {', '.join(each.name for each in declared)}.",
    )
    return section_of("quantities", f"Metrics specific to {run.task}", *tables, words=words)
