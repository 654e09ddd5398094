"""The table of families against transformers' own classes: every parameter by name and shape, and what runs where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import Block, base_of, blocks_of, layers_of
from compress.models.anatomy.table.families import FAMILIES
from compress.models.anatomy.table.family import ROLES, Head, Network
from compress.models.anatomy.table.sizes import (
    count_parameters,
    dimensions,
    network_of,
    parameters_of,
    parts_of,
    sizes_of_config,
    tied_parameters,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TEXTS = {**SIZES, "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 0}
DECODES = {**TEXTS, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**DECODES, "num_key_value_heads": 2}
IMAGES = {**SIZES, "image_size": [8, 12], "patch_size": 2, "num_channels": 1}
GEMMA = {**GROUPED, "head_dim": 12, "query_pre_attn_scalar": 9, "attn_logit_softcapping": None}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}

CONFIGS: Mapping[str, PretrainedConfig] = {
    "bert": transformers.BertConfig(**TEXTS),
    "roberta": transformers.RobertaConfig(**TEXTS),
    "xlm-roberta": transformers.XLMRobertaConfig(**TEXTS),
    "data2vec-text": transformers.Data2VecTextConfig(**TEXTS),
    "camembert": transformers.CamembertConfig(**TEXTS),
    "distilbert": transformers.DistilBertConfig(
        dim=32, n_layers=3, n_heads=4, hidden_dim=48, vocab_size=50, max_position_embeddings=40
    ),
    "electra": transformers.ElectraConfig(**TEXTS, embedding_size=16),
    "electra, as wide": transformers.ElectraConfig(**TEXTS, embedding_size=32),
    "mpnet": transformers.MPNetConfig(**TEXTS, relative_attention_num_buckets=36),
    "albert": transformers.AlbertConfig(**TEXTS, embedding_size=16),
    "albert, as wide": transformers.AlbertConfig(**TEXTS, embedding_size=32),
    "albert, in groups": transformers.AlbertConfig(**TEXTS, embedding_size=16, num_hidden_groups=3),
    "deberta-v2": transformers.DebertaV2Config(**TEXTS),
    "deberta-v2, as v3": transformers.DebertaV2Config(**TEXTS, **DEBERTA),
    "deberta-v2, as xlarge": transformers.DebertaV2Config(
        **{**TEXTS, **DEBERTA, "conv_kernel_size": 3, "share_att_key": False, "type_vocab_size": 2}
    ),
    "deberta-v2, of distances": transformers.DebertaV2Config(
        **{**TEXTS, **DEBERTA, "position_buckets": -1, "norm_rel_ebd": "none", "pos_att_type": ["c2p"]},
        embedding_size=16,
        max_relative_positions=10,
    ),
    "modernbert": transformers.ModernBertConfig(**DECODES),
    "modernbert, with biases": transformers.ModernBertConfig(
        **DECODES, attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True
    ),
    "vit": transformers.ViTConfig(**IMAGES),
    "vit, without biases": transformers.ViTConfig(**IMAGES, qkv_bias=False),
    "deit": transformers.DeiTConfig(**IMAGES),
    "llama": transformers.LlamaConfig(**GROUPED),
    "llama, with biases": transformers.LlamaConfig(
        **DECODES, head_dim=10, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": transformers.MistralConfig(**GROUPED, head_dim=12),
    "qwen2": transformers.Qwen2Config(**GROUPED),
    "qwen2, tied": transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=12),
    "gemma": transformers.GemmaConfig(**GROUPED, head_dim=12),
    "gemma2": transformers.Gemma2Config(**GEMMA),
    "gemma3_text": transformers.Gemma3TextConfig(**GEMMA),
    "phi3": transformers.Phi3Config(**GROUPED),
    "smollm3": transformers.SmolLM3Config(**GROUPED),
    "starcoder2": transformers.Starcoder2Config(**GROUPED),
    "starcoder2, without biases": transformers.Starcoder2Config(**GROUPED, use_bias=False),
    "gpt2": transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, n_inner=48, vocab_size=50, n_positions=40
    ),
    "gpt2, four times as wide": transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, vocab_size=50, n_positions=40
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**DECODES),
    "gpt_neox, one after the other": transformers.GPTNeoXConfig(
        **DECODES, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True
    ),
}
"""A kind of model, and what is particular about it."""

CASES = [(name, head) for name, config in CONFIGS.items() for head in network_of(config.model_type).heads]


def tiny(name: str, head: Head) -> PreTrainedModel:
    """A model with random weights everywhere, in eval mode, whose attention can be asked what it looked at."""
    config = CONFIGS[name]
    # Of the families with two heads the one without a distillation token.
    config.architectures = []
    images = FAMILIES[config.model_type].modality == "images"
    made: Any = {
        "none": transformers.AutoModel,
        "labels": transformers.AutoModelForImageClassification
        if images
        else transformers.AutoModelForSequenceClassification,
        "words": transformers.AutoModelForCausalLM,
    }.get(head)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = (
            transformers.DeiTForImageClassificationWithTeacher._from_config(config)
            if head == "distilled"
            else made.from_config(config, attn_implementation="eager")
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, mean=0.05, std=0.2)
    return model.eval()


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def test_every_family_whose_parts_are_known_is_tried_here() -> None:
    known = {kind for kind, family in FAMILIES.items() if family.network is not None}
    assert {config.model_type for config in CONFIGS.values()} == known


def test_every_role_is_one_of_some_family() -> None:
    networks = [family.network for family in FAMILIES.values() if family.network is not None]
    heads = {role for network in networks for head in network.heads.values() for role in head}
    assert heads.union(
        *(network.layer_parts.keys() | network.outer_parts.keys() for network in networks)
    ) == set(ROLES)


@pytest.mark.parametrize(("name", "head"), CASES)
def test_the_config_tells_every_parameter(name: str, head: Head) -> None:
    config = CONFIGS[name].to_dict()
    model = tiny(name, head)
    real = parameters(model)
    assert parameters_of(config, head) == {key: tuple(each.shape) for key, each in real.items()}
    tied = tied_parameters(config, head)
    assert all(real[key] is real[other] for key, other in tied.items())
    assert len(real) - len(tied) == len({id(each) for each in real.values()})
    assert count_parameters(config, head) == sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize(("name", "head"), CASES)
def test_no_part_stands_in_another(name: str, head: Head) -> None:
    paths = [
        path for _, path in parts_of(network_of(CONFIGS[name].model_type), CONFIGS[name].to_dict(), head)
    ]
    assert len(paths) == len(set(paths))
    assert not [(one, two) for one in paths for two in paths if two.startswith(f"{one}.")]


@pytest.mark.parametrize("kind", sorted({config.model_type for config in CONFIGS.values()}))
def test_what_an_old_config_leaves_out_is_what_its_class_takes(kind: str) -> None:
    network = network_of(kind)
    full = transformers.CONFIG_MAPPING[kind]().to_dict()
    old = {key: value for key, value in full.items() if key not in network.defaults}
    for head in network.heads:
        assert parameters_of(old, head) == parameters_of(full, head)
        assert tied_parameters(old, head) == tied_parameters(full, head)


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes(name: str) -> None:
    sizes = sizes_of_config(CONFIGS[name].to_dict())
    assert (sizes.hidden, sizes.layers, sizes.heads) == (32, 3, 4)
    assert sizes.feed_forward == (128 if "four times" in name else 48)
    assert sizes.vocabulary == (None if name.startswith(("vit", "deit")) else 50)
    model = tiny(name, "none")
    blocks = blocks_of(model, network_of(CONFIGS[name].model_type))
    assert len(blocks) == sizes.stored == (1 if name in ("albert", "albert, as wide") else 3)
    for block in blocks:
        assert block.head_size in (sizes.head_size, None)
        if block.projections is not None:
            assert [len(each.weight) // sizes.head_size for each in block.projections] == [
                sizes.heads,
                sizes.groups,
                sizes.groups,
            ]


class Seen:
    """What modules read and gave in one forward pass, when they ran first."""

    def __init__(self, modules: Iterator[nn.Module]) -> None:
        self.read: dict[nn.Module, Tensor] = {}
        self.gave: dict[nn.Module, Tensor] = {}
        for module in modules:
            module.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self.read.setdefault(module, args[0] if args else next(iter(kwargs.values())))
        self.gave.setdefault(module, result[0] if isinstance(result, tuple) else result)


def batch_for(model: PreTrainedModel, network: Network) -> dict[str, Any]:
    """One image, or two texts; of decoders and ModernBERT every token stands at position 0, which turns nothing."""
    draw = torch.Generator().manual_seed(1)
    if "patches" in network.outer_parts:
        return {"pixel_values": torch.randn((2, 1, 8, 12), generator=draw)}
    batch = {"input_ids": torch.randint(3, 50, (2, 7), generator=draw)}
    if network.positions == "rotary":
        batch["position_ids"] = torch.zeros((2, 7), dtype=torch.int64)
    return batch


def run(name: str) -> tuple[PreTrainedModel, Network, tuple[Block, ...], Seen, Any]:
    """A bare model that has seen a batch; tables of relative positions are 0, so that they add nothing to scores."""
    model, network = tiny(name, "none"), network_of(CONFIGS[name].model_type)
    outside = dict(parts_of(network, model.config.to_dict(), "none"))
    with torch.no_grad():
        for role in ("position_bias", "relative_positions", "relative_norm"):
            if role in outside:
                for parameter in model.get_submodule(outside[role]).parameters():
                    parameter.zero_()
        blocks = blocks_of(base_of(model, network), network)
        for part in (block.parts for block in blocks if network.positions == "relative"):
            # DeBERTa's maps of positions may be those of queries and keys.
            for role in part.keys() & {"query", "key", "position_query", "position_key"}:
                part[role].bias.zero_()
        watched = (
            module for block in blocks for module in (block.module, block.attention, *block.parts.values())
        )
        seen = Seen(watched)
        return model, network, blocks, seen, model(**batch_for(model, network), output_attentions=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_stand_on_the_stream_where_they_are_said(name: str) -> None:
    model, network, blocks, seen, _ = run(name)
    parallel = network.parallel_key is not None and getattr(model.config, network.parallel_key)
    for number, block in enumerate(blocks):
        part = block.parts
        stream, result = seen.read[block.module], seen.gave[block.module]
        first = part["qkv"] if network.fused else part["query"]
        attention, feed = seen.gave[part["attention_output"]], seen.gave[part["feed_out"]]
        feeds = part["gate_feed_in"] if "gate_feed_in" in part else part["feed_in"]
        if network.norm_placement == "after":
            assert_same(seen.read[first], stream)
            assert_same(seen.read[part["attention_norm"]], stream + attention)
            middle = seen.gave[part["attention_norm"]]
            assert_same(seen.read[feeds], middle)
            assert_same(seen.read[part["output_norm"]], middle + feed)
            if "xlarge" not in name or number:
                assert_same(result, seen.gave[part["output_norm"]])
            continue
        if "attention_norm" in part:
            assert_same(seen.read[part["attention_norm"]], stream)
            assert_same(seen.read[first], seen.gave[part["attention_norm"]])
        else:
            assert number == 0
            assert network.not_in_first == ("attention_norm",)
            assert_same(seen.read[first], stream)
        if network.norm_placement == "around":
            assert_same(seen.read[part["attention_result_norm"]], attention)
            assert_same(seen.read[part["output_result_norm"]], feed)
            attention, feed = seen.gave[part["attention_result_norm"]], seen.gave[part["output_result_norm"]]
        middle = stream + attention
        assert_same(seen.read[part["output_norm"]], stream if parallel else middle)
        assert_same(seen.read[feeds], seen.gave[part["output_norm"]])
        assert_same(result, middle + feed)


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_are_of_the_kind_that_is_said(name: str) -> None:
    _, network, blocks, seen, _ = run(name)
    for block in blocks:
        norms = {role: part for role, part in block.parts.items() if ROLES[role].kind == "norm"}
        assert norms.keys() & {"attention_norm", "output_norm"}
        for norm in norms.values():
            rows = seen.read[norm].double()
            if network.norm_type == "layer":
                rows = rows - rows.mean(dim=-1, keepdim=True)
            eps = next(getattr(norm, key) for key in ("eps", "variance_epsilon") if hasattr(norm, key))
            rows = rows * (rows.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
            bias = getattr(norm, "bias", None)
            expected = rows * (norm.weight + network.norm_offset) + (0.0 if bias is None else bias)
            assert_same(seen.gave[norm], expected.float())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_gate_is_multiplied_with_what_goes_in(name: str) -> None:
    model, network, blocks, seen, _ = run(name)
    act = transformers.activations.ACT2FN[
        next(
            value
            for key in ("hidden_act", "hidden_activation", "activation", "activation_function")
            if isinstance(value := getattr(model.config, key, None), str)
        )
    ]
    for block in blocks:
        part = block.parts
        if "gate_feed_in" in part:
            gate, inner = seen.gave[part["gate_feed_in"]].chunk(2, dim=-1)
            inner = act(gate) * inner
        elif network.gated:
            inner = act(seen.gave[part["gate"]]) * seen.gave[part["feed_in"]]
        else:
            inner = act(seen.gave[part["feed_in"]])
        assert_same(seen.read[part["feed_out"]], inner)


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_is_that_of_the_mapped_heads(name: str) -> None:
    model, network, blocks, seen, outputs = run(name)
    sizes = sizes_of_config(model.config.to_dict())
    size, groups = sizes.head_size, sizes.groups
    if len(blocks) < sizes.layers:
        # The first pass through the shared layer is what was seen.
        outputs.attentions = outputs.attentions[:1]
    for block, looked in zip(blocks, outputs.attentions, strict=True):
        part = block.parts
        if network.fused:
            joined = seen.gave[part["qkv"]].unflatten(-1, (-1, size))
            if network.qkv == "heads":
                query, key, value = joined.unflatten(-2, (-1, 3)).unbind(-2)
            else:
                query, key, value = joined.split((sizes.heads, groups, groups), dim=-2)
        else:
            query, key, value = (
                seen.gave[part[role]].unflatten(-1, (-1, size)) for role in ("query", "key", "value")
            )
        if "query_norm" in part:
            assert_same(seen.read[part["query_norm"]].flatten(), _like(seen.read[part["query_norm"]], query))
            query, key = part["query_norm"](query), part["key_norm"](key)
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        assert query.shape[1] == sizes.heads
        assert key.shape[1] == value.shape[1] == groups
        key, value = (each.repeat_interleave(sizes.heads // groups, dim=1) for each in (key, value))
        mixed = (looked @ value).transpose(1, 2).flatten(2)
        assert_same(seen.read[part["attention_output"]], mixed)
        # DeBERTa divides by more where positions are compared too.
        terms = 1 + len(getattr(model.config, "pos_att_type", None) or ())
        scale = getattr(model.config, "query_pre_attn_scalar", size) * terms
        scores = query @ key.transpose(2, 3) / scale**0.5
        if network.causal:
            ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(ahead, -torch.inf)
        assert_same(scores.softmax(dim=-1), looked)


def _like(told: Tensor, heads: Tensor) -> Tensor:
    """Heads in the order of axes in which a norm read them, flat."""
    return (heads if told.shape == heads.shape else heads.transpose(1, 2)).flatten()


class Inside(nn.Module):
    """A model of transformers in a module of somebody's own."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("albert")])
