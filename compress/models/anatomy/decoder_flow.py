"""What flows through a decoder, and the narrowing of its stream by it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import Decoder, Share
from compress.models.anatomy.factors import Map, apply_factors, describe_factors, writer
from compress.models.anatomy.observing import Batches, observe_tokens

_RESULTS = ("attention_result_norm", "output_result_norm")
"""Norms of what is added to the stream; all others stand before what reads it."""


def narrow(decoder: Decoder, seen: DecoderFlow, kept: Sequence[int]) -> None:
    """Leave dimensions of the stream in all that reads and writes it, and say so in the config.

    The model does not run until it is `remade`.

    A norm divides by the size of what is left of its input, so its weight takes back by how much that differs. Where
    embeddings are multiplied with the root of their width, what is added to them shrinks as they do.
    """
    for share in decoder.stream():
        share.keep(kept)
    network = decoder.network
    shrunk = (len(kept) / decoder.sizes["hidden"]) ** 0.5 if network.scales_words else 1.0
    around = network.norms == "around"
    for role, norm in decoder.norms():
        owner: Any = norm
        gain = seen.gain(norm, kept) * (shrunk if role in _RESULTS else 1.0)
        scale = (owner.weight + network.norm_offset)[list(kept)] * gain - network.norm_offset
        owner.weight = nn.Parameter(scale)
        if getattr(owner, "bias", None) is not None:
            owner.bias = nn.Parameter(owner.bias[list(kept)])
    if network.scales_words and not around:
        for block in decoder.blocks:
            for role in ("attention_output", "feed_out"):
                for parameter in writer(cast(Map, block.parts[role])).parameters():
                    parameter.mul_(shrunk)
    decoder.note("hidden", len(kept))


def remade(model: PreTrainedModel, seed: int = 0, *, weights: bool = True) -> PreTrainedModel:
    """A model of another's config as it is now, in eval mode and with the same attention; `weights`: with its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = type(model)(copy.deepcopy(model.config))
        apply_factors(made, describe_factors(model), "structure")
    made.config._attn_implementation = model.config._attn_implementation
    if weights:
        made.load_state_dict(model.state_dict())
    return made.to(model.device).eval()


class DecoderFlow:
    """What flows through a decoder on examples, sums of a number a channel, float64; padding is left out."""

    def __init__(self, decoder: Decoder, batches: Batches, where: str) -> None:
        """Run the decoder; `where`: the key that needs it.

        Raises:
            ModelError: there are no examples.
        """
        self._norms = {norm: role for role, norm in decoder.norms()}
        self._centred = decoder.network.norm == "layer"
        outputs = [block.parts[role] for block in decoder.blocks for role in ("attention_output", "feed_out")]
        self._reads: dict[nn.Module, Tensor] = {}
        self._gives: dict[nn.Module, Tensor] = {}
        self._rows: dict[nn.Module, int] = {}
        base = base_of(decoder.model, decoder.network)
        observe_tokens(base, batches, [*outputs, *self._norms], self._note)
        if not self._rows:
            raise ModelError("there are no examples by which to choose what to keep", where=where)

    def leaving(self, share: Share) -> Tensor:
        """Of parts at the inputs of a map: the mean square of what the map makes of each, (parts,)."""
        weight = share.map.weight
        assert isinstance(weight, nn.Parameter)
        square = self._mean(self._reads, share.map)
        column = square if isinstance(share.map, nn.Linear) else square[:, None]
        return share.scores({weight: weight.double() ** 2 * column.to(weight.device)})

    def dimensions(self) -> Tensor:
        """Of dimensions of the stream: their mean size behind the norms that stand before what reads it, (hidden,)."""
        read = [norm for norm, role in self._norms.items() if role not in _RESULTS]
        return torch.stack([self._mean(self._gives, norm) for norm in read]).sum(0)

    def gain(self, norm: nn.Module, kept: Sequence[int]) -> float:
        """The size of the kept dimensions over that of all, as a norm divides by it."""
        return float(self._mean(self._reads, norm)[list(kept)].mean().sqrt())

    def _mean(self, sums: Mapping[nn.Module, Tensor], module: nn.Module) -> Tensor:
        return sums[module] / self._rows[module]

    def _note(self, module: nn.Module, reads: Tensor, gives: Tensor) -> None:
        rows, made = reads.double(), gives.double()
        if module in self._norms:
            if self._centred:
                rows = rows - rows.mean(1, keepdim=True)
            rows = rows / rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
            self._gives[module] = self._gives.get(module, 0) + made.abs().sum(0).cpu()
        self._reads[module] = self._reads.get(module, 0) + rows.square().sum(0).cpu()
        self._rows[module] = self._rows.get(module, 0) + len(rows)


def most(scores: Tensor, count: int) -> list[int]:
    """The places of the highest scores, ascending; of equal ones the first stay."""
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
