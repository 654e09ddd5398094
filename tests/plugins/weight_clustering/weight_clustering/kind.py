"""Clustering, said to compress."""

from __future__ import annotations

from compress.passes.contract import TORCH, PassKind, StepKind
from weight_clustering.spec import ClusterSpec

CLUSTER = PassKind(
    spec=ClusterSpec,
    steps={"cluster": StepKind("weight_clustering.step:run", TORCH, trains=True, architecture_from="model")},
    inputs=("model", "teacher"),
    faults="weight_clustering.checks:faults",
    told=("clustered",),
    sections=("weight_clustering.sections:clusters",),
)
