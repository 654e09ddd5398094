"""Students cut out of decoders: layers, groups of heads, feed-forward units and dimensions of the stream.

All but layers are chosen by what flows on examples (Muralidharan et al., Minitron, 2024, arXiv:2407.14679), alike in
every layer, so that transformers makes the student from its config alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import Decoder, decoder_of
from compress.models.anatomy.decoder_flow import DecoderFlow, most, narrow, remade
from compress.models.anatomy.factors import multiply_out
from compress.models.anatomy.observing import Batches
from compress.models.anatomy.stream import block_influence
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.models.students.layer_choice import choose_layers
from compress.profile.specs.student import StudentSpec

_WHERE = "student"


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
    multiply_out(model)
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
    for key, value in asked.described(len(layers)).items():
        setattr(model.config, key, value)
    return remade(model, seed, weights=taken), layers


def _parts(model: PreTrainedModel) -> Decoder:
    found = decoder_of(model)
    if found is None:
        raise ModelError(f"the layers of a {type(model).__name__} are not known", where=_WHERE)
    return found


def _shrink(decoder: Decoder, sizes: Mapping[str, int], batches: Batches | None) -> None:
    """Leave the most important groups, units and dimensions; the config still says the old sizes."""
    if batches is None:
        raise ModelError("there are no examples by which to choose what the student keeps", where=_WHERE)
    seen = DecoderFlow(decoder, batches, _WHERE)
    for layer in range(len(decoder.blocks)):
        for shares, kept in (
            (decoder.groups(layer), sizes["groups"]),
            (decoder.units(layer), sizes["feed_forward"]),
        ):
            # What leaves a group or a unit stands at the inputs of the map behind it, which is the last one.
            best = most(seen.leaving(shares[-1]), kept)
            for share in shares:
                share.keep(best)
    if sizes["hidden"] < decoder.sizes["hidden"]:
        narrow(decoder, seen, most(seen.dimensions(), sizes["hidden"]))
