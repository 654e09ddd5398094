"""The vision transformer families whose layer structure is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compress.models.anatomy.table.family import KEYS, Config, Family, Network


def _height_and_width(value: object) -> tuple[int, int]:
    """Height and width, given in a config as one number or two."""
    if isinstance(value, list | tuple):
        return int(value[0]), int(value[1])
    return int(str(value)), int(str(value))


def _position_count(extra_tokens: int, config: Config) -> int:
    (height, width), (patch_height, patch_width) = (
        _height_and_width(config["image_size"]),
        _height_and_width(config["patch_size"]),
    )
    return (height // patch_height) * (width // patch_width) + extra_tokens


_VIT = Network(
    base="vit",
    layer_path="layers.{i}",
    attention="attention",
    layer_parts={
        "query": "attention.q_proj",
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "attention_output": "attention.o_proj",
        "attention_norm": "layernorm_before",
        "feed_in": "mlp.fc1",
        "feed_out": "mlp.fc2",
        "output_norm": "layernorm_after",
    },
    outer_parts={
        "class_token": "embeddings.cls_token",
        "places": "embeddings.position_embeddings",
        "patches": "embeddings.patch_embeddings.projection",
        "final_norm": "layernorm",
    },
    heads={"none": {"head_dense": "pooler.dense"}, "labels": {"head_out": "classifier"}},
    keys={**KEYS, "channels": "num_channels"},
    norm_placement="before",
    biases=dict.fromkeys(("query", "key", "value"), "qkv_bias"),
    defaults={"qkv_bias": True, "image_size": 224, "patch_size": 16, "num_channels": 3},
    computed_sizes={
        "places": lambda config: _position_count(1, config),
        "patch_height": lambda config: _height_and_width(config["patch_size"])[0],
        "patch_width": lambda config: _height_and_width(config["patch_size"])[1],
    },
)

_DEIT = replace(
    _VIT,
    base="deit",
    outer_parts={**_VIT.outer_parts, "distillation_token": "embeddings.distillation_token"},
    heads={
        **_VIT.heads,
        "distilled": {"head_out": "cls_classifier", "head_teacher": "distillation_classifier"},
    },
    computed_sizes={**_VIT.computed_sizes, "places": lambda config: _position_count(2, config)},
)

VISION: Mapping[str, Family] = {"vit": Family("images", _VIT), "deit": Family("images", _DEIT)}
