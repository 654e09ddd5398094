"""Prune an encoder in steps: layers, heads and feed-forward units, and the hidden size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from compress.core.errors import PassError
from compress.models.anatomy.encoder import Layer, encoder_of
from compress.models.anatomy.pruned import block_sizes, update_config
from compress.models.io.checkpoints import count_parameters
from compress.passes.prune.choosing.budget import Budget, choose_sizes
from compress.passes.prune.choosing.importance import LayerScores, least_important, sum_of_scores
from compress.passes.prune.choosing.prediction import kept_count, kept_width
from compress.passes.prune.choosing.saliency import (
    LOSS_UNITS,
    ImportanceData,
    gradients,
    saliency_as_weights,
    sum_over_group,
    weight_saliency,
)
from compress.passes.prune.choosing.selection import (
    comparable_scores,
    least_important_globally,
    remaining_count,
)
from compress.passes.prune.removing.hidden import StreamSurgeon
from compress.passes.prune.removing.layers import layers_to_remove, remove_layers
from compress.passes.prune.removing.surgery import Surgeon
from compress.passes.prune.spec import RemoveSpec


class EncoderPruner:
    """Prunes an encoder from its current sizes to the requested ones, in any number of steps.

    `parameters` is the number that the model must have after each step, computed from shapes before anything is
    removed.
    """

    def __init__(self, model: nn.Module, data: ImportanceData, budget: Budget | None = None) -> None:
        """Compute the target sizes from the current model.

        Raises:
            PassError: a fraction removes nothing or everything.
            ModelError: the model is not an encoder of a known family.
        """
        self.model = model
        self.data = data
        self.budget = budget
        self.parameters = count_parameters(model)
        layers = encoder_of(model).layers
        self.layers = list(range(len(layers)))
        self.heads = [list(range(layer.heads)) for layer in layers]
        self.widths = [layer.feed_forward for layer in layers]
        self.original_sizes = [(layer.heads, layer.feed_forward) for layer in layers]
        self.hidden = encoder_of(model).hidden_size
        remove = data.spec.remove
        if remove is not None:
            self._check(remove)

    def _check(self, remove: RemoveSpec) -> None:
        """Reject fractions that remove nothing or everything, before anything is removed."""
        round_to = self.data.spec.round_to
        kept_count(len(self.layers), remove.layers, "layers")
        for heads, width in self.original_sizes:
            kept_count(heads, remove.heads, "heads")
            kept_width(width, remove.feed_forward, round_to)
        kept_width(self.hidden, remove.hidden, round_to, "hidden")

    def advance(self, share: float) -> None:
        """Prune until `share` of the total removal is done; 1: all of it."""
        remove = self.data.spec.remove
        if remove is None:
            self._fit_budget(share)
        else:
            if remove.layers:
                self._remove_layers(share, remove.layers)
            if remove.heads or remove.feed_forward:
                self._remove_units(share, remove)
            if remove.hidden:
                self._remove_hidden(share, remove.hidden)
        update_config(self.model)

    @property
    def width(self) -> int:
        """Current hidden size."""
        return encoder_of(self.model).hidden_size

    def describe_layers(self) -> list[dict[str, Any]]:
        """Describe each remaining layer: `heads`, `feed_forward`, `heads_removed` (indices), `feed_forward_removed`."""
        descriptions = []
        for layer in self.layers:
            heads, width = self.original_sizes[layer]
            descriptions.append(
                {
                    "heads": len(self.heads[layer]),
                    "feed_forward": self.widths[layer],
                    "heads_removed": sorted(set(range(heads)) - set(self.heads[layer])),
                    "feed_forward_removed": width - self.widths[layer],
                }
            )
        return descriptions

    def _remove_layers(self, share: float, fraction: float) -> None:
        encoder = encoder_of(self.model)
        count = len(self.original_sizes)
        num_removed = len(self.layers) - remaining_count(count, kept_count(count, fraction, "layers"), share)
        if not num_removed:
            return
        removed = layers_to_remove(
            self.model, [layer.block for layer in encoder.layers], self.data, num_removed
        )
        blocks = [encoder.layers[index].block for index in removed]
        self.parameters -= sum(each.numel() for block in blocks for each in block.parameters())
        remove_layers(encoder, removed)
        self.layers = [layer for index, layer in enumerate(self.layers) if index not in removed]

    def _remove_units(self, share: float, remove: RemoveSpec) -> None:
        encoder = encoder_of(self.model)
        surgeon = Surgeon(encoder, self.data.example_batch())
        spec = self.data.spec
        goals = [
            (
                remaining_count(heads, kept_count(heads, remove.heads, "heads"), share),
                remaining_count(
                    width, kept_width(width, remove.feed_forward, spec.round_to), share, spec.round_to
                ),
            )
            for heads, width in (self.original_sizes[layer] for layer in self.layers)
        ]
        if spec.scope == "layer":
            heads, units = _removed_units(self._plain_scores(surgeon), goals)
        else:
            scores = self._summed_scores(surgeon)
            loss_units = spec.importance in LOSS_UNITS
            lost_heads = sum(layer.heads for layer in encoder.layers) - sum(goal[0] for goal in goals)
            lost_units = sum(layer.feed_forward for layer in encoder.layers) - sum(goal[1] for goal in goals)
            heads = least_important_globally(
                comparable_scores([each.heads for each in scores], loss=loss_units), lost_heads, 1, 1
            )
            widths = comparable_scores([each.feed_forward for each in scores], loss=loss_units)
            units = least_important_globally(widths, lost_units, spec.round_to, spec.round_to)
        self._cut(surgeon, heads, units)

    def _fit_budget(self, share: float) -> None:
        assert self.budget is not None
        encoder = encoder_of(self.model)
        surgeon = Surgeon(encoder, self.data.example_batch())
        scores = self._summed_scores(surgeon)
        spec = self.data.spec
        sizes = choose_sizes(
            scores, self.budget, share, spec.round_to, loss_units=spec.importance in LOSS_UNITS
        )
        self._cut(surgeon, *_removed_units(scores, sizes))

    def _cut(self, surgeon: Surgeon, heads: Sequence[Sequence[int]], units: Sequence[Sequence[int]]) -> None:
        for layer, layer_index, lost_heads, lost_units in zip(
            surgeon.encoder.layers, self.layers, heads, units, strict=True
        ):
            self.parameters -= _removed_parameters(layer, len(lost_heads), len(lost_units))
            surgeon.remove(layer, lost_heads, lost_units)
            self.heads[layer_index] = [
                head for place, head in enumerate(self.heads[layer_index]) if place not in lost_heads
            ]
            self.widths[layer_index] -= len(lost_units)

    def _remove_hidden(self, share: float, fraction: float) -> None:
        spec = self.data.spec
        encoder = encoder_of(self.model)
        final = kept_width(self.hidden, fraction, spec.round_to, "hidden")
        num_removed = encoder.hidden_size - remaining_count(self.hidden, final, share, spec.round_to)
        if not num_removed:
            return
        surgeon = StreamSurgeon(encoder, self.data.example_batch())
        with saliency_as_weights(weight_saliency(self.model, self.data)):
            removed = surgeon.least_important(sum_over_group(), num_removed)
        self.parameters = surgeon.count_remaining(removed)
        surgeon.remove(removed)

    def _summed_scores(self, surgeon: Surgeon) -> list[LayerScores]:
        """Return the saliency of heads and units, summed over their weights."""
        with saliency_as_weights(weight_saliency(self.model, self.data)):
            scores = surgeon.scores(sum_over_group())
        # The surgeon averages over the channels of a head.
        return [
            LayerScores(each.heads * layer.head_size, each.feed_forward)
            for each, layer in zip(scores, surgeon.encoder.layers, strict=True)
        ]

    def _plain_scores(self, surgeon: Surgeon) -> list[LayerScores]:
        """Return the scores by which each layer ranks its own parts."""
        if self.data.spec.importance in ("hessian", "activation"):
            return self._summed_scores(surgeon)
        return plain_scores(surgeon, self.model, self.data)


def plain_scores(surgeon: Any, model: nn.Module, data: ImportanceData) -> list[Any]:
    """Return torch-pruning's scores: magnitude, random, or first-order Taylor expansion of the loss.

    Taylor scores are summed over batches.

    For embeddings, which have no labels, the loss is the projection of the outputs on a random direction of each
    example.

    Args:
        surgeon: object with a method `scores`, such as `Surgeon` or `ChannelSurgeon`.
    """
    kinds = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "random": tp.importance.RandomImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }
    importance = kinds[data.spec.importance]()

    def of_batches() -> Any:
        for _ in gradients(model, data, data.batches()):
            yield surgeon.scores(importance)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        return sum_of_scores(of_batches()) if data.spec.importance == "taylor" else surgeon.scores(importance)


def _removed_units(
    scores: Sequence[LayerScores], kept: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the heads and feed-forward units that each layer loses when it keeps `kept` of both."""
    pairs = list(zip(scores, kept, strict=True))
    return (
        [least_important(each.heads, len(each.heads) - heads) for each, (heads, _) in pairs],
        [least_important(each.feed_forward, len(each.feed_forward) - width) for each, (_, width) in pairs],
    )


def _removed_parameters(layer: Layer, heads: int, units: int) -> int:
    """Return the parameters of this many heads and feed-forward units of a layer."""
    head, unit = block_sizes(layer)
    if heads >= layer.heads or units >= layer.feed_forward:
        raise PassError("a layer would lose all its heads or units", where="prune")
    return heads * head + units * unit
