"""The vision transformer families whose layer structure is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compress.models.anatomy.table.family import KEYS, Config, Family, Network


def _sides(value: object) -> tuple[int, int]:
    """Height and width, given in a config as one number or two."""
    if isinstance(value, list | tuple):
        return int(value[0]), int(value[1])
    return int(str(value)), int(str(value))


def _places(tokens: int, config: Config) -> int:
    (height, width), (high, wide) = _sides(config["image_size"]), _sides(config["patch_size"])
    return (height // high) * (width // wide) + tokens


_VIT = Network(
    base="vit",
    layer="layers.{i}",
    attention="attention",
    inside={
        "query": "attention.q_proj",
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "attention_output": "attention.o_proj",
        "attention_norm": "layernorm_before",
        "feed_in": "mlp.fc1",
        "feed_out": "mlp.fc2",
        "output_norm": "layernorm_after",
    },
    outside={
        "class_token": "embeddings.cls_token",
        "places": "embeddings.position_embeddings",
        "patches": "embeddings.patch_embeddings.projection",
        "final_norm": "layernorm",
    },
    heads={"none": {"head_dense": "pooler.dense"}, "labels": {"head_out": "classifier"}},
    keys={**KEYS, "channels": "num_channels"},
    norms="before",
    biases=dict.fromkeys(("query", "key", "value"), "qkv_bias"),
    defaults={"qkv_bias": True, "image_size": 224, "patch_size": 16, "num_channels": 3},
    computed={
        "places": lambda config: _places(1, config),
        "patch_height": lambda config: _sides(config["patch_size"])[0],
        "patch_width": lambda config: _sides(config["patch_size"])[1],
    },
)

_DEIT = replace(
    _VIT,
    base="deit",
    outside={**_VIT.outside, "distillation_token": "embeddings.distillation_token"},
    heads={
        **_VIT.heads,
        "distilled": {"head_out": "cls_classifier", "head_teacher": "distillation_classifier"},
    },
    computed={**_VIT.computed, "places": lambda config: _places(2, config)},
)

VISION: Mapping[str, Family] = {"vit": Family("images", _VIT), "deit": Family("images", _DEIT)}
