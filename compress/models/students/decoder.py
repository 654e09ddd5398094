"""Decoders initialised from scratch, to be trained on texts alone or by a teacher with the same tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from compress.models.anatomy.table.fresh import FreshDecoder

_THETA = 1e4


def new_decoder(
    decoder: FreshDecoder,
    *,
    vocabulary_size: int,
    max_positions: int,
    bos_id: int | None,
    eos_id: int | None,
    seed: int,
) -> PreTrainedModel:
    """Create a decoder with its family's random initialisation, in float32 and eval mode.

    Args:
        vocabulary_size: vocabulary size.
        max_positions: maximum number of tokens.
        begin, end: ids of the tokens before a text and after an answer.
    """
    settings: dict[str, Any] = dict(decoder.config(vocabulary_size, max_positions))
    model_type = settings.pop("model_type")
    # The embedding of a pad token gets no gradient, and the attention mask already marks padding.
    config = AutoConfig.for_model(
        model_type, bos_token_id=bos_id, eos_token_id=eos_id, pad_token_id=None, **settings
    )
    if hasattr(config, "query_pre_attn_scalar"):
        config.query_pre_attn_scalar = config.head_dim
    if model_type == "gpt_neox":
        # The default rotates a quarter of each head, which is too little for small heads.
        config.rope_parameters = {
            "rope_type": "default",
            "rope_theta": _THETA,
            "partial_rotary_factor": 1.0,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()
