"""Activation statistics of a decoder, and the narrowing of its residual stream by them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import Decoder, WeightSlice
from compress.models.anatomy.factors import Map, apply_factors, describe_factors, output_linear
from compress.models.anatomy.observing import Batches, observe_tokens

_RESULTS = ("attention_result_norm", "output_result_norm")
"""Norms of results before they are added to the residual stream; all others precede a module that reads it."""


def narrow(decoder: Decoder, seen: DecoderActivations, kept: Sequence[int]) -> None:
    """Keep only some dimensions of the residual stream, in every module that reads or writes it and in the config.

    The model must be rebuilt by `rebuild_from_config` before it can run.

    A norm divides by the RMS (standard deviation for LayerNorm) of its remaining inputs, so its weight is scaled by
    the measured ratio to that of all inputs. Where embeddings are multiplied by the square root of their width, the
    results added to them are scaled down by the same factor as they are.
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
                for parameter in output_linear(cast(Map, block.parts[role])).parameters():
                    parameter.mul_(shrunk)
    decoder.note("hidden", len(kept))


def rebuild_from_config(model: PreTrainedModel, seed: int = 0, *, weights: bool = True) -> PreTrainedModel:
    """Rebuild a model from its current config, in eval mode and with the same attention implementation.

    `weights`: copy the model's weights; otherwise they are initialised from `seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = type(model)(copy.deepcopy(model.config))
        apply_factors(made, describe_factors(model), "structure")
    made.config._attn_implementation = model.config._attn_implementation
    if weights:
        made.load_state_dict(model.state_dict())
    return made.to(model.device).eval()


class DecoderActivations:
    """Activation statistics of a decoder on examples: float64 sums per channel, padding excluded."""

    def __init__(self, decoder: Decoder, batches: Batches, where: str) -> None:
        """Run the decoder on the examples.

        Args:
            where: config key to name in the error.

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

    def leaving(self, share: WeightSlice) -> Tensor:
        """Mean squared output that each part at the inputs of a linear layer contributes, (parts,)."""
        weight = share.map.weight
        assert isinstance(weight, nn.Parameter)
        square = self._mean(self._reads, share.map)
        column = square if isinstance(share.map, nn.Linear) else square[:, None]
        return share.scores({weight: weight.double() ** 2 * column.to(weight.device)})

    def dimensions(self) -> Tensor:
        """Importance of each dimension of the residual stream, (hidden,).

        The mean absolute output of the norms that precede what reads the stream, summed over these norms.
        """
        read = [norm for norm, role in self._norms.items() if role not in _RESULTS]
        return torch.stack([self._mean(self._gives, norm) for norm in read]).sum(0)

    def gain(self, norm: nn.Module, kept: Sequence[int]) -> float:
        """Ratio of the RMS of the kept dimensions to the RMS of all, as the norm computes it."""
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


def top_indices(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` highest scores, ascending; ties go to the lower index."""
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
