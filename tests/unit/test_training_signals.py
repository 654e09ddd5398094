from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedModel,
    ResNetConfig,
    RobertaConfig,
    SwinConfig,
    ViTConfig,
    XLMRobertaConfig,
)

from compress.core.errors import PassError
from compress.models.text.sentence import SentenceEncoder
from compress.training.signals.capture import Anatomy, Feature, Recorder, anatomy_of, capture
from tests.tiny import tiny_bert

_TEXT = {
    "vocab_size": 30,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
_IMAGE = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
CONFIGS = {
    "bert": BertConfig(**_TEXT),
    "roberta": RobertaConfig(**_TEXT),
    "xlm-roberta": XLMRobertaConfig(**_TEXT),
    "camembert": CamembertConfig(**_TEXT),
    "electra": ElectraConfig(**_TEXT, embedding_size=16),
    "distilbert": DistilBertConfig(vocab_size=30, dim=24, n_layers=3, n_heads=3, hidden_dim=40),
    "vit": ViTConfig(**_IMAGE),
    "deit": DeiTConfig(**_IMAGE),
}


def model_and_batch(kind: str, attention: str = "sdpa") -> tuple[PreTrainedModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    config = CONFIGS[kind]
    if kind == "deit":
        model = DeiTForImageClassificationWithTeacher._from_config(config, attn_implementation=attention)
    elif kind == "vit":
        model = AutoModelForImageClassification.from_config(config, attn_implementation=attention)
    else:
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    if kind in ("vit", "deit"):
        return model.eval(), {"pixel_values": torch.randn(2, 1, 8, 8)}
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    ids = torch.randint(5, 30, (3, 7)) * mask + (1 - mask)
    return model.eval(), {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", CONFIGS)
def test_signals_are_those_of_an_eager_model(kind: str) -> None:
    model, batch = model_and_batch(kind)
    eager, _ = model_and_batch(kind, "eager")
    expected = eager(**batch, output_hidden_states=True, output_attentions=True)
    layers = [f"{part}.{layer}" for part in ("hidden", "query", "key") for layer in range(3)]
    signals = capture(model, batch, {"outputs", "embedding", *layers})
    torch.testing.assert_close(signals["outputs"], expected.logits)
    torch.testing.assert_close(signals["embedding"], expected.hidden_states[0])
    real = batch.get("attention_mask", torch.ones(signals["embedding"].shape[:2])).bool()
    for layer in range(3):
        mine, theirs = signals[f"hidden.{layer}"], expected.hidden_states[layer + 1]
        torch.testing.assert_close(mine[real], theirs[real], rtol=1e-4, atol=1e-5)
        query, key = (
            signals[f"{part}.{layer}"].unflatten(-1, (3, 8)).transpose(1, 2) for part in ("query", "key")
        )
        scores = (query @ key.transpose(2, 3) / 8**0.5).masked_fill(~real[:, None, None, :], -1e9)
        rows = real[:, None, :].expand(scores.shape[:3])
        torch.testing.assert_close(
            scores.softmax(-1)[rows], expected.attentions[layer][rows], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_anatomy_of_every_family(kind: str) -> None:
    model, batch = model_and_batch(kind)
    extra = {"vit": 1, "deit": 2}.get(kind, 0)
    assert anatomy_of(model, batch) == Anatomy(
        num_outputs=2,
        num_layers=3,
        hidden_size=24,
        head_counts=(3, 3, 3),
        head_size=8,
        embedding_size=24,
        extra_tokens=extra,
        num_patches=16 if extra else None,
    )


def test_values_of_a_layer_are_captured() -> None:
    model, batch = model_and_batch("bert")
    signals = capture(model, batch, {"value.1", "hidden.0"})
    expected = model.bert.encoder.layer[1].attention.self.value(signals["hidden.0"])
    torch.testing.assert_close(signals["value.1"], expected)


def test_a_deit_has_two_heads_and_every_other_model_one() -> None:
    names = {"outputs", "outputs.labels", "outputs.teacher"}
    model, batch = model_and_batch("deit")
    signals, result = capture(model, batch, names), model(**batch)
    torch.testing.assert_close(signals["outputs.labels"], result.cls_logits)
    torch.testing.assert_close(signals["outputs.teacher"], result.distillation_logits)
    torch.testing.assert_close(signals["outputs"], result.logits)
    model, batch = model_and_batch("vit")
    signals = capture(model, batch, names)
    assert signals["outputs.labels"] is signals["outputs.teacher"] is signals["outputs"]


def test_a_sentence_encoder_gives_its_embeddings_and_layers() -> None:
    encoder = SentenceEncoder(tiny_bert().bert, "mean", True).eval()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    found = anatomy_of(encoder, batch)
    assert (found.num_outputs, found.num_layers, found.hidden_size) == (32, 2, 32)
    signals = capture(encoder, batch, {"outputs", "hidden.1"})
    expected = nn.functional.normalize(signals["hidden.1"].mean(1), dim=-1)
    torch.testing.assert_close(signals["outputs"], expected)


class Convolutions(nn.Module):
    """Two resolutions, a pooling module that runs twice, and a 1 x 1 map before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.third = nn.Conv2d(6, 8, 1)
        self.shrink = nn.MaxPool2d(2)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.third(self.second(self.shrink(self.first(pixel_values))))
        return self.head(self.mean(self.shrink(features)).flatten(1))


def test_the_features_of_convolutions_are_the_last_map_at_each_resolution() -> None:
    model, batch = Convolutions().eval(), {"pixel_values": torch.randn(2, 1, 8, 8)}
    found = anatomy_of(model, batch)
    assert found == Anatomy(num_outputs=3, features=(Feature("first", 4, 8, 8), Feature("third", 8, 4, 4)))
    signals = capture(model, batch, {"feature.first", "feature.third"})
    torch.testing.assert_close(signals["feature.first"], model.first(batch["pixel_values"]))
    assert signals["feature.third"].shape == (2, 8, 4, 4)


def test_a_residual_network_of_transformers_has_its_stages_as_features() -> None:
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"
    )
    found = anatomy_of(
        AutoModelForImageClassification.from_config(config), {"pixel_values": torch.randn(1, 1, 32, 32)}
    )
    assert [(feature.channels, feature.height) for feature in found.features] == [(4, 16), (4, 8), (8, 4)]


def test_stages_of_falling_resolution_are_no_layers() -> None:
    config = SwinConfig(
        image_size=32,
        patch_size=4,
        num_channels=1,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
    )
    model = AutoModelForImageClassification.from_config(config)
    assert anatomy_of(model, {"pixel_values": torch.randn(1, 1, 32, 32)}) == Anatomy(num_outputs=2)


@pytest.mark.parametrize("layers", [1, 2])
def test_an_ensemble_has_outputs_alone(layers: int) -> None:
    class Members(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(
                SentenceEncoder(tiny_bert(layers=layers, seed=seed).bert, "cls", False) for seed in (0, 1)
            )

        def forward(self, **batch: Tensor) -> Tensor:
            return torch.stack([member(**batch) for member in self.members]).mean(0)

    ids = torch.tensor([[2, 5, 6, 3]])
    assert anatomy_of(Members(), {"input_ids": ids, "attention_mask": ids.sign()}) == Anatomy(num_outputs=32)


def test_an_anatomy_changes_neither_statistics_nor_training_flags() -> None:
    model = Convolutions().train()
    model.second.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    anatomy_of(model, {"pixel_values": torch.randn(2, 1, 8, 8)})
    assert (model.training, model.first.training, model.second[0].training) == (True, True, False)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())


def test_fused_attention_gives_hidden_states_but_no_queries() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.encoder(self.words(input_ids)).mean(1))

    model, batch = Fused().eval(), {"input_ids": torch.randint(9, (2, 5))}
    assert anatomy_of(model, batch) == Anatomy(num_outputs=3, num_layers=2, hidden_size=8, embedding_size=8)
    torch.testing.assert_close(
        capture(model, batch, {"hidden.1"})["hidden.1"], model.encoder(model.words(batch["input_ids"]))
    )
    with pytest.raises(PassError, match="whose queries, keys and values cannot be captured"):
        Recorder(model, {"query.0"})


@pytest.mark.parametrize("name", ["hidden.3", "feature.nothing", "query", "colour.0", "hidden.-1"])
def test_what_a_model_has_not_is_refused(name: str) -> None:
    model, _ = model_and_batch("bert")
    with pytest.raises(PassError, match=f"cannot give '{name}': it has 3 layers"):
        Recorder(model, {name})


def test_an_embedding_of_convolutions_is_refused() -> None:
    with pytest.raises(PassError, match="its layers are not known"):
        Recorder(Convolutions(), {"embedding"})


def test_taking_before_running_is_refused() -> None:
    model, _ = model_and_batch("bert")
    with Recorder(model, {"hidden.0"}) as recorder, pytest.raises(PassError, match=r"hidden\.0"):
        recorder.take()


def test_nothing_is_held_that_was_not_asked_for_or_was_taken() -> None:
    model, batch = model_and_batch("bert")
    hidden: list[weakref.ref[Tensor]] = []
    model.bert.encoder.layer[0].register_forward_hook(lambda *call: hidden.append(weakref.ref(call[2])))
    gc.disable()
    try:
        with torch.no_grad(), Recorder(model, {"hidden.1"}) as recorder:
            model(**batch)
            assert hidden[-1]() is None
        with torch.no_grad(), Recorder(model, {"hidden.0"}) as recorder:
            model(**batch)
            signals = recorder.take()
            assert hidden[-1]() is signals["hidden.0"]
            del signals
            assert hidden[-1]() is None
            model(**batch)
            assert hidden[-1]() is not None
        assert hidden[-1]() is None
    finally:
        gc.enable()


def test_hooks_are_removed_on_exit_even_after_an_error() -> None:
    model, batch = model_and_batch("bert")
    recorder = Recorder(model, {"outputs", "embedding", "query.0"})
    with pytest.raises(ValueError, match="input_ids"), recorder:
        model()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with recorder:
        model(**batch)
        assert recorder.take().keys() == {"outputs", "embedding", "query.0"}


def test_signals_keep_the_type_and_the_gradient_that_the_model_gave_them() -> None:
    model, batch = model_and_batch("bert")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        signals = capture(model, batch, {"query.0", "outputs"})
    assert signals["query.0"].dtype == torch.bfloat16
    signals["query.0"].float().sum().backward()
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad is not None
    with torch.inference_mode():
        assert not capture(model, batch, {"query.0"})["query.0"].requires_grad


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_it_captures_inside_distributed_data_parallel() -> None:
    model, batch = model_and_batch("bert")
    plain = capture(model, batch, {"hidden.1", "outputs"})
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    assert anatomy_of(wrapped, batch) == anatomy_of(model, batch)
    signals = capture(wrapped, batch, {"hidden.1", "outputs"})
    for name, tensor in plain.items():
        torch.testing.assert_close(signals[name], tensor)
    (signals["hidden.1"].sum() + signals["outputs"].sum()).backward()
    assert model.bert.encoder.layer[1].output.dense.weight.grad is not None
