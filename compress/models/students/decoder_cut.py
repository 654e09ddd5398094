"""Students cut out of decoders: layers, groups of heads, feed-forward units and dimensions of the stream.

All but layers are chosen by what flows on examples (Muralidharan et al., Minitron, 2024, arXiv:2407.14679), alike in
every layer, so that transformers makes the student from its config alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import Decoder, Share, decoder_of
from compress.models.anatomy.observing import Batches, observe
from compress.models.anatomy.stream import block_influence
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.models.students.layer_choice import choose_layers
from compress.profile.student_spec import StudentSpec

_WHERE = "student"
_RESULTS = ("attention_result_norm", "output_result_norm")
"""Norms of what is added to the stream; all others stand before what reads it."""


def cut_decoder(
    teacher: PreTrainedModel, spec: StudentSpec, seed: int, batches: Batches | None
) -> tuple[PreTrainedModel, tuple[int, ...]]:
    """A smaller decoder of the teacher's family and vocabulary, in float32 and eval mode, and the teacher's layers that
    it is made of; the teacher stays as it is.

    Args:
        batches: examples encoded for the teacher; some hundred are enough.

    Raises:
        ModelError: the teacher is no decoder that is known, there is no such student of it, or there are no examples to
            choose by.
    """
    model = copy.deepcopy(teacher)
    decoder = _parts(model)
    asked = SmallerDecoder(model.config.to_dict(), spec.hidden_size, spec.heads, spec.intermediate_size)
    for key, why in asked.faults():
        raise ModelError(why, where=f"{_WHERE}.{key}")
    influence = None
    if spec.choose == "similarity" and isinstance(spec.layers, int) and batches is not None:
        blocks = [block.module for block in decoder.blocks]
        influence = block_influence(base_of(model, decoder.network), blocks, batches)
    layers = choose_layers(spec.layers, len(decoder.blocks), spec.choose, influence)
    decoder.keep_layers(layers)
    decoder = _parts(model)
    sizes = asked.sizes
    taken = spec.from_ == "teacher"
    if taken and any(sizes[size] < decoder.sizes[size] for size in sizes):
        with torch.no_grad():
            _shrink(decoder, sizes, batches)
    for size, value in sizes.items():
        if size in decoder.network.keys:
            setattr(model.config, decoder.network.keys[size], value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = type(model)(model.config)
    student.config._attn_implementation = teacher.config._attn_implementation
    if taken:
        student.load_state_dict(model.state_dict())
    return student.eval(), layers


def _parts(model: PreTrainedModel) -> Decoder:
    found = decoder_of(model)
    if found is None:
        raise ModelError(f"the layers of a {type(model).__name__} are not known", where=_WHERE)
    return found


def _shrink(decoder: Decoder, sizes: Mapping[str, int], batches: Batches | None) -> None:
    """Leave the most important groups, units and dimensions; the config still says the old sizes."""
    if batches is None:
        raise ModelError("there are no examples to choose by what a student keeps", where=_WHERE)
    seen = _Flow(decoder, batches)
    for layer in range(len(decoder.blocks)):
        for shares, kept in (
            (decoder.groups(layer), sizes["groups"]),
            (decoder.units(layer), sizes["feed_forward"]),
        ):
            # What leaves a group or a unit stands at the inputs of the map behind it, which is the last one.
            best = _most(seen.leaving(shares[-1]), kept)
            for share in shares:
                share.keep(best)
    if sizes["hidden"] < decoder.sizes["hidden"]:
        _narrow(decoder, seen, _most(seen.dimensions(), sizes["hidden"]))


def _narrow(decoder: Decoder, seen: _Flow, kept: Sequence[int]) -> None:
    """Leave dimensions of the stream in all that reads and writes it.

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
                for parameter in block.parts[role].parameters():
                    parameter.mul_(shrunk)


class _Flow:
    """What flows through a decoder on examples, sums of a number a channel, float64; padding is left out."""

    def __init__(self, decoder: Decoder, batches: Batches) -> None:
        """Run the decoder.

        Raises:
            ModelError: there are no examples.
        """
        self._norms = {norm: role for role, norm in decoder.norms()}
        self._centred = decoder.network.norm == "layer"
        outputs = [block.parts[role] for block in decoder.blocks for role in ("attention_output", "feed_out")]
        self._reads: dict[nn.Module, Tensor] = {}
        self._gives: dict[nn.Module, Tensor] = {}
        self._rows: dict[nn.Module, int] = {}
        observe(base_of(decoder.model, decoder.network), batches(), [*outputs, *self._norms], self._note)
        if not self._rows:
            raise ModelError("there are no examples to choose by what a student keeps", where=_WHERE)

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

    def _note(self, module: nn.Module, reads: Tensor, gives: Tensor, mask: Tensor | None) -> None:
        rows, made = (
            (each.flatten(0, -2) if mask is None else each[mask]).double() for each in (reads, gives)
        )
        if module in self._norms:
            if self._centred:
                rows = rows - rows.mean(1, keepdim=True)
            rows = rows / rows.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
            self._gives[module] = self._gives.get(module, 0) + made.abs().sum(0).cpu()
        self._reads[module] = self._reads.get(module, 0) + rows.square().sum(0).cpu()
        self._rows[module] = self._rows.get(module, 0) + len(rows)


def _most(scores: Tensor, count: int) -> list[int]:
    """The places of the highest scores, ascending; of equal ones the first stay."""
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
