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
from compress.models.anatomy.factors import LinearLike, apply_factors, describe_factors, output_linear
from compress.models.anatomy.observing import Batches, observe_tokens

_RESULT_NORMS = ("attention_result_norm", "output_result_norm")
"""Norms of results before they are added to the residual stream; all others precede a module that reads it."""


def narrow_stream(decoder: Decoder, activations: DecoderActivations, kept: Sequence[int]) -> None:
    """Keep only some dimensions of the residual stream, in every module that reads or writes it and in the config.

    The model must be rebuilt by `rebuild_from_config` before it can run.

    A norm divides by the RMS (standard deviation for LayerNorm) of its remaining inputs, so its weight is scaled by
    the measured ratio to that of all inputs. Where embeddings are multiplied by the square root of their width, the
    results added to them are scaled down by the same factor as they are.
    """
    for weight_slice in decoder.stream_slices():
        weight_slice.keep(kept)
    network = decoder.network
    embedding_ratio = (len(kept) / decoder.sizes["hidden"]) ** 0.5 if network.scales_embeddings else 1.0
    around = network.norm_placement == "around"
    for role, norm in decoder.norms():
        module: Any = norm
        gain = activations.gain(norm, kept) * (embedding_ratio if role in _RESULT_NORMS else 1.0)
        scale = (module.weight + network.norm_offset)[list(kept)] * gain - network.norm_offset
        module.weight = nn.Parameter(scale)
        if getattr(module, "bias", None) is not None:
            module.bias = nn.Parameter(module.bias[list(kept)])
    if network.scales_embeddings and not around:
        for block in decoder.blocks:
            for role in ("attention_output", "feed_out"):
                for parameter in output_linear(cast(LinearLike, block.parts[role])).parameters():
                    parameter.mul_(embedding_ratio)
    decoder.set_size("hidden", len(kept))


def rebuild_from_config(model: PreTrainedModel, seed: int = 0, *, weights: bool = True) -> PreTrainedModel:
    """Rebuild a model from its current config, in eval mode and with the same attention implementation.

    `weights`: copy the model's weights; otherwise they are initialised from `seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rebuilt = type(model)(copy.deepcopy(model.config))
        apply_factors(rebuilt, describe_factors(model), "structure")
    rebuilt.config._attn_implementation = model.config._attn_implementation
    if weights:
        rebuilt.load_state_dict(model.state_dict())
    return rebuilt.to(model.device).eval()


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
        self._centred = decoder.network.norm_type == "layer"
        outputs = [block.parts[role] for block in decoder.blocks for role in ("attention_output", "feed_out")]
        self._input_sums: dict[nn.Module, Tensor] = {}
        self._output_sums: dict[nn.Module, Tensor] = {}
        self._counts: dict[nn.Module, int] = {}
        base = base_of(decoder.model, decoder.network)
        observe_tokens(base, batches, [*outputs, *self._norms], self._accumulate)
        if not self._counts:
            raise ModelError("there are no examples by which to choose what to keep", where=where)

    def contributions(self, weight_slice: WeightSlice) -> Tensor:
        """Mean squared output that each part at the inputs of a linear layer contributes, (parts,)."""
        weight = weight_slice.linear.weight
        assert isinstance(weight, nn.Parameter)
        square = self._mean(self._input_sums, weight_slice.linear)
        column = square if isinstance(weight_slice.linear, nn.Linear) else square[:, None]
        return weight_slice.scores({weight: weight.double() ** 2 * column.to(weight.device)})

    def dimension_importance(self) -> Tensor:
        """Importance of each dimension of the residual stream, (hidden,).

        The mean absolute output of the norms that precede what reads the stream, summed over these norms.
        """
        norms = [norm for norm, role in self._norms.items() if role not in _RESULT_NORMS]
        return torch.stack([self._mean(self._output_sums, norm) for norm in norms]).sum(0)

    def gain(self, norm: nn.Module, kept: Sequence[int]) -> float:
        """Ratio of the RMS of the kept dimensions to the RMS of all, as the norm computes it."""
        return float(self._mean(self._input_sums, norm)[list(kept)].mean().sqrt())

    def _mean(self, sums: Mapping[nn.Module, Tensor], module: nn.Module) -> Tensor:
        return sums[module] / self._counts[module]

    def _accumulate(self, module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        rows, made = inputs.double(), outputs.double()
        if module in self._norms:
            if self._centred:
                rows = rows - rows.mean(1, keepdim=True)
            rows = rows / rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
            self._output_sums[module] = self._output_sums.get(module, 0) + made.abs().sum(0).cpu()
        self._input_sums[module] = self._input_sums.get(module, 0) + rows.square().sum(0).cpu()
        self._counts[module] = self._counts.get(module, 0) + len(rows)


def top_indices(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` highest scores, ascending; ties go to the lower index."""
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
