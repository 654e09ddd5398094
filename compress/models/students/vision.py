"""Vision transformers initialised from scratch: students of a teacher of any architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import encoder_of
from compress.models.teacher.heads import with_labels
from compress.profile.specs.student import DEFAULT_HIDDEN_SIZE, StudentSpec

_WHERE = "student"
_HEAD_SIZE = 32
_INIT_STD = 0.02


def new_vision_transformer(
    spec: StudentSpec, *, image_size: tuple[int, int], channels: int, labels: Sequence[str], seed: int
) -> PreTrainedModel:
    """Create a vision transformer with random weights for images of `image_size` (height, width); float32, eval mode.

    `vit`: Dosovitskiy et al. 2020 (arXiv:2010.11929), one head on the class token. `deit`: Touvron et al. 2020
    (arXiv:2012.12877), a second head on a distillation token; `logits` is the mean of both heads, in training too,
    and `cls_logits` and `distillation_logits` are the individual heads.

    Defaults of the spec: 128 wide, heads of 32 dimensions or the next smaller size that divides the width, a
    feed-forward network 4 times as wide, square patches of an eighth of the shorter side and at least 2 pixels.
    Special tokens and positions are initialised with standard deviation 0.02, like the linear layers.

    Raises:
        ModelError: the spec lists layers of the teacher; patches do not divide the image; or heads do not divide the
            width.
    """
    if not isinstance(spec.layers, int):
        raise ModelError(
            "a fresh student takes no layers from its teacher",
            where=f"{_WHERE}.layers",
            hint="Give a number of layers.",
        )
    patch_size = spec.patch_size or max(2, min(image_size) // 8)
    if any(side % patch_size for side in image_size):
        raise ModelError(
            f"patches of {patch_size} pixels do not divide images of {image_size[0]} x {image_size[1]}",
            where=f"{_WHERE}.patch_size",
        )
    hidden = spec.hidden_size or DEFAULT_HIDDEN_SIZE
    heads = spec.heads or _heads(hidden)
    if hidden % heads:
        raise ModelError(f"{heads} heads do not divide the width {hidden}", where=f"{_WHERE}.heads")
    model_class = (
        DeiTForImageClassificationWithTeacher if spec.architecture == "deit" else ViTForImageClassification
    )
    config_class = DeiTConfig if spec.architecture == "deit" else ViTConfig
    config = config_class(
        hidden_size=hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=heads,
        intermediate_size=spec.intermediate_size or 4 * hidden,
        image_size=image_size[0] if image_size[0] == image_size[1] else list(image_size),
        patch_size=patch_size,
        num_channels=channels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(with_labels(config, labels))
        # transformers leaves them at zero in a DeiT: with zero position embeddings, patches cannot be told apart by
        # place.
        for parameter in encoder_of(model).bare_tensors().values():
            torch.nn.init.trunc_normal_(parameter, std=_INIT_STD)
    return model.eval()


def _heads(hidden: int) -> int:
    """Number of heads whose size is at most 32 and as close to it as divides the width."""
    return next(heads for heads in range(max(1, -(-hidden // _HEAD_SIZE)), hidden + 1) if hidden % heads == 0)
