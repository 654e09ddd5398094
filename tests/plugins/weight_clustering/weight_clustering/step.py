"""cluster: give the weights of each linear map a few shared values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.core.artifacts import copy_interface
from compress.core.errors import PassError
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.step import StepContext, StepResult
from compress.training.recovery import recover
from compress.training.validation import Validation
from weight_clustering.kmeans import clustered
from weight_clustering.spec import ClusterSpec


def run(ctx: StepContext) -> StepResult:
    """Cluster, train what was lost, cluster again.

    Raises:
        PassError: the model has no linear map.
    """
    spec, source = ctx.spec, ctx.inputs["model"]
    assert isinstance(spec, ClusterSpec)
    model = load_model(source.path, allow_code=ctx.allow_code).to(ctx.device)
    validation = Validation.of(ctx, source.path, ctx.inputs["teacher"])
    facts: dict[str, Any] = {"validation_score_before": validation.score(model)}
    maps = _cluster(model, spec.values)
    if not maps:
        raise PassError("this model has no linear map", where="cluster")
    curves = []
    if spec.recover is not None:
        facts["validation_score_before_recovery"] = validation.score(model)
        curves.append(recover(ctx, model, spec.recover, source.path, validation))
        _cluster(model, spec.values)
    facts |= {
        "parameters": count_parameters(model),
        "validation_score": validation.score(model),
        "clustered": {"maps": maps, "values": spec.values},
    }
    save_model(model.cpu(), ctx.out)
    copy_interface(source.path, ctx.out)
    return StepResult(spec.produces(source.form), facts, tuple(curves))


def _cluster(model: nn.Module, count: int) -> int:
    """Cluster the weights of each linear map, in place; how many maps there are."""
    maps = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for module in maps:
        with torch.no_grad():
            shared = clustered(module.weight.cpu().numpy(), count)
            module.weight.copy_(torch.from_numpy(shared))
    return len(maps)
