"""prune: layers, hidden width, vocabulary, global ranking, steps, targets; folders that transformers itself loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    DeiTForImageClassificationWithTeacher,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from compress.core.artifacts import STRUCTURE, Artifact
from compress.core.errors import ModelError, PassError
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.lowering import step as lower
from compress.models.anatomy.encoder import encoder_of
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.passes.low_rank import step as low_rank
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.prune import step as prune
from compress.passes.prune.choosing import latency_table, targets
from compress.passes.prune.choosing.saliency import (
    ImportanceData,
    saliency_as_weights,
    sum_over_group,
    weight_saliency,
)
from compress.passes.prune.removing.encoders import EncoderPruner
from compress.passes.prune.removing.hidden import StreamSurgeon
from compress.passes.prune.removing.removal import pruner_of
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.int8.spec import Int8Spec
from tests.gpu import gpu_target
from tests.integration import test_images_after_training as of_images
from tests.integration.test_lower_quantize_export import given, make
from tests.processes import in_a_fresh_process, outputs_in_a_fresh_process
from tests.steps import run
from tests.tiny import WORDS, text_task, tiny_bert, tiny_classifier, tiny_tokenizer, write_torch_artifact
from tests.tiny_vision import image_task, images, tiny_vit, write_image_artifact

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "bert": lambda: tiny_bert(vocab=40, layers=4),
    "roberta": lambda: tiny_classifier(RobertaConfig(**SIZES)),
    "electra": lambda: tiny_classifier(ElectraConfig(embedding_size=16, **SIZES)),
    "distilbert": lambda: tiny_classifier(
        DistilBertConfig(
            vocab_size=40, dim=32, n_layers=4, n_heads=4, hidden_dim=64, max_position_embeddings=64
        )
    ),
}
IDS = [[2, 5, 8, 16, 3], [2, 7, 7, 9, 3]]


def spec(**changes: Any) -> PruneSpec:
    return PruneSpec.model_validate({"importance_batches": 1, "recover": None, **changes})


def material(asked: PruneSpec, count: int = 16) -> ImportanceData:
    random = np.random.default_rng(0)
    ids = [random.integers(5, 40, size=random.integers(3, 12)).astype(np.int64) for _ in range(count)]
    inputs = TokenInputs(ids, ("input_ids", "attention_mask"), 0)
    return ImportanceData(inputs, torch.from_numpy(random.integers(0, 3, count)), asked, 0, "cpu")


def logits(model: Any, ids: Any = IDS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(torch.tensor(ids)).logits
        return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("importance", ["magnitude", "taylor", "hessian", "activation", "random"])
def test_everything_at_once_is_what_was_predicted(family: str, importance: str, tmp_path: Path):
    model = FAMILIES[family]()
    remove = {"layers": 0.5, "heads": 0.5, "feed_forward": 0.5, "hidden": 0.5}
    pruner = EncoderPruner(model, material(spec(remove=remove, importance=importance)))
    pruner.advance(1.0)
    assert count_parameters(model) == pruner.parameters
    encoder = encoder_of(model)
    assert len(encoder.layers) == len(pruner.layers) == 2
    assert encoder.hidden_size == 16
    assert [(layer.heads, layer.feed_forward) for layer in encoder.layers] == [(2, 32)] * 2
    # Two heads of 8 are as wide as the stream: the config says it all, but where the embeddings' projection would go.
    save_model(model, tmp_path)
    assert (tmp_path / STRUCTURE).exists() == (family == "electra")
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_vision_transformers_lose_width_and_layers(kind: str, tmp_path: Path):
    source = write_image_artifact(tmp_path / "source", tiny_vit(distilled=kind == "deit"))
    asked = spec(remove={"layers": 0.5, "hidden": 0.25})
    made, result = of_images.make(prune, tmp_path / "prune", asked, source)
    assert result.facts["hidden"] == {"width": 24, "removed": 8}
    assert len(result.facts["layers_kept"]) == 1
    assert (made.path / STRUCTURE).exists()
    _, result = of_images.make(lower, tmp_path / "lower", Spec(), made)
    assert max(result.facts["parity"].values()) < 1e-4


def test_a_removed_layer_is_one_that_does_nothing():
    model = tiny_bert(vocab=40, layers=4)
    with torch.no_grad():
        for part in (encoder_of(model).layers[2].attention_output, encoder_of(model).layers[2].feed_out):
            part.weight.zero_()
    for importance in ("taylor", "activation"):
        pruner = EncoderPruner(
            tiny_bert(vocab=40, layers=4), material(spec(remove={"layers": 0.25}, importance=importance))
        )
        pruner.model.load_state_dict(model.state_dict())
        pruner.advance(1.0)
        assert pruner.layers == [0, 1, 3], importance


def test_dimensions_that_carry_nothing_go_first():
    model = tiny_bert(vocab=40)
    encoder = encoder_of(model)
    dead = (3, 17, 20, 21, 22, 28, 29, 30)
    asked = spec(remove={"hidden": 0.25}, importance="magnitude")
    surgeon = StreamSurgeon(encoder, material(asked).example_batch())
    saliency = weight_saliency(model, replace(material(asked), labels=None))
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, values in saliency.items():
        # Whatever reads or writes these dimensions.
        if values.shape[-1] == 32 and "attention.output.dense" not in names[parameter]:
            values[..., dead] = 0
        if names[parameter].endswith("output.dense.weight"):
            values[dead, :] = 0
    with saliency_as_weights(saliency):
        found = surgeon.least_important(sum_over_group(), 8)
    assert found.stream == dead
    assert len(found.inner) == 8


def test_saliencies_by_hand():
    """A linear classifier inside a transformers model is too deep; its last map is checked alone."""
    model = tiny_bert(vocab=40)
    weight = model.classifier.weight
    made = material(spec(remove={"heads": 0.5}), count=6)
    example = [made.inputs.batch([place]) for place in range(6)]
    singles, inputs = [], []
    for place, batch in enumerate(example):
        model.zero_grad()
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        hidden = torch.tanh(model.bert.pooler.dense(model.bert(**tensors).last_hidden_state[:, 0]))
        outputs = model.classifier(hidden)
        torch.nn.functional.cross_entropy(outputs, made.labels[place : place + 1]).backward()
        singles.append(weight.grad.clone())
        inputs.append(hidden.detach())
    model.zero_grad()

    def found(importance: str) -> torch.Tensor:
        asked = spec(remove={"heads": 0.5}, importance=importance)
        return weight_saliency(model, replace(made, spec=asked))[weight]

    squares = torch.stack(singles).square().mean(dim=0)
    assert torch.allclose(found("hessian"), weight**2 * squares / 2, rtol=1e-3, atol=1e-9)
    mean = torch.stack(singles).mean(dim=0)
    assert torch.allclose(found("taylor"), (weight * mean).abs(), rtol=1e-3, atol=1e-7)
    size = torch.cat(inputs).square().mean(dim=0).sqrt()
    assert torch.allclose(found("activation"), weight.abs() * size, rtol=1e-3)
    assert torch.equal(found("magnitude"), weight**2)
    assert torch.equal(found("random"), found("random"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    words = [*WORDS, *(f"w{index}" for index in range(600 - len(WORDS) - 5))]
    return write_torch_artifact(
        tmp_path_factory.mktemp("torch"), tiny_bert(vocab=600, layers=4), tiny_tokenizer(words)
    )


def from_pretrained(folder: Path, ids: list[list[int]]) -> Any:
    """What transformers alone makes of a folder, in a fresh process."""
    return in_a_fresh_process(_from_pretrained, folder, ids)


def _from_pretrained(folder: Path, ids: list[list[int]]) -> Any:
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    return model.eval()(torch.tensor(ids)).logits.tolist()


@pytest.mark.parametrize(
    "remove",
    [
        {"layers": 0.5, "feed_forward": 0.5, "vocabulary": "unused"},
        {"hidden": 0.5, "heads": 0.5, "feed_forward": 0.25},
    ],
)
def test_transformers_loads_what_a_config_can_say(source: Artifact, tmp_path: Path, remove: dict[str, Any]):
    made, _ = make(prune, tmp_path, spec(remove=remove), source)
    assert not (made.path / STRUCTURE).exists()
    found = from_pretrained(made.path, IDS)
    assert np.allclose(found, logits(load_model(made.path)).numpy(), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "remove",
    [{"layers": 0.5, "feed_forward": 0.5}, {"hidden": 0.25, "heads": 0.25, "feed_forward": 0.25}],
    ids=str,
)
def test_transformers_loads_every_family(family: str, remove: dict[str, Any], tmp_path: Path):
    model = FAMILIES[family]()
    asked = spec(remove=remove)
    pruner_of(model, material(asked)).advance(1.0)
    save_model(model, tmp_path)
    assert not (tmp_path / STRUCTURE).exists()
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.allclose(logits(again), logits(model), atol=1e-5)


@pytest.mark.parametrize("distilled", [False, True])
def test_transformers_loads_a_pruned_vision_transformer(distilled: bool, tmp_path: Path):
    model = tiny_vit(distilled)
    asked = spec(remove={"hidden": 0.5, "heads": 0.5, "feed_forward": 0.25}, importance="magnitude")
    folder = write_image_artifact(tmp_path / "whole", model).path
    examples = images(40)
    inputs = image_task().encode(examples, folder)
    pruner_of(model, ImportanceData(inputs, torch.from_numpy(examples.labels), asked, 0, "cpu")).advance(1.0)
    pruned = tmp_path / "pruned"
    pruned.mkdir()
    save_model(model, pruned)
    assert not (pruned / STRUCTURE).exists()
    loader = DeiTForImageClassificationWithTeacher if distilled else AutoModelForImageClassification
    again = loader.from_pretrained(pruned)
    pixels = torch.randn(2, 1, again.config.image_size, again.config.image_size)
    with torch.inference_mode():
        found, expected = (one.eval()(pixel_values=pixels).logits for one in (again, model))
    assert torch.allclose(found, expected, atol=1e-5)


def fresh_logits(folder: Path) -> torch.Tensor:
    return outputs_in_a_fresh_process(folder, input_ids=torch.tensor(IDS))


@pytest.mark.slow
def test_our_loader_reads_what_a_config_cannot_say(source: Artifact, tmp_path: Path):
    made, result = make(
        prune,
        tmp_path / "prune",
        spec(remove={"hidden": 0.25, "heads": 0.5, "feed_forward": 0.5}, scope="global"),
        source,
    )
    assert (made.path / STRUCTURE).exists()
    assert torch.equal(fresh_logits(made.path), logits(load_model(made.path)))
    lowered, result = make(lower, tmp_path / "lower", Spec(), made)
    assert result.facts["fused_attentions"] == 4
    _, result = make(quantize, tmp_path / "quantize", Int8Spec(scheme="dynamic"), lowered)
    assert result.facts["float_matmuls"] == 0
    again, result = make(low_rank, tmp_path / "low", LowRankSpec(ratio=0.4, recover=None), made)
    assert torch.equal(fresh_logits(again.path), logits(load_model(again.path)))


def test_unused_words_lose_their_rows(source: Artifact, tmp_path: Path):
    made, result = make(prune, tmp_path, spec(remove={"vocabulary": "unused"}), source)
    facts = result.facts["vocabulary"]
    rows = encoder_of(load_model(made.path)).words
    assert rows is not None
    assert rows.num_embeddings == facts["tokens"] == 600 - facts["tokens_removed"] < 600
    examples = Examples(("the red cat runs", "a dog w3"), np.array([0, 0]))
    before, after = (text_task(32).encode(examples, folder.path) for folder in (source, made))
    outputs = [
        load_model(folder.path)(**{n: torch.from_numpy(v) for n, v in inputs.batch([0]).items()}).logits
        for folder, inputs in ((source, before), (made, after))
    ]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)
    assert json.loads((made.path / "task.json").read_text())["pad_id"] == 0


def test_steps_recover_between_and_end_at_the_goal(source: Artifact, tmp_path: Path):
    asked = spec(remove={"heads": 0.5, "feed_forward": 0.75}, steps=3, recover={"epochs": 2})
    _, result = make(prune, tmp_path, asked, source)
    layers = [(one["heads"], one["feed_forward"]) for one in result.facts["layers"]]
    assert layers == [(2, 16)] * 4
    assert all(len(one["heads_removed"]) == 2 for one in result.facts["layers"])
    assert [curve.name for curve in result.curves] == ["recover-1", "recover-2", "recover"]
    ends = [curve.points[-1].step for curve in result.curves]
    assert ends[0] == ends[1] < ends[2]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_both_scopes_remove_the_same_number_of_parts(source: Artifact, tmp_path: Path, scope: str):
    _, result = make(prune, tmp_path, spec(remove={"heads": 0.5, "feed_forward": 0.5}, scope=scope), source)
    layers = result.facts["layers"]
    assert sum(one["heads"] for one in layers) == 8
    assert sum(one["feed_forward"] for one in layers) == 128
    assert all(one["heads"] >= 1 and one["feed_forward"] >= 8 for one in layers)
    assert (len({one["heads"] for one in layers}) == 1) == (scope == "layer")


def test_a_ratio_and_a_size_are_reached(source: Artifact, tmp_path: Path):
    before = count_parameters(load_model(source.path))
    in_layers = 4 * (4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32)
    _, result = make(prune, tmp_path / "ratio", spec(target={"ratio": 0.5}), source)
    gone = before - result.facts["parameters"]
    # The next larger choice would be one head or 8 units away.
    assert 0.5 * in_layers <= gone <= 0.5 * in_layers + 1100
    _, result = make(prune, tmp_path / "size", spec(target={"size_mb": 0.2}), source)
    assert result.facts["target"]["weights_mb"] <= 0.2
    assert result.facts["parameters"] * 4 > 0.19e6
    with pytest.raises(PassError, match=r"a size of 0.01 MB cannot be reached"):
        make(prune, tmp_path / "small", spec(target={"size_mb": 0.01}), source)


@pytest.mark.slow
def test_a_speed_is_predicted_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (targets, latency_table):
        monkeypatch.setattr(
            module,
            "TIMING_SETTINGS",
            module.TIMING_SETTINGS.model_copy(update={"examples": 8, "min_seconds": 0.1}),
        )
        monkeypatch.setattr(module, "PROCESSES", 1)
    source = write_torch_artifact(tmp_path / "source", tiny_bert())
    _, result = make(prune, tmp_path / "pruned", spec(target={"speedup": 1.1}), source)
    target = result.facts["target"]
    assert target["speedup"] == 1.1
    assert target["predicted_ms"] > 0
    assert target["measured_ms"] > 0
    assert target["before_ms"] > 0
    assert target["measured_speedup"] == target["before_ms"] / target["measured_ms"]
    assert target["predicted_speedup"] >= 1.1
    assert result.facts["parameters"] < result.facts["parameters_before"]
    for part in ("heads", "units", "last_heads", "last_units"):
        times = [time for _, time in target["table"][part]]
        assert times == sorted(times)
    json.dumps(result.facts)


@pytest.mark.gpu
def test_a_gpu_times_for_itself(source: Artifact, tmp_path: Path):
    gpu = gpu_target()
    asked = given(tmp_path, spec(target={"speedup": 1.01}), source)
    _, result = run(prune, replace(asked, timing_target=gpu))
    assert result.facts["target"]["timed_on"] == gpu.label
    assert result.facts["target"]["measured_ms"] > 0


def test_what_a_model_does_not_have_is_refused(tmp_path: Path, source: Artifact):
    factored, _ = make(low_rank, tmp_path / "low", LowRankSpec(ratio=0.5, recover=None), source)
    with pytest.raises(ModelError, match="cannot be predicted for factored maps"):
        make(prune, tmp_path / "a", spec(target={"speedup": 2}), factored)
    for number, remove in enumerate(({"layers": 0.1}, {"hidden": 0.05})):
        with pytest.raises(PassError, match="nothing would be removed"):
            make(prune, tmp_path / str(number), spec(remove=remove), source)
