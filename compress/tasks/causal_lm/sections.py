"""What a report says of language models beside what it says of all: how fast they read and write."""

from __future__ import annotations

from compress.core.records import Latency, RunRecord
from compress.core.units import MS_PER_S
from compress.reporting.data.row import ordered
from compress.reporting.render.document import Section, Table, row
from compress.reporting.render.numbers import significant


def generation(run: RunRecord) -> Section:
    """Tokens a second of each row, and the time to the first token, at each length and batch size."""
    lines = [
        row(step.step, *_speeds(latency))
        for step in ordered(run)
        for measurement in step.measurements[:1]
        for latency in measurement.latency
    ]
    if not lines:
        return Section("generation", "Reading and writing")
    head = ("Step", "batch", "tokens before", "written, tokens/s", "read, tokens/s", "first token, ms")
    return Section(
        "generation",
        "Reading and writing",
        (
            "Written: one token at a time behind those before it, which stand in the cache; read: a whole prompt at "
            "once, which is the time to the first token. Medians, on the first target.",
        ),
        (Table("Tokens a second", head, tuple(lines), frozenset({1, 2, 3, 4, 5})),),
    )


def _speeds(latency: Latency) -> tuple[str, ...]:
    kind, _, length = latency.lengths.partition(":")
    tokens = latency.batch_size * (int(length) if kind == "read" else 1)
    speed = significant(MS_PER_S * tokens / latency.p50_ms)
    first = significant(latency.p50_ms)
    own = (speed, "", "") if kind == "write" else ("", speed, first)
    return (str(latency.batch_size), length, *own)
