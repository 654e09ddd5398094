"""A tiny random model of each family, of transformers' own class: what carrying and lowering are held against."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from compress.models.anatomy.table.families import FAMILIES

VOCABULARY = 64
LABELS = ("kitchen", "harbour", "garden")
"""Not in the order of the alphabet, as the labels of data are."""
IMAGE_SIZE = 64

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 80, "embedding_size": 32, "dim": 32, "hidden_dim": 64,
    "n_layers": 2, "n_heads": 4, "true_hidden_size": 16, "intra_bottleneck_size": 16, "image_size": IMAGE_SIZE,
    "patch_size": 16, "pad_token_id": 0,
}  # fmt: skip
_FOUR_STAGES: Mapping[str, Any] = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
_WINDOWS = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
_PYRAMID = {**_FOUR_STAGES, "num_attention_heads": [1, 2, 2, 2], "patch_size": 4}
_TOWERS = {
    "vision_config": {
        key: _COMMON[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    }
    | {"intermediate_size": 64, "image_size": IMAGE_SIZE, "patch_size": 16},
    "text_config": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
}
_OWN: Mapping[str, Mapping[str, Any]] = {
    **{name: {"pad_token_id": 1} for name, family in FAMILIES.items() if family.positions_after_padding},
    "electra": {"embedding_size": 16},
    "mobilebert": {"embedding_size": 16},
    "clip": _TOWERS,
    "siglip": _TOWERS,
    "convnext": {**_FOUR_STAGES, "patch_size": 4},
    "convnextv2": {**_FOUR_STAGES, "patch_size": 4},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "focalnet": {"embed_dim": 16, "depths": [1, 1], "patch_size": 4},
    "hiera": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "patch_size": [7, 7],
        "patch_padding": [3, 3],
        "image_size": [64, 64],
        "query_stride": [2, 2],
        "num_query_pool": 1,
        "masked_unit_size": [8, 8],
    },
    "levit": {
        "hidden_sizes": [16, 16, 16],
        "num_attention_heads": [2, 2, 2],
        "key_dim": [8, 8, 8],
        "depths": [1, 1, 1],
        "drop_path_rate": 0,
        "down_ops": [["Subsample", 8, 2, 4, 2, 2]] * 2,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {
        "hidden_sizes": [16, 16, 16],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
        "patch_size": 2,
    },
    "mobilevitv2": {"width_multiplier": 0.25, "patch_size": 2},
    "poolformer": _FOUR_STAGES,
    "pvt_v2": _PYRAMID,
    "regnet": {**_FOUR_STAGES, "embedding_size": 8, "groups_width": 8},
    "resnet": {**_FOUR_STAGES, "embedding_size": 8},
    "segformer": {**_PYRAMID, "decoder_hidden_size": 16},
    "swiftformer": {"embed_dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
}


def tiny_config(kind: str, **changes: Any) -> PretrainedConfig:
    """A small config of a family, with three labels."""
    cls = CONFIG_MAPPING[kind]
    own = _OWN.get(kind, {})
    known = set(inspect.signature(cls.__init__).parameters) | set(getattr(cls, "__dataclass_fields__", {}))
    common = {} if own is _TOWERS else {key: value for key, value in _COMMON.items() if key in known}
    names = {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: place for place, name in enumerate(LABELS)},
    }
    return cls(**{**common, **own, **names, **changes})


def tiny_model(kind: str, *, head: bool = True, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of transformers' own class with random weights that tell its inputs apart, in eval mode."""
    images = FAMILIES[kind].modality == "images"
    headed = AutoModelForImageClassification if images else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        config = tiny_config(kind, **changes)
        # Of the families with two heads the one without a distillation token.
        config.architectures = []
        model = (headed if head else AutoModel).from_config(config)
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_mean"):
                values.normal_(0, 0.2)
            elif name.endswith("running_var"):
                values.uniform_(0.5, 1.5)
            elif isinstance(values, nn.Parameter) and values.dim() == 2:
                nn.init.normal_(values, std=0.3)
            elif isinstance(values, nn.Parameter) and values.dim() > 2:
                nn.init.normal_(values, std=(values[0].numel() / 2) ** -0.5)
            elif name.endswith("bias"):
                values.add_(torch.randn_like(values) * 0.1)
    return model.float().eval()


def text_batch(kind: str, rows: int, length: int, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Random token ids with ever more padding, int64 (rows, length) each."""
    padding = int(tiny_config(kind).pad_token_id or 0)
    draw = torch.Generator().manual_seed(rows * 100 + length)
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=draw)
    kept = torch.ones_like(ids)
    for row in range(rows if rows > 1 else 0):
        kept[row, 3 + 2 * row :] = 0
    every = {
        "input_ids": torch.where(kept.bool(), ids, torch.full_like(ids, padding)),
        "attention_mask": kept,
        "token_type_ids": torch.zeros_like(ids),
    }
    return {name: every[name] for name in names}


def image_batch(rows: int) -> dict[str, torch.Tensor]:
    """Random pixels, float32 (rows, 3, 64, 64)."""
    draw = torch.Generator().manual_seed(rows)
    return {"pixel_values": torch.randn((rows, 3, IMAGE_SIZE, IMAGE_SIZE), generator=draw)}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of as many tokens as the models embed."""
    from tests.tiny import SPECIAL, tiny_tokenizer

    tiny_tokenizer([f"w{number}" for number in range(VOCABULARY - len(SPECIAL))]).save(
        str(folder / "tokenizer.json")
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
