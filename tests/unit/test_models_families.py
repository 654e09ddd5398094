from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import encoder_of, word_embeddings_of
from compress.models.anatomy.sizes import config_keys, sizes_of
from compress.models.anatomy.table.families import families_supporting
from tests.tiny import tiny_classifier

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
BERT_SIZES = {**SIZES, "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 0}
CONFIGS: dict[str, PretrainedConfig] = {
    "bert": transformers.BertConfig(**BERT_SIZES),
    "roberta": transformers.RobertaConfig(**BERT_SIZES),
    "xlm-roberta": transformers.XLMRobertaConfig(**BERT_SIZES),
    "camembert": transformers.CamembertConfig(**BERT_SIZES),
    "data2vec-text": transformers.Data2VecTextConfig(**BERT_SIZES),
    "electra": transformers.ElectraConfig(**BERT_SIZES, embedding_size=16),
    "distilbert": transformers.DistilBertConfig(
        dim=32, n_layers=3, n_heads=4, hidden_dim=48, vocab_size=50, max_position_embeddings=40
    ),
}
IMAGE_SIZES = {**SIZES, "image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 3}
VISION = {
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig),
    "deit": (transformers.DeiTForImageClassification, transformers.DeiTConfig),
    "deit with a distillation token": (
        transformers.DeiTForImageClassificationWithTeacher,
        transformers.DeiTConfig,
    ),
}


def tiny_vision(kind: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A vision transformer for 8 x 8 images of one channel, with random weights everywhere, in eval mode."""
    model_class, config_class = VISION[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config_class(**{**IMAGE_SIZES, **changes}))
        for parameter in model.parameters():
            nn.init.normal_(parameter, mean=0.05, std=0.15)
    return model.eval()


class Sentences(nn.Module):
    """What a sentence encoder is, as far as taking it apart goes: a bare encoder inside."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder


def bare(kind: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = transformers.AutoModel.from_config(CONFIGS[kind])
    return model.eval()


def parts_of(model: nn.Module) -> set[int]:
    """The ids of the parameters of all parts."""
    encoder = encoder_of(model)
    parts: list[nn.Module | None] = [
        encoder.words,
        encoder.positions,
        encoder.token_types,
        encoder.embedding_norm,
        encoder.projection,
        encoder.patches,
        encoder.final_norm,
        encoder.head_dense,
        encoder.head_out,
        encoder.head_teacher,
    ]
    for layer in encoder.layers:
        parts += [layer.query, layer.key, layer.value, layer.attention_output, layer.attention_norm]
        parts += [layer.feed_in, layer.feed_out, layer.output_norm]
    return {id(parameter) for part in parts if part is not None for parameter in part.parameters()}


def test_every_family_is_tried_here() -> None:
    assert set(CONFIGS) | {kind for kind in VISION if " " not in kind} == set(
        families_supporting("take apart")
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_parts_have_their_shapes(kind: str) -> None:
    encoder = encoder_of(tiny_classifier(CONFIGS[kind]))
    assert encoder.hidden_size == 32
    assert len(encoder.layers) == 3
    assert not encoder.norm_first
    assert encoder.extra_tokens == 0
    for layer in encoder.layers:
        assert (layer.heads, layer.head_size, layer.feed_forward) == (4, 8, 48)
        assert layer.feed_out.weight.shape == (32, 48)
        assert layer.attention_norm.normalized_shape == layer.output_norm.normalized_shape == (32,)
    assert encoder.words is not None
    assert encoder.words.num_embeddings == 50
    assert encoder.head_dense is not None
    assert encoder.head_dense.weight.shape == (32, 32)
    assert encoder.head_out is not None
    assert encoder.head_out.weight.shape == (3, 32)
    assert (encoder.projection is not None) == (kind == "electra")


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_parts_are_all_there_is(kind: str) -> None:
    model = tiny_classifier(CONFIGS[kind])
    assert parts_of(model) == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_parts_of_a_sentence_encoder_are_all_there_is(kind: str) -> None:
    model = Sentences(bare(kind))
    encoder = encoder_of(model)
    assert parts_of(model) == {id(parameter) for parameter in model.parameters()}
    assert encoder.model is model
    assert encoder.head_out is None
    assert encoder.words is word_embeddings_of(model)
    assert transformer_of(model) is model.encoder


@pytest.mark.parametrize("kind", VISION)
def test_the_parts_of_a_vision_transformer_are_all_but_its_tokens_and_positions(kind: str) -> None:
    model = tiny_vision(kind)
    encoder = encoder_of(model)
    named = dict(model.named_parameters())
    rest = {
        name.rpartition(".")[2] for name, parameter in named.items() if id(parameter) not in parts_of(model)
    }
    tokens = {"cls_token", "position_embeddings"} | ({"distillation_token"} if "deit" in kind else set())
    assert rest == tokens
    assert encoder.extra_tokens == len(tokens) - 1
    assert encoder.norm_first
    assert encoder.patches is not None
    assert encoder.patches.weight.shape == (32, 1, 2, 2)
    assert encoder.words is None
    assert encoder.head_dense is None
    assert (encoder.head_teacher is not None) == ("token" in kind)
    for layer in encoder.layers:
        assert (layer.heads, layer.head_size, layer.feed_forward) == (4, 8, 48)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_first_layer_reads_what_the_embedding_gives(kind: str) -> None:
    model = tiny_classifier(CONFIGS[kind])
    encoder = encoder_of(model)
    found: dict[str, torch.Tensor] = {}
    encoder.embedding.register_forward_hook(lambda _module, _args, out: found.update(embedding=out))
    encoder.layers[0].block.register_forward_pre_hook(
        lambda _module, args, kwargs: found.update(read=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([[2, 5, 6, 3]]))
    assert torch.equal(found["embedding"], found["read"])


@pytest.mark.parametrize("kind", [*CONFIGS, *VISION])
def test_sizes_come_from_any_config(kind: str) -> None:
    model = tiny_classifier(CONFIGS[kind]) if kind in CONFIGS else tiny_vision(kind)
    sizes = sizes_of(model)
    assert (sizes.hidden, sizes.layers, sizes.heads, sizes.feed_forward) == (32, 3, 4, 48)
    assert sizes.vocabulary == (50 if kind in CONFIGS else None)
    for name in ("hidden", "layers", "heads", "feed_forward", *(["vocabulary"] if kind in CONFIGS else [])):
        assert getattr(model.config, config_keys(model)[name]) == getattr(sizes, name)


def test_an_unknown_family_is_refused_by_name() -> None:
    model = transformers.FNetForSequenceClassification(transformers.FNetConfig(**SIZES, vocab_size=50))
    with pytest.raises(ModelError, match="'fnet'") as error:
        encoder_of(model)
    assert "distilbert" in str(error.value)


def test_a_family_that_cannot_be_taken_apart_is_refused_with_the_reason() -> None:
    model = transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(**BERT_SIZES, embedding_size=16)
    )
    with pytest.raises(ModelError, match="share one set of weights"):
        encoder_of(model)


def test_an_encoder_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="not a classifier"):
        encoder_of(transformers.BertModel(CONFIGS["bert"]))


def test_a_module_that_is_no_transformer_is_refused() -> None:
    with pytest.raises(ModelError, match="Sequential is not a transformer"):
        encoder_of(nn.Sequential(nn.Linear(2, 2)))


def test_an_image_model_has_no_words() -> None:
    with pytest.raises(ModelError, match="takes images"):
        word_embeddings_of(tiny_vision("vit"))
