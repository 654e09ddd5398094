"""The text encoder families whose layer structure is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compress.models.anatomy.table.family import TEXT_KEYS, Config, Family, Network, Operation

_EMBEDDINGS = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
_TYPED_EMBEDDINGS = {**_EMBEDDINGS, "token_types": "embeddings.token_type_embeddings"}
_AFTER_ATTENTION = {
    "feed_in": "intermediate.dense",
    "feed_out": "output.dense",
    "output_norm": "output.LayerNorm",
}
_POOLER = {"head_dense": "pooler.dense"}
_DENSE_AND_OUT = {"head_dense": "classifier.dense", "head_out": "classifier.out_proj"}

_BERT = Network(
    base="bert",
    layer_path="encoder.layer.{i}",
    attention="attention.self",
    layer_parts={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        **_AFTER_ATTENTION,
    },
    outer_parts=_TYPED_EMBEDDINGS,
    heads={"none": _POOLER, "labels": {"head_dense": "bert.pooler.dense", "head_out": "classifier"}},
    keys={**TEXT_KEYS, "types": "type_vocab_size"},
)

_ROBERTA = replace(_BERT, base="roberta", heads={"none": _POOLER, "labels": _DENSE_AND_OUT})

_DATA2VEC = replace(_ROBERTA, base="data2vec_text")

_ELECTRA = replace(
    _BERT,
    base="electra",
    outer_parts={**_TYPED_EMBEDDINGS, "projection": "embeddings_project"},
    heads={"none": {}, "labels": _DENSE_AND_OUT},
    keys={**_BERT.keys, "embedding": "embedding_size"},
    present_if={"projection": lambda config: bool(config["embedding_size"] != config["hidden_size"])},
    defaults={"embedding_size": 128},
)

_DISTILBERT = Network(
    base="distilbert",
    layer_path="transformer.layer.{i}",
    attention="attention",
    layer_parts={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "feed_in": "ffn.lin1",
        "feed_out": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    outer_parts=_EMBEDDINGS,
    heads={"none": {}, "labels": {"head_dense": "pre_classifier", "head_out": "classifier"}},
    keys={
        **TEXT_KEYS,
        "hidden": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "feed_forward": "hidden_dim",
    },
)

_MPNET = Network(
    base="mpnet",
    layer_path="encoder.layer.{i}",
    attention="attention.attn",
    layer_parts={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
        **_AFTER_ATTENTION,
    },
    outer_parts={**_EMBEDDINGS, "position_bias": "encoder.relative_attention_bias"},
    heads={"none": _POOLER, "labels": _DENSE_AND_OUT},
    keys={**TEXT_KEYS, "buckets": "relative_attention_num_buckets"},
    defaults={"relative_attention_num_buckets": 32},
    positions="relative",
)

_ALBERT = Network(
    base="albert",
    # Every published model has one layer per group, although `inner_group_num` allows more.
    layer_path="encoder.albert_layer_groups.{i}.albert_layers.0",
    attention="attention",
    layer_parts={
        "query": "attention.query",
        "key": "attention.key",
        "value": "attention.value",
        "attention_output": "attention.dense",
        "attention_norm": "attention.LayerNorm",
        "feed_in": "ffn",
        "feed_out": "ffn_output",
        "output_norm": "full_layer_layer_norm",
    },
    outer_parts={**_TYPED_EMBEDDINGS, "projection": "encoder.embedding_hidden_mapping_in"},
    heads={
        "none": {"head_dense": "pooler"},
        "labels": {"head_dense": "albert.pooler", "head_out": "classifier"},
    },
    keys={**TEXT_KEYS, "types": "type_vocab_size", "embedding": "embedding_size"},
    defaults={"embedding_size": 128, "num_hidden_groups": 1},
    shared_layers_key="num_hidden_groups",
)


def _distances(config: Config) -> int:
    """Rows of DeBERTa's relative position table: the distances it distinguishes, in both directions."""
    max_distance = config["max_relative_positions"]
    side = max_distance if max_distance > 0 else config["max_position_embeddings"]
    return 2 * int(config["position_buckets"] if config["position_buckets"] > 0 else side)


def _has_position_projection(attention_kind: str, config: Config) -> bool:
    """Whether DeBERTa's positions have their own projection of this kind (`c2p` or `p2c`)."""
    separate = config["relative_attention"] and not config["share_att_key"]
    return bool(separate and attention_kind in (config["pos_att_type"] or ()))


