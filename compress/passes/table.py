"""Registry of the passes, and the steps that belong to no pass.

Installed distributions add passes through the entry point group `compress.passes`.
"""

from __future__ import annotations

from collections.abc import Mapping

from compress.core.plugins import Table
from compress.passes.contract import ONNX, TORCH, PassKind, StepKind

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

SOURCE, FINETUNE, LOWER, GENERATE = "source", "finetune", "lower", "generate"
COMMON_STEPS: Mapping[str, StepKind] = {
    SOURCE: StepKind("compress.passes.source.step:run", TORCH),
    FINETUNE: StepKind(
        "compress.passes.finetune.step:run", (*TORCH, "peft"), trains=True, architecture_from="model"
    ),
    LOWER: StepKind("compress.lowering.step:run", (*TORCH, *ONNX, "onnxscript")),
    GENERATE: StepKind("compress.passes.generate.step:run", TORCH, generates_texts=True),
}
"""Steps that belong to no pass: fetch a model, fine-tune it on the data, export it to ONNX; generate texts."""


def step_kind(name: str) -> StepKind:
    """Return the kind of a step by its name: `prune`, `quantize.half`."""
    return COMMON_STEPS.get(name) or PASSES[name.partition(".")[0]].steps[name]
