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
from compress.models.anatomy.decoder_flow import DecoderActivations, narrow, rebuild_from_config, top_indices
from compress.models.anatomy.factors import describe_factors
from compress.models.anatomy.table.sizes import count_parameters, parameters_of
from compress.models.anatomy.table.smaller import why_heads_fixed
from compress.passes.prune.choosing.goals import decoder_goals
from compress.passes.prune.choosing.importance import least_important
from compress.passes.prune.choosing.saliency import ImportanceData, Saliency, weight_saliency
from compress.passes.prune.choosing.selection import remaining_count
from compress.passes.prune.removing.layers import layers_to_remove
from compress.passes.prune.removing.reconstruction import reconstruct


class DecoderPruner:
    """Prunes a decoder from its current sizes to the requested ones; see `EncoderPruner`."""

    def __init__(self, model: PreTrainedModel, material: ImportanceData) -> None:
        """Compute the target sizes from the current model.

        Raises:
            PassError: a fraction removes nothing or everything.
            ModelError: the model does not have what is to be removed.
        """
        self.model = model
        self.material = material
        sizes = self._decoder.sizes
        remove = material.spec.remove
        assert remove is not None
        why = why_heads_fixed(self._decoder.network)
        for key, what in (("heads", "head"), ("hidden", "dimension")):
            if getattr(remove, key) and why is not None:
                raise ModelError(
                    f"no {what} of this model can be removed: {why}", where=f"prune.remove.{key}"
                )
        self._goals = decoder_goals(model.config.to_dict(), remove, material.spec.round_to)
        self._groups = sizes["groups"], self._goals.groups
        width = sizes["feed_forward"]
        self._widths = width, self._goals.feed_forward
        self.hidden = sizes["hidden"]
        self.layers = list(range(sizes["layers"]))
        self.whole = [(sizes["heads"], width)] * sizes["layers"]
        self._left = [list(range(sizes["groups"])) for _ in self.layers]
        self.parameters = self._counted()

    def advance(self, share: float) -> None:
        """Prune until `share` of the total removal is done; 1: all of it."""
        goals = self._goals
        self._remove_layers(remaining_count(len(self.whole), goals.layers, share))
        groups = remaining_count(*self._groups, share)
        width = remaining_count(*self._widths, share, self.material.spec.round_to)
        sizes = self._decoder.sizes
        if (groups, width) != (sizes["groups"], sizes["feed_forward"]):
            saliency = weight_saliency(self.model, self.material)
            self._remove_groups(saliency, groups)
            self._remove_units(saliency, width)
        self._remove_hidden(remaining_count(self.hidden, goals.hidden, share, goals.multiple))
        self.parameters = self._counted()

    def reconstruct(self, whole: nn.Module) -> list[float]:
        """Refit the remaining layers to the residual stream of the unpruned model; see `reconstruction.reconstruct`.

        Returns:
            For each remaining layer, the fraction of its stream's error that was eliminated.
        """
        before = decoder_of(whole)
        assert before is not None
        return reconstruct(self._decoder, before, self.layers, self.material)

    @property
    def width(self) -> int:
        """Current hidden size."""
        return self._decoder.sizes["hidden"]

    def described(self) -> list[dict[str, Any]]:
        """Describe each remaining layer: `heads`, `feed_forward`, `heads_removed` (indices), `feed_forward_removed`."""
        sizes = self._decoder.sizes
        heads, width = self.whole[0]
        each = heads // self._groups[0]
        return [
            {
                "heads": sizes["heads"],
                "feed_forward": sizes["feed_forward"],
                "heads_removed": [
                    group * each + head
                    for group in range(self._groups[0])
                    if group not in self._left[layer]
                    for head in range(each)
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

    def _counted(self) -> int:
        """Count the parameters by the current config and the table of families, and by the ranks of factored maps."""
        config = self.model.config.to_dict()
        shapes = {
            name: shape[::-1] if self._decoder.network.in_out else shape
            for name, shape in parameters_of(config, "words").items()
        }
        count = count_parameters(config, "words")
        for group in describe_factors(self.model):
            wholes = [shapes[f"{name}.weight"] for name in group["modules"]]
            rows, columns = sum(shape[0] for shape in wholes), wholes[0][1]
            count += group["rank"] * (rows + columns) - rows * columns
        return count

    def _remove_layers(self, kept: int) -> None:
        lost = len(self.layers) - kept
        if not lost:
            return
        blocks = [block.module for block in self._decoder.blocks]
        gone = layers_to_remove(self.model, blocks, self.material, lost)
        staying = [place for place in range(len(self.layers)) if place not in gone]
        self._decoder.keep_layers(staying)
        self.layers = [self.layers[place] for place in staying]

    def _remove_groups(self, saliency: Saliency, kept: int) -> None:
        decoder = self._decoder
        if kept == decoder.sizes["groups"]:
            return
        for place, layer in enumerate(self.layers):
            staying = _cut(decoder.groups(place), saliency, kept)
            self._left[layer] = [self._left[layer][group] for group in staying]
        each = decoder.sizes["heads"] // decoder.sizes["groups"]
        for size, value in (
            ("head_size", decoder.sizes["head_size"]),
            ("groups", kept),
            ("heads", kept * each),
        ):
            if size in decoder.network.keys:
                decoder.note(size, value)

    def _remove_units(self, saliency: Saliency, kept: int) -> None:
        decoder = self._decoder
        if kept == decoder.sizes["feed_forward"]:
            return
        for place in range(len(self.layers)):
            _cut(decoder.units(place), saliency, kept)
        decoder.note("feed_forward", kept)

    def _remove_hidden(self, kept: int) -> None:
        decoder, material = self._decoder, self.material
        # At an intermediate step, the number of heads may not divide the hidden size: wait for a later step.
        if kept == decoder.sizes["hidden"] or kept % decoder.sizes["heads"]:
            return
        batches = material.batches()
        seen = DecoderActivations(
            decoder, lambda: map(model_inputs, map(material.read, batches)), "prune.remove.hidden"
        )
        if material.spec.importance == "activation":
            scores = seen.dimensions()
        else:
            saliency = weight_saliency(self.model, material)
            norms = [saliency[norm.get_parameter("weight")].double() for _, norm in decoder.norms()]
            scores = torch.stack([*norms, *(share.scores(saliency) for share in decoder.stream())]).sum(0)
        with torch.no_grad():
            narrow(decoder, seen, top_indices(scores, kept))
        # Callers that hold the model get the narrower one.
        self.model.__dict__.update(rebuild_from_config(self.model).__dict__)


def _cut(shares: Sequence[WeightSlice], saliency: Saliency, kept: int) -> list[int]:
    """Keep the most important parts shared by several maps; return their indices, ascending."""
    scores = torch.stack([share.scores(saliency) for share in shares]).sum(0)
    gone = least_important(scores, len(scores) - kept)
    staying = [part for part in range(len(scores)) if part not in gone]
    for share in shares:
        share.keep(staying)
    return staying
