"""What a report says of models of characters beside what it says of all."""

from __future__ import annotations

from compress.core.records import RunRecord
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Section, Table, row
from compress.reporting.render.numbers import significant


def documents(run: RunRecord) -> Section:
    """How many characters a bit of memory would tell apart: the perplexity of each row."""
    rows = tuple(
        row(step.step, significant(2 ** step.measurements[0].accuracy.metrics[0].value))
        for step in ordered_steps(run)
        if step.measurements
    )
    return Section(
        "characters",
        "Characters",
        ("So many characters are as good as equally likely at each place.",),
        (Table("Perplexity", ("Step", "characters"), rows, frozenset({1})),),
    )
