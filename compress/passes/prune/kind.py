"""Registration of the pruning pass."""

from __future__ import annotations

from compress.passes.contract import ONNX, TORCH, PassKind, StepKind
from compress.passes.prune.spec import PruneSpec

PRUNE = PassKind(
    spec=PruneSpec,
    steps={
        "prune": StepKind(
            "compress.passes.prune.step:run",
            (*TORCH, *ONNX, "onnxscript", "torch-pruning"),
            trains=True,
            reads_unlabeled=True,
            trial="compress.passes.prune.step:try_untrained",
            open_form_fields=(),
        )
    },
    inputs=("model", "teacher"),
    faults="compress.passes.prune.checks:faults",
    warnings="compress.passes.prune.checks:warnings",
    told=("target",),
    sections=("compress.passes.prune.sections:pruned_to",),
    lines="compress.passes.prune.sections:pruned_to_lines",
    parameters_after="compress.passes.prune.choosing.prediction:predicted",
    config_after="compress.passes.prune.choosing.goals:pruned_config",
)
