"""The removable parts of a loaded decoder: layers, groups of heads and feed-forward units, the same in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.models.anatomy.blocks import Block, base_of, blocks_of
from compress.models.anatomy.factors import LinearLike, input_linear, output_linear
from compress.models.anatomy.table.families import network_of_kind
from compress.models.anatomy.table.family import ROLES, Network
from compress.models.anatomy.table.sizes import dimensions, parts_of

_BY_LAYER = ("layer_types", "no_rope_layers")
"""Config keys that hold a list with one value per layer."""


@dataclass(frozen=True)
class WeightSlice:
    """The rows or columns of a linear layer that belong to each part.

    `indices`: int64 (parts, indices per part) into its outputs or inputs.
    """

    linear: nn.Module
    side: Literal["out", "in"]
    indices: Tensor

    def scores(self, saliency: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """Total saliency of the weights of each part, (parts,)."""
        axis = self._axis
        found = saliency[self._weight].double().sum(1 - axis)
        if self.side == "out" and (bias := getattr(self.linear, "bias", None)) is not None:
            found = found + saliency[bias].double()
        return found[self.indices.to(found.device)].sum(1)

    def keep(self, parts: Sequence[int]) -> None:
        """Keep only these parts of the layer, in their original order; in place."""
        indices = self.indices[list(parts)].flatten().sort().values.to(self._weight.device)
        linear: Any = self.linear
        linear.weight = nn.Parameter(self._weight.detach().index_select(self._axis, indices).contiguous())
        if self.side == "out" and getattr(linear, "bias", None) is not None:
            linear.bias = nn.Parameter(linear.bias.detach()[indices])
        # The size attributes of `nn.Linear`, and of the transposed `Conv1D` of GPT-2.
        names = ("out_features", "nf") if self.side == "out" else ("in_features", "nx")
        for name in names:
            if hasattr(linear, name):
                setattr(linear, name, len(indices))

    @property
    def _weight(self) -> nn.Parameter:
        weight = self.linear.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def _axis(self) -> int:
        """Axis of `side` in the weight, which is (out, in), or (in, out) for a transposed layer."""
        is_transposed = not isinstance(self.linear, nn.Linear)
        return int((self.side == "in") != is_transposed)


@dataclass(frozen=True)
class Decoder:
    """A transformers decoder of a known family.

    `sizes` are those returned by `dimensions`; `blocks` start at the lowest layer. Linear layers may be factored.
    """

    model: PreTrainedModel
    network: Network
    sizes: Mapping[str, int]
    blocks: tuple[Block, ...]

    def linear_groups(self, layer: int) -> tuple[tuple[nn.Module, ...], ...]:
        """Linear layers of a decoder layer in order of computation, grouped by shared input."""
        return tuple(
            tuple(self.blocks[layer].parts[role] for role in roles) for roles in self.network.linear_groups
        )

    def units(self, layer: int) -> list[WeightSlice]:
        """Weights that belong to each feed-forward unit of a layer."""
        width = self.sizes["feed_forward"]
        each = torch.arange(width)[:, None]
        both = torch.cat([each, each + width], 1)
        return self._slices(layer, {"feed_in": each, "gate": each, "gate_feed_in": both}, {"feed_out": each})

    def groups(self, layer: int) -> list[WeightSlice]:
        """Weights that belong to each head group of a layer: the shared key and value heads with their query heads."""
        count, size = self.sizes["groups"], self.sizes["head_size"]
        queries = torch.arange(self.sizes["queries"]).reshape(count, -1)
        keys = torch.arange(self.sizes["keys"]).reshape(count, size)
        first, second = self.sizes["queries"], self.sizes["queries"] + self.sizes["keys"]
        fused = torch.cat([queries, keys + first, keys + second], 1)
        if self.network.qkv == "heads":
            fused = torch.arange(fused.numel()).reshape(count, -1)
        outputs = {"query": queries, "key": keys, "value": keys, "qkv": fused}
        return self._slices(layer, outputs, {"attention_output": queries})

    def stream_slices(self) -> list[WeightSlice]:
        """Weights of all embeddings and linear layers, head included, for each dimension of the residual stream."""
        each = torch.arange(self.sizes["hidden"])[:, None]
        # Keyed by module: several projections may share the factor that reads the residual stream.
        slices: dict[nn.Module, WeightSlice] = {}
        for role, part in self._parts():
            kind, shape = ROLES[role].kind, ROLES[role].shape
            if kind == "table" or (kind == "linear" and shape[0] == "hidden"):
                weight_slice = WeightSlice(_linear_at(part, "out"), "out", each)
            elif kind == "linear" and shape[1] == "hidden":
                weight_slice = WeightSlice(_linear_at(part, "in"), "in", each)
            else:
                continue
            slices.setdefault(weight_slice.linear, weight_slice)
        return [*slices.values()]

    def norms(self) -> list[tuple[str, nn.Module]]:
        """Norms of the residual stream and of the results added to it, with their roles."""
        return [(role, part) for role, part in self._parts() if ROLES[role] == ROLES["final_norm"]]

    def _parts(self) -> list[tuple[str, nn.Module]]:
        found = parts_of(self.network, self.model.config.to_dict(), "words")
        return [(role, self.model.get_submodule(path)) for role, path in found]

    def _slices(
        self, layer: int, out: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> list[WeightSlice]:
        parts = self.blocks[layer].parts
        sides: tuple[tuple[Literal["out", "in"], Mapping[str, Tensor]], ...] = (("out", out), ("in", inputs))
        return [
            WeightSlice(_linear_at(parts[role], side), side, indices)
            for side, indices_by_role in sides
            for role, indices in indices_by_role.items()
            if role in parts
        ]

    def set_size(self, size: str, value: int) -> None:
        """Record a changed size in the config and in the attention modules that keep a copy of it."""
        key = self.network.keys[size]
        setattr(self.model.config, key, value)
        for block in self.blocks:
            if hasattr(block.attention, key):
                setattr(block.attention, key, value)

    def keep_layers(self, kept: Sequence[int]) -> None:
        """Keep only these layers, in their order, and renumber their `layer_idx`; in place."""
        config = self.model.config
        stack: Any = base_of(self.model, self.network).get_submodule(self.network.layer_path.split(".{i}")[0])
        for index in sorted(set(range(len(self.blocks))) - set(kept), reverse=True):
            del stack[index]
        for layer_idx, layer in enumerate(stack):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = layer_idx
        for key in _BY_LAYER:
            if isinstance(values := getattr(config, key, None), list):
                setattr(config, key, [values[index] for index in kept])
        self.set_size("layers", len(kept))


def _linear_at(part: nn.Module, side: Literal["out", "in"]) -> nn.Module:
    """The linear layer that holds the outputs or inputs of a linear layer that may be factored."""
    return (output_linear if side == "out" else input_linear)(cast(LinearLike, part))


def decoder_of(model: nn.Module) -> Decoder | None:
    """Return the parts of a decoder; None if the model is not a decoder or its family is not known."""
    if not isinstance(model, PreTrainedModel):
        return None
    network = network_of_kind(str(model.config.model_type))
    if network is None or not network.causal:
        return None
    blocks = blocks_of(base_of(model, network), network)
    return Decoder(model, network, dimensions(network, model.config.to_dict()), blocks)
