"""The table of model families, consulted before loading: what each takes and which operations it supports.

A family is a `model_type` of transformers. It can be lowered once its ONNX export has been verified to match the
transformers implementation at several lengths and with padding. Its `network` describes the layer structure; a
family without one is only supported as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from compress.models.anatomy.table.decoders import DECODERS, DECODES
from compress.models.anatomy.table.encoders import DEBERTA_CANNOT, ENCODERS
from compress.models.anatomy.table.family import Config, Family, Network, Operation
from compress.models.anatomy.table.vision import VISION

FAMILY_UNSUPPORTED = "family-unsupported"
"""Error code of faults about a family."""

_UNKNOWN = "its layer structure is not known"
_NOT_TAKEN_APART: Mapping[Operation, str] = {"take apart": _UNKNOWN}
_TEXTS = Family("texts", cannot=_NOT_TAKEN_APART)
_OFFSET_TEXTS = replace(_TEXTS, positions_after_padding=True)
_IMAGES = Family("images", cannot=_NOT_TAKEN_APART)
_CONVOLUTIONS = replace(_IMAGES, has_attention=False)


def _not_exportable(modality: Literal["texts", "images"], why: str, has_attention: bool = True) -> Family:
    return Family(modality, cannot={**_NOT_TAKEN_APART, "lower": why}, has_attention=has_attention)


_NEIGHBOURS = "its tokens attend only to their neighbours and to selected tokens"

FAMILIES: Mapping[str, Family] = {
    **ENCODERS,
    **VISION,
    **DECODERS,
    **dict.fromkeys(("gpt_neo", "opt"), _not_exportable("texts", DECODES)),
    "convbert": _TEXTS,
    "ernie": _TEXTS,
    "gte": _TEXTS,
    "megatron-bert": _TEXTS,
    "mobilebert": _TEXTS,
    "nomic_bert": _TEXTS,
    "rembert": _TEXTS,
    "roberta-prelayernorm": _OFFSET_TEXTS,
    "roformer": _TEXTS,
    "squeezebert": Family("texts", cannot={**_NOT_TAKEN_APART, "embed": "does not run without its pooler"}),
    "deberta": Family("texts", cannot=DEBERTA_CANNOT),
    "eurobert": _not_exportable("texts", "its heads share keys and values"),
    "longformer": _not_exportable("texts", _NEIGHBOURS),
    "big_bird": _not_exportable("texts", _NEIGHBOURS),
    "xlnet": _not_exportable("texts", "it needs texts padded on the left, in its own layout"),
    "beit": _IMAGES,
    "clip": _IMAGES,
    "data2vec-vision": _IMAGES,
    "dinov2": _IMAGES,
    "dinov2_with_registers": _IMAGES,
    "focalnet": _IMAGES,
    "hiera": _IMAGES,
    "ijepa": _IMAGES,
    "levit": _IMAGES,
    "mobilevit": _IMAGES,
    "mobilevitv2": _IMAGES,
    "pvt": _not_exportable("images", "its head does not follow the labels of its config"),
    "pvt_v2": _IMAGES,
    "segformer": _IMAGES,
    "siglip": _IMAGES,
    "swiftformer": _IMAGES,
    "swin": _IMAGES,
    "swinv2": _IMAGES,
    "vit_msn": _IMAGES,
    "bit": _not_exportable("images", "its standardized weights come out differently", has_attention=False),
    "convnext": _CONVOLUTIONS,
    "convnextv2": _CONVOLUTIONS,
    "efficientnet": _CONVOLUTIONS,
    "hgnet_v2": _CONVOLUTIONS,
    "mobilenet_v1": _CONVOLUTIONS,
    "mobilenet_v2": _CONVOLUTIONS,
    "poolformer": _CONVOLUTIONS,
    "regnet": _CONVOLUTIONS,
    "resnet": _CONVOLUTIONS,
    "textnet": _CONVOLUTIONS,
    "timm_wrapper": _not_exportable("images", "its layers are in another package, timm", has_attention=False),
}

CONVOLUTIONAL = frozenset(name for name, family in FAMILIES.items() if not family.has_attention)
"""Model types of transformers without self-attention."""


def families_supporting(operation: Operation, modality: str | None = None) -> list[str]:
    """Return the names of the families that support an operation, sorted.

    Args:
        modality: `texts` or `images` only; None: both.
    """
    return sorted(
        name
        for name, family in FAMILIES.items()
        if operation not in family.cannot and modality in (None, family.modality)
    )


def network_of_kind(model_type: str) -> Network | None:
    """Return the layer structure of a `model_type`; None if it is not known."""
    family = FAMILIES.get(model_type)
    return None if family is None else family.network


def why_not_lowered(config: Config, *, embeds: bool = False) -> str | None:
    """Return why a model cannot be exported to an equivalent ONNX file; None if it can.

    Args:
        config: its parsed `config.json`.
        embeds: whether it is to run without its head and pooler, as a sentence encoder.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return "its config.json names no `model_type`"
    family = FAMILIES.get(model_type)
    if family is None or "lower" in family.cannot:
        unseen = "its ONNX export has not been verified"
        why = unseen if family is None else family.cannot["lower"]
        return f"a model of the family {model_type!r} cannot be lowered to ONNX here: {why}"
    if embeds and "embed" in family.cannot:
        return f"a model of the family {model_type!r} {family.cannot['embed']}, so it cannot embed sentences here"
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key) is True:
            return f"this {model_type} has `{key}: true`, but only encoders can be lowered"
    return None


def why_not_generating(config: Config) -> str | None:
    """Return why a model cannot generate text here; None if it can.

    Args:
        config: its parsed `config.json`.
    """
    model_type = config.get("model_type")
    if model_type in DECODERS:
        return None
    if config.get("is_encoder_decoder") is True:
        why = "it is an encoder-decoder, and only decoder-only models are supported"
    else:
        why = "its layers and its cache are not supported"
    return f"a model of the family {model_type!r} cannot generate text here: {why}"


def why_not_taken_apart(model_type: str) -> str | None:
    """Return why a `model_type` cannot be taken apart (layers cut out, pruned, given to students); None if it can."""
    family = FAMILIES.get(model_type)
    why = _UNKNOWN if family is None else family.cannot.get("take apart")
    return None if why is None else f"a model of the family {model_type!r} cannot be taken apart: {why}"


def why_not_corrected(model_type: str) -> str | None:
    """Return why adapters cannot be added to the linear layers of a `model_type`; None if they can."""
    known = network_of_kind(model_type) is not None
    return None if known else f"a model of the family {model_type!r} cannot take adapters here: {_UNKNOWN}"


def why_not_compared(model_type: str | None) -> str | None:
    """Return why the layers of a `model_type` cannot be compared with another's.

    None if they can, or if only the loaded model can tell.
    """
    family = FAMILIES.get(model_type or "")
    why = None if family is None else family.cannot.get("compare")
    return (
        None
        if why is None
        else f"the layers of a model of the family {model_type!r} cannot be compared: {why}"
    )


def max_tokens_of(config: Config) -> int | None:
    """Return how many tokens a text model takes, special tokens included; None if there is no limit."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or not family.positions_after_padding:
        return positions
    padding = config.get("pad_token_id")
    return positions - (padding if isinstance(padding, int) else 1) - 1
