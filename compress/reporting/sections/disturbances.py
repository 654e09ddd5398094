"""Section on interference by other processes during timing."""

from __future__ import annotations

from compress.core.records import RunRecord
from compress.core.units import format_seconds
from compress.reporting.data.row import measurements_on
from compress.reporting.render.document import Cell, Section, Table, row, section_of
from compress.reporting.render.numbers import count, percent, significant
from compress.reporting.sections.run_sections import length_words


def disturbances(run: RunRecord) -> Section:
    """Build the section on other activity of the machine while each row was timed."""
    rows = [
        row(
            Cell(step.step, f"{target}, batch {latency.batch_size}, {length_words(latency.lengths)}"),
            _share(disturbance.waited),
            _share(disturbance.baseline_waited),
            f"{count(disturbance.disturbed_rounds)} of {count(disturbance.rounds)}",
            _share(disturbance.pressure),
            _share(disturbance.stolen),
            significant(disturbance.switches),
            format_seconds(disturbance.patient_s),
            Cell("disturbed", disturbance.told_by, "bad")
            if disturbance.disturbed
            else Cell("unknown" if disturbance.disturbed is None else "undisturbed", disturbance.told_by),
            kind=step.role,
        )
        for target in run.targets
        for step, measurement in measurements_on(run, target)
        for latency in measurement.latency
        if (disturbance := latency.disturbance) is not None
    ]
    paragraphs = (
        "Waited: how long the threads of the timing process waited for a core, as a share of the rounds' time (summed "
        "over all waits). A round in which they waited for more than 2 % of it is discarded and timed again while "
        "`measure.patience_s` lasts; if more than a tenth of the rounds of a process stay disturbed, so does the row, "
        "and its numbers are those of all rounds. Pressure: the share of time in which any thread on the machine "
        "waited for a core. Stolen: time that a hypervisor took from the machine's cores. Switches: how often per "
        "round the process lost its core. Contention for anything but cores (caches, memory, a GPU) is not detected.",
    )
    columns = (
        *("Step", "waited", "baseline waited", "disturbed rounds", "pressure", "stolen", "switches"),
        *("timed again for", "verdict"),
    )
    table = Table("Interference by other processes during timing", columns, tuple(rows), frozenset({8}))
    return section_of("disturbances", "Interference by other processes", table, paragraphs=paragraphs)


def _share(value: float | None) -> str:
    return "unknown" if value is None else percent(value)