_DEBERTA_V2 = replace(
    _BERT,
    base="deberta",
    layer_parts={
        **_BERT.layer_parts,
        "query": "attention.self.query_proj",
        "key": "attention.self.key_proj",
        "value": "attention.self.value_proj",
        "position_query": "attention.self.pos_query_proj",
        "position_key": "attention.self.pos_key_proj",
    },
    outer_parts={
        **{role: path for role, path in _TYPED_EMBEDDINGS.items() if role != "embedding_norm"},
        "projection": "embeddings.embed_proj",
        "projected_norm": "embeddings.LayerNorm",
        "relative_positions": "encoder.rel_embeddings",
        "relative_norm": "encoder.LayerNorm",
        "convolution": "encoder.conv.conv",
        "convolution_norm": "encoder.conv.LayerNorm",
    },
    heads={"none": {}, "labels": {"head_dense": "pooler.dense", "head_out": "classifier"}},
    keys={**_BERT.keys, "embedding": "embedding_size", "kernel": "conv_kernel_size"},
    positions="relative",
    biases={"projection": False},
    defaults={
        "type_vocab_size": 0,
        "embedding_size": None,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_buckets": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "conv_kernel_size": 0,
    },
    present_if={
        "positions": lambda config: bool(config["position_biased_input"]),
        "token_types": lambda config: config["type_vocab_size"] > 0,
        "projection": lambda config: config["embedding_size"] not in (None, config["hidden_size"]),
        "relative_positions": lambda config: bool(config["relative_attention"]),
        "relative_norm": lambda config: (
            config["relative_attention"] and "layer_norm" in config["norm_rel_ebd"].lower()
        ),
        "convolution": lambda config: config["conv_kernel_size"] > 0,
        "convolution_norm": lambda config: config["conv_kernel_size"] > 0,
        "position_key": lambda config: _has_position_projection("c2p", config),
        "position_query": lambda config: _has_position_projection("p2c", config),
    },
    computed_sizes={"distances": _distances},
)

_MODERNBERT = Network(
    base="model",
    layer_path="layers.{i}",
    attention="attn",
    layer_parts={
        "qkv": "attn.Wqkv",
        "attention_output": "attn.Wo",
        "attention_norm": "attn_norm",
        "gate_feed_in": "mlp.Wi",
        "feed_out": "mlp.Wo",
        "output_norm": "mlp_norm",
    },
    outer_parts={
        "words": "embeddings.tok_embeddings",
        "embedding_norm": "embeddings.norm",
        "final_norm": "final_norm",
    },
    heads={
        "none": {},
        "labels": {"head_dense": "head.dense", "head_norm": "head.norm", "head_out": "classifier"},
    },
    keys=TEXT_KEYS,
    positions="rotary",
    norm_placement="before",
    not_in_first=("attention_norm",),
    biases={
        **dict.fromkeys(("qkv", "attention_output"), "attention_bias"),
        **dict.fromkeys(("gate_feed_in", "feed_out"), "mlp_bias"),
        **dict.fromkeys(
            ("embedding_norm", "attention_norm", "output_norm", "final_norm", "head_norm"), "norm_bias"
        ),
        "head_dense": "classifier_bias",
    },
    defaults={"attention_bias": False, "mlp_bias": False, "norm_bias": False, "classifier_bias": False},
)

_RELATIVE = "its attention uses relative positions with"
DEBERTA_CANNOT: Mapping[Operation, str] = {
    "lower": f"{_RELATIVE} a special mask",
    "take apart": f"{_RELATIVE} separate weights",
    "compare": f"{_RELATIVE} separate weights",
}

ENCODERS: Mapping[str, Family] = {
    "bert": Family("texts", _BERT),
    "data2vec-text": Family("texts", _DATA2VEC, positions_after_padding=True),
    "camembert": Family("texts", _ROBERTA, positions_after_padding=True),
    "distilbert": Family("texts", _DISTILBERT),
    "electra": Family("texts", _ELECTRA),
    "roberta": Family("texts", _ROBERTA, positions_after_padding=True),
    "xlm-roberta": Family("texts", _ROBERTA, positions_after_padding=True),
    "mpnet": Family(
        "texts",
        _MPNET,
        {
            "take apart": "its layers share one table of relative positions, with one column per head",
            "compare": "its layers share one table of relative positions, with one column per head",
        },
        positions_after_padding=True,
    ),
    "albert": Family(
        "texts",
        _ALBERT,
        {
            "lower": "all its layers share one set of weights",
            "take apart": "all its layers share one set of weights, so none can be removed or changed separately",
            "compare": "all its layers share one set of weights",
        },
    ),
    "deberta-v2": Family("texts", _DEBERTA_V2, DEBERTA_CANNOT),
    "modernbert": Family(
        "texts",
        _MODERNBERT,
        {
            "lower": "in most of its layers tokens attend only to their neighbours",
            "take apart": "query, key and value are one map, and its feed-forward part has a gate",
        },
    ),
}
"""DeBERTa-v3 checkpoints have the `model_type` `deberta-v2`."""
