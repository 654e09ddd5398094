"""The table of the passes; installed distributions add theirs through the entry points `compress.passes`."""

from __future__ import annotations

from compress.core.plugins import Table
from compress.passes.contract import PassKind

PASSES = Table(
    "compress.passes",
    PassKind,
    {
        "distill": "compress.passes.distill.kind:DISTILL",
        "prune": "compress.passes.prune.kind:PRUNE",
        "low_rank": "compress.passes.low_rank.kind:LOW_RANK",
        "quantize": "compress.passes.quantize.kind:QUANTIZE",
        "export": "compress.passes.export.kind:EXPORT",
    },
)
