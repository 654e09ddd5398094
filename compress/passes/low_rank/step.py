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
from compress.passes.low_rank.places import Place, factor, places_of, second_moments
from compress.passes.low_rank.ranks import choose_ranks
from compress.passes.low_rank.spec import LowRankSpec
from compress.step import StepContext, StepResult
from compress.training.batches import to_tensors
from compress.training.prediction import examples_at_once
from compress.training.recovery import check_count, check_saved, recover
from compress.training.validation import Validation

BATCH_SIZE = 32
"""Number of examples in a batch that the weighting reads."""
AT_ONCE = 1 << 28
"""Maximum number of float64 moment values held in memory at once."""


def run(ctx: StepContext) -> StepResult:
    """Choose ranks, factor, check the predicted size, recover, save and verify the saved model.

    Raises:
        PassError: no map would be factored, the number of parameters differs from the prediction, or the saved model
            does not give the same outputs.
        ModelError: nothing in the model can be factored.
    """
    spec, source = ctx.asked(LowRankSpec), ctx.inputs["model"]
    model = load_model(source.path, allow_code=ctx.allow_code).to(ctx.device)
    inputs = ctx.task.encode(ctx.data.train, source.path)
    places = places_of(model, spec.exclude)
    decompositions = _decompose(ctx, spec, model, places, inputs)
    validation = Validation.of(ctx, source.path, ctx.inputs.get("teacher", ctx.inputs["model"]))
    whole_score = validation.score(model)

    def drop_of(ranks: Sequence[int | None]) -> float:
        tried = validation.score(_factored(copy.deepcopy(model), places, decompositions, ranks))
        return ctx.task.kind.metric.lost(whole_score, tried)

    chosen = choose_ranks(decompositions, spec, drop_of)
    before = count_parameters(model)
    predicted = before - sum(
        place.saved(rank) for place, rank in zip(places, chosen.ranks, strict=True) if rank is not None
    )
    _factored(model, places, decompositions, chosen.ranks)
    check_count(model, predicted, "low_rank")
    facts: dict[str, Any] = {
        "parameters": predicted,
        "parameters_predicted": predicted,
        "parameters_before": before,
        "weighted": spec.weighted,
        "maps": [_described(*each) for each in zip(places, decompositions, chosen.ranks, strict=True)],
        "validation_score_before": whole_score,
    }
    if chosen.energy is not None:
        facts["energy"] = chosen.energy
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
    ctx: StepContext, spec: LowRankSpec, model: nn.Module, places: Sequence[Place], inputs: Inputs
) -> list[Decomposition]:
    if not spec.weighted:
        return [decompose(place.weight) for place in places]
    count = min(spec.examples, len(inputs))
    drawn = np.sort(np.random.default_rng(ctx.seed).permutation(len(inputs))[:count])

    size = min(BATCH_SIZE, examples_at_once(inputs))

    def batches() -> Iterable[dict[str, Tensor]]:
        return (
            model_inputs(to_tensors(inputs.batch(drawn[first : min(first + size, count)]), ctx.device))
            for first in range(0, count, size)
        )

    return [
        decompose(place.weight, square)
        for part in _in_parts(places)
        for place, square in zip(part, second_moments(model, part, batches), strict=True)
    ]


def _in_parts(places: Sequence[Place]) -> Iterator[list[Place]]:
    """Split places into parts whose moments fit into memory; the model runs once for each part."""
    part: list[Place] = []
    for place in places:
        if part and sum(one.columns**2 for one in (*part, place)) > AT_ONCE:
            yield part
            part = []
        part.append(place)
    yield part


def _factored(
    model: nn.Module,
    places: Sequence[Place],
    decompositions: Sequence[Decomposition],
    ranks: Sequence[int | None],
) -> nn.Module:
    """Factor the places of the model in place, and return it."""
    for place, decomposition, rank in zip(places, decompositions, ranks, strict=True):
        if rank is not None:
            factor(model, place, decomposition, rank)
    return model


def _described(place: Place, decomposition: Decomposition, rank: int | None) -> dict[str, Any]:
    return {
        "name": place.name,
        "maps": len(place.modules),
        "rows": place.rows,
        "columns": place.columns,
        "rank": rank,
        "output_lost": 0.0 if rank is None else decomposition.lost(rank),
    }
