"""A run as a document: the sections of a report and their order."""

from __future__ import annotations

from compress.core.plugins import call_named
from compress.core.records import RunRecord
from compress.passes.table import PASSES
from compress.reporting.data import pareto
from compress.reporting.render.document import Document
from compress.reporting.sections import headline, result_sections, run_sections
from compress.reporting.sections.disturbances import disturbances
from compress.reporting.sections.quantities import quantities
from compress.reporting.sections.training import training
from compress.tasks.table import TASKS


def document(run: RunRecord) -> Document:
    """Build the report of `run`; for a failed run it shows what was completed, and why it ended."""
    status, tone = headline.status_words(run)
    # A task that is not installed here provides no sections.
    task_sections = TASKS[run.task].sections if run.task in TASKS else ()
    sections = (
        headline.budget(run),
        result_sections.steps(run),
        result_sections.score_plots(run),
        result_sections.passes(run),
        pareto.front(run),
        quantities(run),
        *(call_named(section, run) for section in task_sections),
        run_sections.timings(run),
        disturbances(run),
        run_sections.targets(run),
        run_sections.metrics(run),
        run_sections.memory(run),
        training(run),
        *(call_named(section, run) for kind in PASSES.values() for section in kind.sections),
        run_sections.findings(run),
        run_sections.protocol(run),
        run_sections.data(run),
        run_sections.environment(run),
        run_sections.profile(run),
    )
    return Document(
        title=run.profile,
        subtitle=f"{run.task}, run {run.run}",
        status=status,
        tone=tone,
        verdicts=headline.verdicts(run),
        tiles=headline.tiles(run),
        sections=tuple(section for section in sections if not section.empty),
    )
