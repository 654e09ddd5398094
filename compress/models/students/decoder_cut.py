"""Students cut out of decoders: layers, head groups, feed-forward units and dimensions of the residual stream.

All but layers are chosen by activations on examples (Muralidharan et al., Minitron, 2024, arXiv:2407.14679), to the
same sizes in every layer, so that transformers can build the student from its config alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import Decoder, decoder_of
from compress.models.anatomy.decoder_flow import (
    DecoderActivations,
    narrow_stream,
    rebuild_from_config,
    top_indices,
)
from compress.models.anatomy.factors import merge_factors
from compress.models.anatomy.observing import Batches
from compress.models.anatomy.stream import block_influence
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.models.students.layer_choice import choose_layers
from compress.profile.specs.student import StudentSpec

_WHERE = "student"


def cut_decoder(
    teacher: PreTrainedModel, spec: StudentSpec, seed: int, batches: Batches | None
) -> tuple[PreTrainedModel, tuple[int, ...]]:
    """Cut a smaller decoder of the teacher's family and vocabulary; the teacher is not modified.

    Args:
        batches: examples encoded for the teacher; a few hundred are enough.

    Returns:
        The student, in float32 and eval mode, and the teacher's layers that it is built from.

    Raises:
        ModelError: the teacher is not a known decoder, the requested sizes are not possible, or there are no
            examples to choose by.
    """
    model = copy.deepcopy(teacher)
    merge_factors(model)
    decoder = _decoder_parts(model)
    requested = SmallerDecoder(model.config.to_dict(), spec.hidden_size, spec.heads, spec.intermediate_size)
    for key, why in requested.faults():
        raise ModelError(why, where=f"{_WHERE}.{key}")
    influence = None
    if spec.choose == "similarity" and isinstance(spec.layers, int) and batches is not None:
        blocks = [block.module for block in decoder.blocks]
        influence = block_influence(base_of(model, decoder.network), blocks, batches)
    layers = choose_layers(spec.layers, len(decoder.blocks), spec.choose, influence)
    decoder.keep_layers(layers)
    decoder = _decoder_parts(model)
    sizes = requested.sizes
    from_teacher = spec.from_ == "teacher"
    if from_teacher and any(sizes[size] < decoder.sizes[size] for size in sizes):
        with torch.no_grad():
            _shrink(decoder, sizes, batches)
    for key, value in requested.config_values(len(layers)).items():
        setattr(model.config, key, value)
    return rebuild_from_config(model, seed, weights=from_teacher), layers


def _decoder_parts(model: PreTrainedModel) -> Decoder:
    found = decoder_of(model)
    if found is None:
        raise ModelError(f"the layers of a {type(model).__name__} are not known", where=_WHERE)
    return found


def _shrink(decoder: Decoder, sizes: Mapping[str, int], batches: Batches | None) -> None:
    """Keep the most important groups, units and dimensions; of the sizes in the config only `hidden` is updated."""
    if batches is None:
        raise ModelError("there are no examples by which to choose what the student keeps", where=_WHERE)
    activations = DecoderActivations(decoder, batches, _WHERE)
    for layer in range(len(decoder.blocks)):
        for slices, kept_count in (
            (decoder.groups(layer), sizes["groups"]),
            (decoder.units(layer), sizes["feed_forward"]),
        ):
            # The last share is at the inputs of the layer that reads a group's or unit's activations.
            best = top_indices(activations.contributions(slices[-1]), kept_count)
            for weight_slice in slices:
                weight_slice.keep(best)
    if sizes["hidden"] < decoder.sizes["hidden"]:
        narrow_stream(decoder, activations, top_indices(activations.dimension_importance(), sizes["hidden"]))
