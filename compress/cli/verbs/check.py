"""`compress check`: compare a run with an earlier report, for continuous integration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from compress.cli.options import JSON, NonNegative
from compress.core.terminal.printing import echo


def _tolerance(
    quantity: str, default: float, help_text: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option for the tolerance of a quantity."""
    return click.option(
        f"--tolerance-{quantity}", type=NonNegative(), default=default, show_default=True, help=help_text
    )


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option(
    "--against", required=True, metavar="REPORT", help="The earlier report.json, or the earlier run."
)
@_tolerance(
    "score",
    0.005,
    "How much worse the score may be: 0.005 is half a point, or half a percent of a perplexity.",
)
@_tolerance("latency", 0.10, "How much the latency may grow, as a fraction.")
@_tolerance("size", 0.01, "How much the model's files may grow, as a fraction.")
@_tolerance("memory", 0.15, "How much the peak memory may grow, as a fraction.")
@click.option(
    "--deployed", is_flag=True, help="Judge only the model that each deploys, whatever its row is called."
)
@click.option(
    "--allow-unjudged",
    is_flag=True,
    help="Exit with 0 even if something could not be judged, for example on a busy machine.",
)
@JSON
def check(
    run_name: str,
    against: str,
    tolerance_score: float,
    tolerance_latency: float,
    tolerance_size: float,
    tolerance_memory: float,
    deployed: bool,
    allow_unjudged: bool,
    as_json: bool,
) -> None:
    """Compare a run (or a report.json) with an earlier report: exit code 3 if it got worse beyond a tolerance, or if
    that could not be judged."""
    import json

    from compress.core.disk.reading import content_errors
    from compress.core.errors import BudgetMissed, NotJudged, UsageError
    from compress.core.terminal.console import Terminal
    from compress.reporting.checking import Tolerances
    from compress.reporting.checking import check as judge
    from compress.reporting.data.report_reader import as_report, find_report
    from compress.store.runs import RUNS

    results = [find_report(word, Path.cwd() / RUNS) for word in (run_name, against)]
    tolerances = Tolerances(tolerance_score, tolerance_latency, tolerance_size, tolerance_memory)
    with content_errors("one of these reports", f"{run_name} {against}", UsageError):
        current, reference = map(as_report, results)
        comparison = judge(current, reference, tolerances, deployed_only=deployed)
        if as_json:
            result = {"run": current["run"], "against": reference["run"], **comparison.as_dict()}
            echo(json.dumps(result, indent=2, ensure_ascii=False))
        else:
            Terminal().print(comparison.table())
    if comparison.worse:
        quantities = ", ".join(f"{line.quantity} of {line.step}" for line in comparison.worse)
        raise BudgetMissed(
            f"worse than {reference['run']} beyond the tolerance: {quantities}", where=str(current["run"])
        )
    if comparison.unjudged and not allow_unjudged:
        quantities = ", ".join(f"{line.quantity} of {line.step}" for line in comparison.unjudged)
        raise NotJudged(f"not judged against {reference['run']}: {quantities}", where=str(current["run"]))
