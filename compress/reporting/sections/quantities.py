"""Section on the quantities that a task declares beside the common ones."""

from __future__ import annotations

from compress.core.records import RunRecord
from compress.reporting.data.row import measurements_on
from compress.reporting.render.document import Cell, Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, significant
from compress.reporting.sections.run_sections import length_words
from compress.tasks.table import quantities_of


def quantities(run: RunRecord) -> Section:
    """Build the section of the task's quantities on each target, at every batch size and length that provides them."""
    declared = quantities_of(run.task)
    columns = (
        "Step",
        "batch",
        "timed",
        *(f"{quantity.display_name}, {quantity.unit}" for quantity in declared),
    )
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
                        significant(quantity.value_of(latency)) if quantity.matching([latency]) else MISSING
                        for quantity in declared
                    ),
                    kind=step.role,
                )
                for step, measurement in measurements_on(run, target)
                for latency in measurement.latency
                if any(quantity.matching([latency]) for quantity in declared)
            ),
            frozenset({2}),
        )
        for target in run.targets
    ]
    paragraphs = (
        "Derived from the timings below, from their medians unless stated otherwise. Their names in budgets and "
        f"columns: {', '.join(quantity.name for quantity in declared)}.",
    )
    return section_of("quantities", f"Metrics specific to {run.task}", *tables, paragraphs=paragraphs)