def test_layers_are_found_without_their_family_too(name: str) -> None:
    model, network = tiny(name, "none"), network_of(CONFIGS[name].model_type)
    known, found = blocks_of(model, network), layers_of(Inside(model))
    assert [block.module for block in found] == [block.module for block in known]
    assert [block.attention for block in found] == [block.attention for block in known]
    assert [block.projections for block in found] == [block.projections for block in known]
    compared = "compare" not in FAMILIES[CONFIGS[name].model_type].cannot
    assert [block.module for block in layers_of(model)] == [block.module for block in known if compared]


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_family_whose_parts_are_not_known() -> None:
    with pytest.raises(ModelError, match="'fnet'"):
        sizes_of_config({"model_type": "fnet"})


def test_a_config_without_sizes() -> None:
    with pytest.raises(ModelError, match="`num_hidden_layers`, `num_attention_heads`"):
        sizes_of_config({"model_type": "bert", "hidden_size": 3, "num_attention_heads": "many"})


def test_a_head_that_a_family_has_not() -> None:
    with pytest.raises(ModelError, match="no head"):
        parameters_of(CONFIGS["bert"].to_dict(), "words")


def test_images_of_one_side() -> None:
    network = network_of("vit")
    square = {**CONFIGS["vit"].to_dict(), "image_size": 8, "patch_size": [4, 2]}
    assert dimensions(network, square)["places"] == 2 * 4 + 1
