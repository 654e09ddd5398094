"""Report section of mobile deployment: the operators of a reduced build, and what accelerators could run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compress.core.records import RunRecord, StepRecord
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Cell, Row, Section, Table, Tone, row
from compress.reporting.render.numbers import count

_ACCELERATORS = {"nnapi": "NNAPI", "coreml": "CoreML"}
_TONES: dict[str, Tone] = {"yes": "good", "no": "bad"}


def phones(run: RunRecord) -> Section:
    """Report the result of onnxruntime's mobile usability check, and the operators needed in a build for phones."""
    steps = list(_mobile(run))
    if not steps:
        return Section("phones", "On phones")
    words = (
        "According to onnxruntime's mobile usability check, which reads its tables: nothing was run on a phone. The "
        "CPU runs all operators; an accelerator takes the nodes it supports, and the fewer partitions, the better.",
    )
    columns = (
        "Step",
        "accelerator",
        "nodes",
        "parts",
        "nodes, fixed shapes",
        "partitions, fixed shapes",
        "worth trying",
    )
    usability = Table(
        "What accelerators could run",
        columns,
        tuple(line for step, mobile in steps for line in _usability(step, mobile)),
        frozenset({1, 6}),
    )
    operators = Table(
        "Operators of a reduced build",
        ("Step", "domain", "operators"),
        tuple(line for step, _ in steps for line in _operators(step)),
        frozenset({1, 2}),
    )
    return Section(
        "phones", "On phones", words, tuple(table for table in (usability, operators) if table.rows)
    )


def phone_lines(run: RunRecord) -> list[str]:
    """Report the same for a terminal, one line per export."""
    lines = []
    for step, mobile in _mobile(run):
        operators = sum(len(names) for names in step.facts.get("operators", {}).values())
        coverage = ", ".join(
            f"{name} {mobile[key]['nodes_fixed']} (worth trying: {mobile[key]['verdict']})"
            for key, name in _ACCELERATORS.items()
            if key in mobile
        )
        lines.append(
            f"{step.step}: {operators} operators in a reduced build; of {mobile['nodes']} nodes {coverage}"
        )
    return lines


def _mobile(run: RunRecord) -> Iterator[tuple[StepRecord, Mapping[str, Any]]]:
    for step in ordered_steps(run):
        mobile = step.facts.get("mobile")
        if isinstance(mobile, Mapping):
            yield step, mobile


def _usability(step: StepRecord, mobile: Mapping[str, Any]) -> Iterator[Row]:
    for key, name in _ACCELERATORS.items():
        if key in mobile:
            usability, nodes = mobile[key], count(mobile["nodes"])
            yield row(
                step.step,
                name,
                f"{count(usability['nodes'])} of {nodes}",
                count(usability["partitions"]),
                f"{count(usability['nodes_fixed'])} of {nodes}",
                count(usability["partitions_fixed"]),
                Cell(usability["verdict"], tone=_TONES.get(usability["verdict"], "")),
            )


def _operators(step: StepRecord) -> Iterator[Row]:
    for domain, names in step.facts.get("operators", {}).items():
        yield row(step.step, domain, ", ".join(names))
