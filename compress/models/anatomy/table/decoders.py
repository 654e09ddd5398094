"""The decoder families whose layer structure is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compress.models.anatomy.table.family import TEXT_KEYS, Family, Network, Operation

_QKV = ("query", "key", "value")
_NO_BIAS: Mapping[str, bool | str] = dict.fromkeys(
    (*_QKV, "attention_output", "gate", "feed_in", "feed_out", "head_words", "head_out"), False
)

_LLAMA = Network(
    base="model",
    layer_path="layers.{i}",
    attention="self_attn",
    layer_parts={
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_output": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "gate": "mlp.gate_proj",
        "feed_in": "mlp.up_proj",
        "feed_out": "mlp.down_proj",
        "output_norm": "post_attention_layernorm",
    },
    outer_parts={"words": "embed_tokens", "final_norm": "norm"},
    heads={"none": {}, "words": {"head_words": "lm_head"}, "labels": {"head_out": "score"}},
    keys={**TEXT_KEYS, "groups": "num_key_value_heads", "head_size": "head_dim"},
    positions="rotary",
    norm_type="rms",
    norm_placement="before",
    causal=True,
    biases={
        **_NO_BIAS,
        **dict.fromkeys((*_QKV, "attention_output"), "attention_bias"),
        **dict.fromkeys(("gate", "feed_in", "feed_out"), "mlp_bias"),
    },
    defaults={
        "num_key_value_heads": None,
        "head_dim": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
)

_MISTRAL = replace(
    _LLAMA,
    biases=_NO_BIAS,
    defaults={"num_key_value_heads": 8, "head_dim": None, "tie_word_embeddings": False},
)

_QWEN2 = replace(
    _LLAMA,
    keys={**TEXT_KEYS, "groups": "num_key_value_heads"},
    biases={**_NO_BIAS, **dict.fromkeys(_QKV, True)},
    defaults={"num_key_value_heads": 32, "tie_word_embeddings": False},
)

_NORMED_HEADS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
_BIASED_ATTENTION: Mapping[str, bool | str] = {
    **_NO_BIAS,
    **dict.fromkeys((*_QKV, "attention_output"), "attention_bias"),
}

_QWEN3 = replace(
    _LLAMA,
    layer_parts={**_LLAMA.layer_parts, **_NORMED_HEADS},
    biases=_BIASED_ATTENTION,
    defaults={
        "num_key_value_heads": 32,
        "head_dim": 128,
        "attention_bias": False,
        "tie_word_embeddings": False,
    },
)

_GEMMA = replace(
    _LLAMA,
    norm_offset=1.0,
    scales_embeddings=True,
    biases=_BIASED_ATTENTION,
    defaults={
        "num_key_value_heads": 16,
        "head_dim": 256,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
)

_GEMMA2 = replace(
    _GEMMA,
    layer_parts={
        **_LLAMA.layer_parts,
        "attention_result_norm": "post_attention_layernorm",
        "output_norm": "pre_feedforward_layernorm",
        "output_result_norm": "post_feedforward_layernorm",
    },
    norm_placement="around",
    defaults={**_GEMMA.defaults, "num_key_value_heads": 4},
)

_GEMMA3 = replace(_GEMMA2, layer_parts={**_GEMMA2.layer_parts, **_NORMED_HEADS})

_PHI3 = replace(
    _LLAMA,
    layer_parts={
        "qkv": "self_attn.qkv_proj",
        "attention_output": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "gate_feed_in": "mlp.gate_up_proj",
        "feed_out": "mlp.down_proj",
        "output_norm": "post_attention_layernorm",
    },
    biases={**_NO_BIAS, "qkv": False, "gate_feed_in": False},
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
)

_SMOLLM3 = replace(
    _LLAMA,
    keys=_QWEN2.keys,
    defaults={
        **{key: value for key, value in _LLAMA.defaults.items() if key != "head_dim"},
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
)

_STARCODER2 = replace(
    _LLAMA,
    layer_parts={
        **{role: path for role, path in _LLAMA.layer_parts.items() if role != "gate"},
        "feed_in": "mlp.c_fc",
        "feed_out": "mlp.c_proj",
    },
    norm_type="layer",
    keys=_QWEN2.keys,
    biases={
        **_NO_BIAS,
        **dict.fromkeys((*_QKV, "attention_output", "feed_in", "feed_out"), "use_bias"),
    },
    defaults={"num_key_value_heads": 2, "use_bias": True, "tie_word_embeddings": True},
)

_GPT2 = Network(
    base="transformer",
    layer_path="h.{i}",
    attention="attn",
    layer_parts={
        "qkv": "attn.c_attn",
        "attention_output": "attn.c_proj",
        "attention_norm": "ln_1",
        "feed_in": "mlp.c_fc",
        "feed_out": "mlp.c_proj",
        "output_norm": "ln_2",
    },
    outer_parts={"words": "wte", "positions": "wpe", "final_norm": "ln_f"},
    heads=_LLAMA.heads,
    keys={
        "hidden": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "feed_forward": "n_inner",
        "vocabulary": "vocab_size",
        "positions": "n_positions",
    },
    norm_placement="before",
    causal=True,
    transposed=True,
    biases={"head_words": False, "head_out": False},
    defaults={"n_inner": None, "tie_word_embeddings": True},
)

_GPT_NEOX = Network(
    base="gpt_neox",
    layer_path="layers.{i}",
    attention="attention",
    layer_parts={
        "qkv": "attention.query_key_value",
        "attention_output": "attention.dense",
        "attention_norm": "input_layernorm",
        "feed_in": "mlp.dense_h_to_4h",
        "feed_out": "mlp.dense_4h_to_h",
        "output_norm": "post_attention_layernorm",
    },
    outer_parts={"words": "embed_in", "final_norm": "final_layer_norm"},
    heads=_LLAMA.heads,
    keys=TEXT_KEYS,
    positions="rotary",
    norm_placement="before",
    parallel_key="use_parallel_residual",
    qkv="heads",
    causal=True,
    biases={
        **dict.fromkeys(("qkv", "attention_output"), "attention_bias"),
        "head_words": False,
        "head_out": False,
    },
    defaults={"attention_bias": True, "use_parallel_residual": True, "tie_word_embeddings": False},
)

DECODES = "each token attends only to earlier tokens"
_CANNOT: Mapping[Operation, str] = {
    "lower": DECODES,
    "take apart": "it is a decoder, and only encoders are supported",
}


def _decoder(network: Network) -> Family:
    return Family("texts", network, _CANNOT)


DECODERS: Mapping[str, Family] = {
    "llama": _decoder(_LLAMA),
    "mistral": _decoder(_MISTRAL),
    "qwen2": _decoder(_QWEN2),
    "qwen3": _decoder(_QWEN3),
    "gemma": _decoder(_GEMMA),
    "gemma2": _decoder(_GEMMA2),
    "gemma3_text": _decoder(_GEMMA3),
    "phi3": _decoder(_PHI3),
    "smollm3": _decoder(_SMOLLM3),
    "starcoder2": _decoder(_STARCODER2),
    "gpt2": _decoder(_GPT2),
    "gpt_neox": _decoder(_GPT_NEOX),
}
