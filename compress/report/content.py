"""A run as a document: which sections a report has, and in which order."""

from __future__ import annotations

from compress.records import RunRecord
from compress.report import answers, circumstances, classes, headline, pareto, results
from compress.report.disturbances import disturbances
from compress.report.document import Document, filled
from compress.report.phones import phones
from compress.report.pruned_to import pruned_to
from compress.report.sensitivity import sensitivity
from compress.report.training import training


def document(run: RunRecord) -> Document:
    """Everything that a report of `run` says; a failed run shows what was completed, and why it ended."""
    status, tone = headline.status_words(run)
    return Document(
        title=run.profile,
        subtitle=f"{run.task}, run {run.run}",
        status=status,
        tone=tone,
        verdicts=headline.verdicts(run),
        tiles=headline.tiles(run),
        sections=filled(
            (
                headline.budget(run),
                results.steps(run),
                results.plane(run),
                results.passes(run),
                pareto.front(run),
                classes.classes(run),
                answers.answers(run),
                answers.calibration(run),
                circumstances.timings(run),
                disturbances(run),
                circumstances.targets(run),
                circumstances.metrics(run),
                circumstances.memory(run),
                training(run),
                sensitivity(run),
                pruned_to(run),
                phones(run),
                circumstances.findings(run),
                circumstances.protocol(run),
                circumstances.data(run),
                circumstances.environment(run),
                circumstances.profile(run),
            )
        ),
    )
