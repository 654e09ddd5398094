"""The parts of a live decoder that can go: whole layers, groups of heads, feed-forward units, alike in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.models.anatomy.blocks import Block, base_of, blocks_of
from compress.models.anatomy.factors import Map, reader, writer
from compress.models.anatomy.table.families import network_of_kind
from compress.models.anatomy.table.family import ROLES, Network
from compress.models.anatomy.table.sizes import dimensions, parts_of

_BY_LAYER = ("layer_types", "no_rope_layers")
"""What a config may say of each layer."""


@dataclass(frozen=True)
class Share:
    """What of a linear map belongs to each of some parts: `places` int64 (parts, each), among its outputs or inputs."""

    map: nn.Module
    side: Literal["out", "in"]
    places: Tensor

    def scores(self, saliency: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """The saliency of all weights of each part, (parts,)."""
        axis = self._axis
        found = saliency[self._weight].double().sum(1 - axis)
        if self.side == "out" and (bias := getattr(self.map, "bias", None)) is not None:
            found = found + saliency[bias].double()
        return found[self.places.to(found.device)].sum(1)

    def keep(self, parts: Sequence[int]) -> None:
        """Leave some parts of the map, in their order."""
        rows = self.places[list(parts)].flatten().sort().values.to(self._weight.device)
        owner: Any = self.map
        owner.weight = nn.Parameter(self._weight.detach().index_select(self._axis, rows).contiguous())
        if self.side == "out" and getattr(owner, "bias", None) is not None:
            owner.bias = nn.Parameter(owner.bias.detach()[rows])
        # What a map of torch calls its sizes, and what a turned one of GPT-2 does.
        names = ("out_features", "nf") if self.side == "out" else ("in_features", "nx")
        for name in names:
            if hasattr(owner, name):
                setattr(owner, name, len(rows))

    @property
    def _weight(self) -> nn.Parameter:
        weight = self.map.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def _axis(self) -> int:
        """Of the weight, which is (out, in), and of a turned map (in, out)."""
        turned = not isinstance(self.map, nn.Linear)
        return int((self.side == "in") != turned)


@dataclass(frozen=True)
class Decoder:
    """A decoder of transformers whose family is known: `sizes` as `dimensions` gives them, layers from the lowest. Its
    maps may be factored."""

    model: PreTrainedModel
    network: Network
    sizes: Mapping[str, int]
    blocks: tuple[Block, ...]

    def maps(self, layer: int) -> tuple[tuple[nn.Module, ...], ...]:
        """The linear maps of a layer in the order of the computation, those together that read the same."""
        return tuple(tuple(self.blocks[layer].parts[role] for role in roles) for roles in self.network.maps)

    def units(self, layer: int) -> list[Share]:
        """What belongs to each feed-forward unit of a layer."""
        width = self.sizes["feed_forward"]
        each = torch.arange(width)[:, None]
        both = torch.cat([each, each + width], 1)
        return self._shares(layer, {"feed_in": each, "gate": each, "gate_feed_in": both}, {"feed_out": each})

    def groups(self, layer: int) -> list[Share]:
        """What belongs to each group of heads of a layer: the queries that share keys and values, and those."""
        count, size = self.sizes["groups"], self.sizes["head_size"]
        queries = torch.arange(self.sizes["queries"]).reshape(count, -1)
        keys = torch.arange(self.sizes["keys"]).reshape(count, size)
        first, second = self.sizes["queries"], self.sizes["queries"] + self.sizes["keys"]
        fused = torch.cat([queries, keys + first, keys + second], 1)
        if self.network.qkv == "heads":
            fused = torch.arange(fused.numel()).reshape(count, -1)
        outputs = {"query": queries, "key": keys, "value": keys, "qkv": fused}
        return self._shares(layer, outputs, {"attention_output": queries})

    def stream(self) -> list[Share]:
        """What of all tables and maps, the head included, belongs to each dimension of the stream."""
        each = torch.arange(self.sizes["hidden"])[:, None]
        # By their maps: several may share the factor that reads the stream.
        shares: dict[nn.Module, Share] = {}
        for role, part in self._parts():
            kind, shape = ROLES[role].kind, ROLES[role].shape
            if kind == "table" or (kind == "linear" and shape[0] == "hidden"):
                found = Share(_end(part, "out"), "out", each)
            elif kind == "linear" and shape[1] == "hidden":
                found = Share(_end(part, "in"), "in", each)
            else:
                continue
            shares.setdefault(found.map, found)
        return [*shares.values()]

    def norms(self) -> list[tuple[str, nn.Module]]:
        """The norms of the stream and of what is added to it, with their roles."""
        return [(role, part) for role, part in self._parts() if ROLES[role] == ROLES["final_norm"]]

    def _parts(self) -> list[tuple[str, nn.Module]]:
        found = parts_of(self.network, self.model.config.to_dict(), "words")
        return [(role, self.model.get_submodule(path)) for role, path in found]

    def _shares(self, layer: int, out: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> list[Share]:
        parts = self.blocks[layer].parts
        sides: tuple[tuple[Literal["out", "in"], Mapping[str, Tensor]], ...] = (("out", out), ("in", into))
        return [
            Share(_end(parts[role], side), side, places)
            for side, wanted in sides
            for role, places in wanted.items()
            if role in parts
        ]

    def note(self, size: str, value: int) -> None:
        """Let the config say what a size is now, and the attention modules that keep a copy."""
        key = self.network.keys[size]
        setattr(self.model.config, key, value)
        for block in self.blocks:
            if hasattr(block.attention, key):
                setattr(block.attention, key, value)

    def keep_layers(self, kept: Sequence[int]) -> None:
        """Leave some layers, in their order; each is told where it stands now."""
        config = self.model.config
        stack: Any = base_of(self.model, self.network).get_submodule(self.network.layer.split(".{i}")[0])
        for place in sorted(set(range(len(self.blocks))) - set(kept), reverse=True):
            del stack[place]
        for number, layer in enumerate(stack):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = number
        for key in _BY_LAYER:
            if isinstance(said := getattr(config, key, None), list):
                setattr(config, key, [said[place] for place in kept])
        self.note("layers", len(kept))


def _end(part: nn.Module, side: Literal["out", "in"]) -> nn.Module:
    """What of a map, whole or factored, has its outputs or inputs."""
    return (writer if side == "out" else reader)(cast(Map, part))


def decoder_of(model: nn.Module) -> Decoder | None:
    """The parts of a decoder; None of what is none, or of one whose family is not known."""
    if not isinstance(model, PreTrainedModel):
        return None
    network = network_of_kind(str(model.config.model_type))
    if network is None or not network.causal:
        return None
    blocks = blocks_of(base_of(model, network), network)
    return Decoder(model, network, dimensions(network, model.config.to_dict()), blocks)
