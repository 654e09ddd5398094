"""Prune a decoder in steps: layers, groups of heads and feed-forward units, equally in each layer, and the hidden size.

The result is a regular model that transformers loads from its config alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.encoding.inputs import model_inputs
from compress.models.anatomy.decoder import Decoder, WeightSlice, decoder_of
from compress.models.anatomy.decoder_flow import (
    DecoderActivations,
    narrow_stream,
    rebuild_from_config,
    top_indices,
)
from compress.models.anatomy.factors import describe_factors
from compress.models.anatomy.table.sizes import count_parameters, parameters_of
from compress.models.anatomy.table.smaller import why_heads_fixed
from compress.passes.prune.choosing.goals import remaining_sizes
from compress.passes.prune.choosing.importance import least_important
from compress.passes.prune.choosing.saliency import ImportanceData, Saliency, weight_saliency
from compress.passes.prune.choosing.selection import remaining_count
from compress.passes.prune.removing.layers import layers_to_remove
from compress.passes.prune.removing.reconstruction import reconstruct


class DecoderPruner:
    """Prunes a decoder from its current sizes to the requested ones; see `EncoderPruner`."""

    def __init__(self, model: PreTrainedModel, data: ImportanceData) -> None:
        """Compute the target sizes from the current model.

        Raises:
            PassError: a fraction removes nothing or everything.
            ModelError: the model does not have what is to be removed.
        """
        self.model = model
        self.data = data
        sizes = self._decoder.sizes
        remove = data.spec.remove
        assert remove is not None
        why = why_heads_fixed(self._decoder.network)
        for key, what in (("heads", "head"), ("hidden", "dimension")):
            if getattr(remove, key) and why is not None:
                raise ModelError(
                    f"no {what} of this model can be removed: {why}", where=f"prune.remove.{key}"
                )
        self._goals = remaining_sizes(model.config.to_dict(), remove, data.spec.round_to)
        self._groups = sizes["groups"], self._goals.groups
        width = sizes["feed_forward"]
        self._widths = width, self._goals.feed_forward
        self.hidden = sizes["hidden"]
        self.layers = list(range(sizes["layers"]))
        self.original_sizes = [(sizes["heads"], width)] * sizes["layers"]
        self._kept_groups = [list(range(sizes["groups"])) for _ in self.layers]
        self.parameters = self._count_parameters()

    def advance(self, share: float) -> None:
        """Prune until `share` of the total removal is done; 1: all of it."""
        goals = self._goals
        self._remove_layers(remaining_count(len(self.original_sizes), goals.layers, share))
        groups = remaining_count(*self._groups, share)
        width = remaining_count(*self._widths, share, self.data.spec.round_to)
        sizes = self._decoder.sizes
        if (groups, width) != (sizes["groups"], sizes["feed_forward"]):
            saliency = weight_saliency(self.model, self.data)
            self._remove_groups(saliency, groups)
            self._remove_units(saliency, width)
        self._remove_hidden(remaining_count(self.hidden, goals.hidden, share, goals.hidden_multiple))
        self.parameters = self._count_parameters()

    def reconstruct(self, original: nn.Module) -> list[float]:
        """Refit the remaining layers to the residual stream of the unpruned model; see `reconstruction.reconstruct`.

        Returns:
            For each remaining layer, the fraction of its stream's error that was eliminated.
        """
        original_decoder = decoder_of(original)
        assert original_decoder is not None
        return reconstruct(self._decoder, original_decoder, self.layers, self.data)

    @property
    def width(self) -> int:
        """Current hidden size."""
        return self._decoder.sizes["hidden"]

    def describe_layers(self) -> list[dict[str, Any]]:
        """Describe each remaining layer: `heads`, `feed_forward`, `heads_removed` (indices), `feed_forward_removed`."""
        sizes = self._decoder.sizes
        heads, width = self.original_sizes[0]
        heads_per_group = heads // self._groups[0]
        return [
            {
                "heads": sizes["heads"],
                "feed_forward": sizes["feed_forward"],
                "heads_removed": [
                    group * heads_per_group + head
                    for group in range(self._groups[0])
                    if group not in self._kept_groups[layer]
                    for head in range(heads_per_group)
                ],
                "feed_forward_removed": width - sizes["feed_forward"],
            }
            for layer in self.layers
        ]

    @property
    def _decoder(self) -> Decoder:
        found = decoder_of(self.model)
        assert found is not None
        return found

    def _count_parameters(self) -> int:
        """Count the parameters by the current config and the table of families, and by the ranks of factored maps."""
        config = self.model.config.to_dict()
        shapes = {
            name: shape[::-1] if self._decoder.network.transposed else shape
            for name, shape in parameters_of(config, "words").items()
        }
        count = count_parameters(config, "words")
        for group in describe_factors(self.model):
            wholes = [shapes[f"{name}.weight"] for name in group["modules"]]
            rows, columns = sum(shape[0] for shape in wholes), wholes[0][1]
            count += group["rank"] * (rows + columns) - rows * columns
        return count

    def _remove_layers(self, num_kept: int) -> None:
        num_removed = len(self.layers) - num_kept
        if not num_removed:
            return
        blocks = [block.module for block in self._decoder.blocks]
        gone = layers_to_remove(self.model, blocks, self.data, num_removed)
        kept_layers = [place for place in range(len(self.layers)) if place not in gone]
        self._decoder.keep_layers(kept_layers)
        self.layers = [self.layers[place] for place in kept_layers]

    def _remove_groups(self, saliency: Saliency, num_kept: int) -> None:
        decoder = self._decoder
        if num_kept == decoder.sizes["groups"]:
            return
        for place, layer in enumerate(self.layers):
            staying = _keep_most_important(decoder.groups(place), saliency, num_kept)
            self._kept_groups[layer] = [self._kept_groups[layer][group] for group in staying]
        each = decoder.sizes["heads"] // decoder.sizes["groups"]
        for size, value in (
            ("head_size", decoder.sizes["head_size"]),
            ("groups", num_kept),
            ("heads", num_kept * each),
        ):
            if size in decoder.network.keys:
                decoder.set_size(size, value)

    def _remove_units(self, saliency: Saliency, num_kept: int) -> None:
        decoder = self._decoder
        if num_kept == decoder.sizes["feed_forward"]:
            return
        for place in range(len(self.layers)):
            _keep_most_important(decoder.units(place), saliency, num_kept)
        decoder.set_size("feed_forward", num_kept)

    def _remove_hidden(self, num_kept: int) -> None:
        decoder, data = self._decoder, self.data
        # At an intermediate step, the number of heads may not divide the hidden size: wait for a later step.
        if num_kept == decoder.sizes["hidden"] or num_kept % decoder.sizes["heads"]:
            return
        batches = data.batches()
        activations = DecoderActivations(
            decoder, lambda: map(model_inputs, map(data.to_batch, batches)), "prune.remove.hidden"
        )
        if data.spec.importance == "activation":
            scores = activations.dimension_importance()
        else:
            saliency = weight_saliency(self.model, data)
            norms = [saliency[norm.get_parameter("weight")].double() for _, norm in decoder.norms()]
            scores = torch.stack(
                [*norms, *(share.scores(saliency) for share in decoder.stream_slices())]
            ).sum(0)
        with torch.no_grad():
            narrow_stream(decoder, activations, top_indices(scores, num_kept))
        # Callers that hold the model get the narrower one.
        self.model.__dict__.update(rebuild_from_config(self.model).__dict__)


def _keep_most_important(slices: Sequence[WeightSlice], saliency: Saliency, num_kept: int) -> list[int]:
    """Keep the most important parts shared by several maps; return their indices, ascending."""
    scores = torch.stack([weight_slice.scores(saliency) for weight_slice in slices]).sum(0)
    gone = least_important(scores, len(scores) - num_kept)
    kept_indices = [part for part in range(len(scores)) if part not in gone]
    for weight_slice in slices:
        weight_slice.keep(kept_indices)
    return kept_indices
