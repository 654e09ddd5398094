"""low_rank as a step: promised sizes, recovery, a fresh process, pruning before and after, lowering, integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.core.artifacts import STRUCTURE, Artifact
from compress.core.errors import ModelError, PassError
from compress.core.forms import Structure
from compress.core.spec import Spec
from compress.lowering import step as lower
from compress.lowering.parity import compare_outputs, onnx_predictor, real_batches
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.factors import Factored, apply_factors
from compress.models.io.checkpoints import count_parameters, load_model
from compress.models.students.cut import make_student
from compress.passes.low_rank import step as low_rank
from compress.passes.low_rank.places import factor_groups, second_moments
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.source.step import _structure
from compress.profile.specs.student import StudentSpec
from compress.step import StepResult
from tests.integration import test_images_after_training as of_images
from tests.integration import test_lower_quantize_export as of_texts
from tests.processes import outputs_in_a_fresh_process
from tests.tiny import text_task, tiny_bert, write_torch_artifact
from tests.tiny_vision import image_task, images, tiny_network, write_image_artifact


def spec(**changes: Any) -> LowRankSpec:
    return LowRankSpec.model_validate({"ratio": 0.4, "round_to": 4, "recover": None, **changes})


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_torch_artifact(tmp_path_factory.mktemp("torch"), tiny_bert())


@pytest.fixture(scope="module")
def factored(text_model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, StepResult]:
    return of_texts.make(low_rank, tmp_path_factory.mktemp("low"), spec(), text_model)


def test_the_step_keeps_its_promise(factored: tuple[Artifact, StepResult], text_model: Artifact):
    artifact, result = factored
    facts = result.facts
    assert result.form.structure is Structure.FACTORED
    assert str(result.form) == "torch float factored"
    assert facts["parameters"] == facts["parameters_predicted"] < facts["parameters_before"]
    assert facts["parameters"] == count_parameters(load_model(artifact.path))
    # q, k and v share a first factor of rank 0.6 * 96 * 32 / 128.
    assert [(m["maps"], m["rank"]) for m in facts["maps"][:2]] == [(3, 16), (1, 8)]
    assert all(0 < one["output_lost"] < 0.2 for one in facts["maps"])
    assert _structure(artifact.path) is Structure.FACTORED
    described = json.loads((artifact.path / STRUCTURE).read_text())
    assert described["factors"][0]["rank"] == 16
    assert len(described["factors"][0]["modules"]) == 3
    assert described["shapes"] == described["attributes"] == {}
    names = (artifact.path / "task.json", artifact.path / "tokenizer.json")
    assert [name.read_bytes() for name in names] == [
        (text_model.path / name.name).read_bytes() for name in names
    ]


def test_a_fresh_process_reads_the_same_model(factored: tuple[Artifact, StepResult]):
    ids = torch.tensor([[2, 5, 8, 16, 3]])
    with torch.inference_mode():
        expected = load_model(factored[0].path)(ids).logits
    assert torch.equal(outputs_in_a_fresh_process(factored[0].path, input_ids=ids), expected)


@pytest.fixture(scope="module")
def lowered(
    factored: tuple[Artifact, StepResult], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, StepResult]:
    return of_texts.make(lower, tmp_path_factory.mktemp("lower"), Spec(), factored[0])


def test_two_products_and_attention_stays_one(lowered: tuple[Artifact, StepResult]):
    made, result = lowered
    assert result.facts["fused_attentions"] == 2
    assert result.form.structure is Structure.FACTORED
    nodes = {node.name: node.op_type for node in onnx.load(str(made.path / "model.onnx")).graph.node}
    layer = "bert.encoder.layer.0"
    assert nodes[f"{layer}.attention.self.query.first"] == "MatMul"
    assert nodes[f"{layer}.attention.self"] == "Attention"
    assert nodes[f"{layer}.output.dense.first"] == nodes[f"{layer}.output.dense.second"] == "MatMul"
    # 32 tokens: factors of q, k, v (16), output (8) and both feed-forward maps (12), and attention itself.
    per_layer = 32 * (16 * 128 + 8 * 64 + 2 * 12 * 96) + 2 * 32 * 32 * 32
    assert result.facts["macs"] == 2 * per_layer + 32 * 32 + 32 * 3


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_both_products_run_in_integers(lowered: tuple[Artifact, StepResult], tmp_path: Path, scheme: str):
    whole, _ = lowered
    small, result = of_texts.make(quantize, tmp_path / "quantize", Int8Spec(scheme=scheme), whole)
    assert (result.facts["integer_matmuls"], result.facts["float_matmuls"]) == (18, 0)
    shapes = real_batches(text_task(32), of_texts.examples(), whole)
    compare_outputs(small.path / "model.onnx", shapes, onnx_predictor(whole.path / "model.onnx"), 0.1)


def test_recovery_trains_both_factors(text_model: Artifact, tmp_path: Path):
    trained, result = of_texts.make(
        low_rank, tmp_path / "a", spec(ratio=0.6, recover={"epochs": 2, "learning_rate": 2e-3}), text_model
    )
    plain, _ = of_texts.make(low_rank, tmp_path / "b", spec(ratio=0.6), text_model)
    assert result.curves[0].points
    assert "validation_score_before_recovery" in result.facts
    before, after = (dict(load_model(each.path).named_parameters()) for each in (plain, trained))
    name = "bert.encoder.layer.0.output.dense"
    for part in ("first", "second"):
        assert not torch.equal(before[f"{name}.{part}.weight"], after[f"{name}.{part}.weight"])


PRUNE = PruneSpec.model_validate(
    {"remove": {"feed_forward": 0.25, "heads": 0.5}, "importance_batches": 2, "recover": None}
)


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_pruned_after_it_is_factored(factored: tuple[Artifact, StepResult], tmp_path: Path, importance: str):
    chosen = PRUNE.model_copy(update={"importance": importance})
    pruned, result = of_texts.make(prune, tmp_path / "prune", chosen, factored[0])
    assert result.form.structure is Structure.FACTORED
    assert result.facts["parameters"] == result.facts["parameters_predicted"]
    assert [(one["heads"], one["feed_forward"]) for one in result.facts["layers"]] == [(2, 48)] * 2
    layer = encoder_of(load_model(pruned.path)).layers[0]
    assert isinstance(layer.query, Factored)
    assert isinstance(layer.key, Factored)
    assert layer.query.first is layer.key.first


def test_pruned_after_it_is_factored_attention_stays_one(
    factored: tuple[Artifact, StepResult], tmp_path: Path
):
    pruned, _ = of_texts.make(prune, tmp_path / "prune", PRUNE, factored[0])
    _, result = of_texts.make(lower, tmp_path / "lower", Spec(), pruned)
    assert result.facts["fused_attentions"] == 2


@pytest.mark.slow
def test_factored_after_it_is_pruned(text_model: Artifact, tmp_path: Path):
    pruned, _ = of_texts.make(prune, tmp_path / "prune", PRUNE, text_model)
    both, result = of_texts.make(low_rank, tmp_path / "low", spec(), pruned)
    assert result.facts["parameters"] == result.facts["parameters_predicted"]
    described = json.loads((both.path / STRUCTURE).read_text())
    assert described["shapes"]["bert.encoder.layer.0.attention.self.query.second.weight"] == [16, 12]
    _, result = of_texts.make(lower, tmp_path / "lower", Spec(), both)
    assert result.facts["fused_attentions"] == 2


def test_what_is_excluded_or_does_not_pay_keeps_its_weight(text_model: Artifact, tmp_path: Path):
    _, result = of_texts.make(low_rank, tmp_path / "a", spec(exclude=["*.self.key"]), text_model)
    assert "bert.encoder.layer.0.attention.self.query" not in [one["name"] for one in result.facts["maps"]]
    # Square maps of 32 need a rank below 16, and one of 16 is the nearest multiple.
    _, result = of_texts.make(low_rank, tmp_path / "b", spec(round_to=16), text_model)
    ranks = {one["name"]: one["rank"] for one in result.facts["maps"]}
    assert ranks["bert.encoder.layer.0.attention.output.dense"] is None
    assert ranks["bert.encoder.layer.0.intermediate.dense"] == 16
    with pytest.raises(PassError, match="no map would be factored"):
        of_texts.make(low_rank, tmp_path / "c", spec(round_to=32), text_model)
    with pytest.raises(ModelError, match="all its maps are excluded"):
        of_texts.make(low_rank, tmp_path / "d", spec(exclude=["*"]), text_model)
    with pytest.raises(ModelError, match=r"no module of the model matches the pattern '\*\.keys'"):
        of_texts.make(low_rank, tmp_path / "e", spec(exclude=["*.keys"]), text_model)


def test_max_drop_holds_before_recovery(text_model: Artifact, tmp_path: Path):
    _, result = of_texts.make(low_rank, tmp_path, spec(ratio=None, max_drop=0.1, round_to=1), text_model)
    facts = result.facts
    assert facts["validation_score_before"] - facts["validation_score"] <= 0.1 + 1e-9
    assert all(one["output_lost"] <= 1 - facts["energy"] + 1e-9 for one in facts["maps"])


def test_a_student_can_be_made_from_a_factored_teacher(factored: tuple[Artifact, StepResult]):
    teacher = load_model(factored[0].path)
    student = make_student(teacher, StudentSpec(layers=2, intermediate_size=64), 0)
    ids = torch.tensor([[2, 5, 8, 16, 3]])
    with torch.inference_mode():
        assert torch.allclose(student(ids).logits, teacher(ids).logits, atol=1e-5)


def test_weighting_brings_outputs_nearer_than_plain_svd(text_model: Artifact, tmp_path: Path):
    whole = load_model(text_model.path)
    inputs = text_task(32).encode(of_texts.examples(40), text_model.path)
    batch = {name: torch.from_numpy(array) for name, array in inputs.batch(range(40)).items()}
    distance = {}
    with torch.inference_mode():
        for weighted in (True, False):
            chosen = spec(ratio=0.6, weighted=weighted)
            made, _ = of_texts.make(low_rank, tmp_path / str(weighted), chosen, text_model)
            outputs = load_model(made.path)(**batch).logits
            distance[weighted] = float((outputs - whole(**batch).logits).norm())
    assert distance[True] < 0.5 * distance[False]


@pytest.mark.slow
def test_a_network_of_convolutions(tmp_path: Path):
    source = write_image_artifact(tmp_path / "source", tiny_network(tmp_path / "code"))
    made, result = of_images.make(low_rank, tmp_path / "low", spec(ratio=0.5), source)
    facts = result.facts
    assert facts["parameters"] == facts["parameters_predicted"] < facts["parameters_before"]
    ranks = {one["name"].removeprefix("module."): one["rank"] for one in facts["maps"]}
    # Depthwise and grouped convolutions are left out.
    assert set(ranks) == {"stem", "block.first", "block.second", "point", "hidden", "head"}
    assert ranks["block.first"] == 8  # 0.5 * 16 * 144 / 160, the nearest multiple of 4
    model = load_model(made.path, allow_code=True)
    part = model.get_submodule("module.block.first")
    assert isinstance(part, Factored)
    assert isinstance(part.first, nn.Conv2d)
    assert isinstance(part.second, nn.Conv2d)
    assert part.first.kernel_size == (3, 3)
    assert part.second.kernel_size == (1, 1)
    pixels = image_task().encode(images(4), made.path).batch(range(4))["pixel_values"]
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels))
    # Another process may sum in another order.
    found = outputs_in_a_fresh_process(made.path, pixel_values=torch.from_numpy(pixels))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    lowered, _ = of_images.make(lower, tmp_path / "lower", Spec(), made)
    _, result = of_images.make(quantize, tmp_path / "quantize", Int8Spec(scheme="static"), lowered)
    assert result.facts["float_matmuls"] == 0
    channels = PruneSpec.model_validate({"remove": {"channels": 0.5}, "round_to": 4, "recover": None})
    _, result = of_images.make(prune, tmp_path / "prune", channels, made)
    assert result.facts["parameters"] == result.facts["parameters_predicted"]


def test_moments_of_a_convolution_are_those_of_its_patches():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    model = nn.Sequential(conv, nn.Flatten())
    pixels = torch.randn(5, 2, 6, 6)
    model.forward = lambda x: nn.Sequential.forward(model, x)  # type: ignore[method-assign]
    (place,) = factor_groups(model, ())
    (square,) = second_moments(model, [place], lambda: [{"x": pixels}])
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows = [
        padded[n, :, y : y + 3, x : x + 3].ravel() for n in range(5) for y in (0, 2, 4) for x in (0, 2, 4)
    ]
    patches = np.array(rows, np.float64)
    assert np.allclose(square.numpy(), patches.T @ patches / len(patches), atol=1e-5)


@pytest.mark.parametrize(
    "described",
    [
        {"modules": ["1"], "rank": 2},
        [{"modules": ["0"], "rank": 0}],
        [{"modules": ["0"], "rank": True}],
        [{"modules": ["1"], "rank": 2}],
        [{"modules": [], "rank": 2}],
        [{"modules": ["absent"], "rank": 2}],
        ["0"],
        None,
    ],
)
def test_a_damaged_description_is_refused(described: object):
    with pytest.raises(ModelError, match="no maps that fit the factors") as caught:
        apply_factors(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), described, "x.json")
    assert caught.value.where == "x.json"
