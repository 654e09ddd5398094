from __future__ import annotations

import pytest
import transformers
from transformers import PretrainedConfig

from compress.errors import ModelError
from compress.models.families import FAMILIES, config_keys, encoder_of, sizes_of
from tests.tiny import tiny_classifier

BERT_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "bert": transformers.BertConfig(**BERT_SIZES),
    "roberta": transformers.RobertaConfig(**BERT_SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(**BERT_SIZES),
    "camembert": transformers.CamembertConfig(**BERT_SIZES),
    "electra": transformers.ElectraConfig(**BERT_SIZES, embedding_size=16),
    "distilbert": transformers.DistilBertConfig(
        dim=32, n_layers=3, n_heads=4, hidden_dim=48, vocab_size=50, max_position_embeddings=40
    ),
}


def test_every_family_is_tried_here() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_parts_have_their_shapes(kind: str) -> None:
    encoder = encoder_of(tiny_classifier(CONFIGS[kind]))
    assert encoder.hidden_size == 32
    assert len(encoder.layers) == 3
    for layer in encoder.layers:
        assert (layer.heads, layer.head_size, layer.feed_forward) == (4, 8, 48)
        assert layer.feed_out.weight.shape == (32, 48)
        assert layer.attention_norm.normalized_shape == layer.output_norm.normalized_shape == (32,)
    assert encoder.words.num_embeddings == 50
    assert encoder.head_dense.weight.shape == (32, 32)
    assert encoder.head_out.weight.shape == (3, 32)
    assert (encoder.projection is not None) == (kind == "electra")


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_parts_are_all_there_is(kind: str) -> None:
    model = tiny_classifier(CONFIGS[kind])
    encoder = encoder_of(model)
    parts = [
        encoder.words,
        encoder.positions,
        encoder.token_types,
        encoder.embedding_norm,
        encoder.projection,
    ]
    parts += [encoder.head_dense, encoder.head_out]
    for layer in encoder.layers:
        parts += [layer.query, layer.key, layer.value, layer.attention_output, layer.attention_norm]
        parts += [layer.feed_in, layer.feed_out, layer.output_norm]
    known = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    assert known == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_sizes_come_from_any_config(kind: str) -> None:
    model = tiny_classifier(CONFIGS[kind])
    sizes = sizes_of(model)
    assert (sizes.hidden, sizes.layers, sizes.heads, sizes.feed_forward, sizes.vocabulary) == (
        32,
        3,
        4,
        48,
        50,
    )
    for name, value in config_keys(model).items():
        assert getattr(model.config, value) == getattr(sizes, name)


def test_an_unknown_family_is_refused_by_name() -> None:
    model = transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**BERT_SIZES))
    with pytest.raises(ModelError, match="'mpnet'") as error:
        encoder_of(model)
    assert "distilbert" in str(error.value)


def test_an_encoder_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="not a text classifier"):
        encoder_of(transformers.BertModel(CONFIGS["bert"]))
