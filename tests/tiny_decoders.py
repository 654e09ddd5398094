"""A tiny decoder of every family that is known, with weights under which greedy answers vary."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.models.anatomy.decoder import Decoder, decoder_of

WORDS = 200
POSITIONS = 128
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": WORDS,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA = {**_GROUPED, "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 24}

CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**_GROUPED),
    "gemma3": transformers.Gemma3TextConfig(**_GEMMA, sliding_window_pattern=2),
    "gpt2": transformers.GPT2Config(
        n_embd=64,
        n_layer=3,
        n_head=4,
        vocab_size=WORDS,
        n_positions=POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(
        **{**_SIZES, "num_attention_heads": 2},
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
    "llama, tied with biases": transformers.LlamaConfig(
        **_GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama, stretched positions": transformers.LlamaConfig(**_GROUPED, rope_parameters=_LLAMA3),
    "mistral": transformers.MistralConfig(**_GROUPED, head_dim=32, sliding_window=8),
    "qwen2": transformers.Qwen2Config(**_GROUPED),
    "qwen2, windows": transformers.Qwen2Config(
        **_GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": transformers.Qwen3Config(**_GROUPED, head_dim=32),
    "gemma": transformers.GemmaConfig(**_GROUPED, head_dim=32),
    "gemma2": transformers.Gemma2Config(**_GEMMA),
    "phi3": transformers.Phi3Config(**_GROUPED),
    "smollm3": transformers.SmolLM3Config(**_GROUPED, no_rope_layers=[1, 0, 1]),
    "starcoder2": transformers.Starcoder2Config(**_GROUPED),
    "gpt_neox, one after the other": transformers.GPTNeoXConfig(
        **{**_SIZES, "num_attention_heads": 2},
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    ),
}
"""A kind of decoder, and what is particular about it."""


def tiny_decoder(name: str, **changed: Any) -> PreTrainedModel:
    """A model with random weights everywhere, in eval mode; `changed` keys of its config."""
    config = copy.deepcopy(CONFIGS[name])
    config.update(changed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        )
        words = model.get_input_embeddings().weight
        for path, parameter in model.named_parameters():
            is_norm = "norm" in path or ".ln_" in path
            middle = (
                1.0 if is_norm and path.endswith("weight") and "Gemma" not in type(model).__name__ else 0.0
            )
            nn.init.normal_(parameter, mean=middle, std=0.05 if parameter is words else 0.35)
    return model.eval()


def logits_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """What it says behind every token of `ids`."""
    with torch.inference_mode():
        found: Tensor = model(input_ids=ids).logits
    return found


def parts_of(model: PreTrainedModel) -> Decoder:
    """Its parts."""
    found = decoder_of(model)
    assert found is not None
    return found


def lowered_decoder(model: PreTrainedModel, folder: Path) -> Path:
    """Its ONNX file."""
    path = folder / "model.onnx"
    ir.save(decoder_graph(layout_of(model.config), model.state_dict()), path)
    return path


def silence_dimensions(model: PreTrainedModel) -> None:
    """Let every fourth dimension of the stream say nothing."""
    decoder = parts_of(model)
    with torch.no_grad():
        for share in decoder.stream_slices():
            table = isinstance(share.linear, torch.nn.Embedding)
            for parameter in share.linear.parameters():
                (parameter.T if table or share.side == "in" else parameter)[1::4] = 0
        for _, norm in decoder.norms():
            norm.get_parameter("weight")[1::4] = 0
