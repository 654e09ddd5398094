"""low_rank: factor linear maps and convolutions where it pays, then recover by training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress.core.artifacts import copy_interface
from compress.encoding.inputs import Inputs, model_inputs
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.passes.low_rank.factoring import Decomposition, decompose
from compress.passes.low_rank.places import FactorGroup, factor, factor_groups, second_moments
from compress.passes.low_rank.ranks import choose_ranks
from compress.passes.low_rank.spec import LowRankSpec
from compress.step import StepContext, StepResult
from compress.training.batches import to_tensors
from compress.training.prediction import inference_batch_size
from compress.training.recovery import check_parameter_count, check_saved, recover
from compress.training.validation import Validation

BATCH_SIZE = 32
"""Number of examples in a batch that the weighting reads."""
MAX_MOMENT_VALUES = 1 << 28
"""Maximum number of float64 moment values held in memory at once."""


def run(ctx: StepContext) -> StepResult:
    """Choose ranks, factor, check the predicted size, recover, save and verify the saved model.

    Raises:
        PassError: no map would be factored, the number of parameters differs from the prediction, or the saved model
            does not give the same outputs.
        ModelError: nothing in the model can be factored.
    """
    spec, source = ctx.spec_as(LowRankSpec), ctx.inputs["model"]
    model = load_model(source.path, allow_code=ctx.allow_code).to(ctx.device)
    inputs = ctx.task.encode(ctx.data.train, source.path)
    groups = factor_groups(model, spec.exclude)
    decompositions = _decompose(ctx, spec, model, groups, inputs)
    validation = Validation.of(ctx, source.path, ctx.inputs.get("teacher", ctx.inputs["model"]))
    baseline_score = validation.score(model)

    def drop_of(ranks: Sequence[int | None]) -> float:
        tried = validation.score(_apply_ranks(copy.deepcopy(model), groups, decompositions, ranks))
        return ctx.task.kind.metric.degradation(baseline_score, tried)

    choice = choose_ranks(decompositions, spec, drop_of)
    parameters_before = count_parameters(model)
    predicted = parameters_before - sum(
        place.saved_parameters(rank)
        for place, rank in zip(groups, choice.ranks, strict=True)
        if rank is not None
    )
    _apply_ranks(model, groups, decompositions, choice.ranks)
    check_parameter_count(model, predicted, "low_rank")
    facts: dict[str, Any] = {
        "parameters": predicted,
        "parameters_predicted": predicted,
        "parameters_before": parameters_before,
        "weighted": spec.weighted,
        "maps": [_group_facts(*each) for each in zip(groups, decompositions, choice.ranks, strict=True)],
        "validation_score_before": baseline_score,
    }
    if choice.energy is not None:
        facts["energy"] = choice.energy
    curves = []
    if spec.recover is not None:
        facts["validation_score_before_recovery"] = validation.score(model)
        curves.append(recover(ctx, model, spec.recover, source.path, validation))
    facts["validation_score"] = validation.score(model)
    save_model(model.cpu(), ctx.out)
    copy_interface(source.path, ctx.out)
    check_saved(model, ctx.out, inputs, "low_rank")
    return StepResult(spec.produces(source.form), facts, tuple(curves))


def _decompose(
    ctx: StepContext, spec: LowRankSpec, model: nn.Module, groups: Sequence[FactorGroup], inputs: Inputs
) -> list[Decomposition]:
    if not spec.weighted:
        return [decompose(group.weight) for group in groups]
    count = min(spec.examples, len(inputs))
    indices = np.sort(np.random.default_rng(ctx.seed).permutation(len(inputs))[:count])

    batch_size = min(BATCH_SIZE, inference_batch_size(inputs))

    def batches() -> Iterable[dict[str, Tensor]]:
        return (
            model_inputs(
                to_tensors(inputs.batch(indices[first : min(first + batch_size, count)]), ctx.device)
            )
            for first in range(0, count, batch_size)
        )

    return [
        decompose(group.weight, second_moment)
        for part in _memory_chunks(groups)
        for group, second_moment in zip(part, second_moments(model, part, batches), strict=True)
    ]


def _memory_chunks(groups: Sequence[FactorGroup]) -> Iterator[list[FactorGroup]]:
    """Split places into parts whose moments fit into memory; the model runs once for each part."""
    chunk: list[FactorGroup] = []
    for group in groups:
        if chunk and sum(one.columns**2 for one in (*chunk, group)) > MAX_MOMENT_VALUES:
            yield chunk
            chunk = []
        chunk.append(group)
    yield chunk


def _apply_ranks(
    model: nn.Module,
    groups: Sequence[FactorGroup],
    decompositions: Sequence[Decomposition],
    ranks: Sequence[int | None],
) -> nn.Module:
    """Factor the places of the model in place, and return it."""
    for place, decomposition, rank in zip(groups, decompositions, ranks, strict=True):
        if rank is not None:
            factor(model, place, decomposition, rank)
    return model


def _group_facts(group: FactorGroup, decomposition: Decomposition, rank: int | None) -> dict[str, Any]:
    return {
        "name": group.name,
        "maps": len(group.modules),
        "rows": group.rows,
        "columns": group.columns,
        "rank": rank,
        "output_lost": 0.0 if rank is None else decomposition.lost_energy(rank),
    }
