"""Lower, quantize, prune: models of images, through the step functions that the engine calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.bundles.verify import verify_bundle
from compress.core.artifacts import STRUCTURE, Artifact
from compress.core.errors import ModelError
from compress.core.forms import NumberFormat, Structure
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.lowering import step as lower
from compress.lowering.parity import compare_outputs, onnx_predictor, real_batches
from compress.models.io.checkpoints import load_model
from compress.passes.export import step as export
from compress.passes.export.spec import ExportSpec
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.spec import Int8Spec
from compress.profile.specs.recovery import RecoverySpec
from compress.step import StepContext, StepResult
from compress.tasks.base import TrainingData
from tests.processes import outputs_in_a_fresh_process
from tests.quantize_specs import quantize_spec
from tests.steps import context, run
from tests.tiny_vision import LABELS, image_task, images, tiny_network, tiny_vit, write_image_artifact


def given(folder: Path, spec: Spec, model: Artifact) -> StepContext:
    data = TrainingData(images(240), images(60, seed=1), LABELS)
    return context(folder, spec, {"model": model, "teacher": model}, image_task(), data)


def make(step: Any, folder: Path, spec: Spec, model: Artifact) -> tuple[Artifact, StepResult]:
    return run(step, given(folder, spec, model))


def taught(model: nn.Module, examples: Examples, steps: int = 60) -> nn.Module:
    """The model after some steps on the labels."""
    pixels = torch.from_numpy(np.stack(examples.items)[:, None] / np.float32(255) - 0.5) * 4
    labels = torch.from_numpy(examples.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(steps):
            chosen = [(step * 32 + place) % len(labels) for place in range(32)]
            loss = nn.functional.cross_entropy(model(pixel_values=pixels[chosen]), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("network")
    model = taught(tiny_network(folder / "code"), images(240))
    return write_image_artifact(folder / "artifact", model)


@pytest.fixture(scope="module")
def lowered(network: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(lower, tmp_path_factory.mktemp("lowered"), ExportSpec(), network)[0]


def operators(artifact: Artifact) -> list[str]:
    return [node.op_type for node in onnx.load(str(artifact.path / "model.onnx")).graph.node]


def test_a_network_is_lowered_with_its_norms_folded(lowered: Artifact, network: Artifact) -> None:
    assert "BatchNormalization" not in operators(lowered)
    assert operators(lowered).count("Conv") == 6
    graph = onnx.load(str(lowered.path / "model.onnx")).graph
    axes = [axis.dim_param or axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 1, 8, 8]
    assert [value.name for value in graph.output] == ["logits"]
    assert set(lowered.facts["parity"]) == {"1x1x8x8", "8x1x8x8"}
    assert lowered.facts["macs_shape"] == [1, 1, 8, 8]
    convolutions = 64 * (9 * 16 + 2 * 9 * 16 * 16 + 9 * 16 + 9 * 16 * 8 + 32 * 24)
    assert lowered.facts["macs"] == convolutions + 24 * 16 * 32 + 32 * 3
    assert lowered.facts["parameters"] == network.facts["parameters"]
    assert not (lowered.path / "tokenizer.json").exists()


@pytest.mark.parametrize("distilled", [False, True], ids=["vit", "deit"])
def test_a_vision_transformer_is_fused(distilled: bool, tmp_path: Path) -> None:
    source = write_image_artifact(tmp_path / "torch", tiny_vit(distilled))
    lowered, result = make(lower, tmp_path / "lower", ExportSpec(), source)
    assert result.facts["fused_attentions"] == 2
    assert (result.facts["multiplied_patches"], result.facts["selected_early"]) == (1, True)
    assert not {"Conv", "Where", "Softmax"} & set(operators(lowered))
    # The patches, and for each layer: query, key and value together, output, and two of the feed-forward; the heads.
    products = 1 + 2 * 4 + (2 if distilled else 1)
    for scheme in ("dynamic", "static"):
        after, result = make(quantize, tmp_path / scheme, Int8Spec(scheme=scheme), lowered)
        assert (result.facts["integer_matmuls"], result.facts["float_matmuls"]) == (products, 0)
        shapes = real_batches(image_task(), images(30), lowered)
        compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.1)


def test_every_product_of_a_network_runs_in_integers(lowered: Artifact, tmp_path: Path) -> None:
    after, result = make(quantize, tmp_path / "q", Int8Spec(), lowered)
    assert result.facts["scheme"] == "static"
    assert (result.facts["integer_matmuls"], result.facts["float_matmuls"]) == (8, 0)
    assert result.form.numbers is NumberFormat.OPERATOR
    assert after.size_mb < 0.45 * lowered.size_mb
    found = operators(after)
    assert (found.count("QLinearConv"), found.count("QLinearAdd"), found.count("QLinearConcat")) == (6, 1, 1)
    # One step into integers; activation functions of convolutions are the integers' own limits.
    assert found.count("QuantizeLinear") == 1
    assert not {"Conv", "Clip", "DequantizeLinear"} & set(found)
    shapes = real_batches(image_task(), images(30, seed=2), lowered)
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.1)


@pytest.mark.parametrize("form", ["operator", "qdq"])
def test_a_network_is_equalized_and_corrected(lowered: Artifact, tmp_path: Path, form: str) -> None:
    spec = quantize_spec({"format": form, "equalize": True, "bias_correction": True})
    after, result = make(quantize, tmp_path / "q", spec, lowered)
    # Those of the block: a sum, a Relu6 or a concatenation lies between the others.
    assert result.facts["equalized_pairs"] == 1
    assert (result.facts["corrected_biases"], result.facts["float_matmuls"]) == (8, 0)
    assert result.facts["integer_matmuls"] == 8
    compare_outputs(
        after.path / "model.onnx",
        real_batches(image_task(), images(60), lowered),
        onnx_predictor(lowered.path / "model.onnx"),
        0.1,
    )


def test_an_excluded_convolution_stays_floating(lowered: Artifact, tmp_path: Path) -> None:
    _, result = make(quantize, tmp_path, Int8Spec(exclude=("*stem",)), lowered)
    assert result.facts["integer_matmuls"] == 7


@pytest.mark.parametrize(
    ("changes", "where", "message", "hint"),
    [
        (
            {"scheme": "dynamic"},
            "quantize.scheme",
            "this model has 6 convolutions (module.stem, module.block.first, module.block.second, ...), "
            "which are slower with dynamic ranges than in floating point",
            "Set `scheme: static` (or `auto`, which chooses it), or list the convolutions in `exclude`.",
        ),
        (
            {"bits": 4},
            "quantize.bits",
            "this model has 6 convolutions (module.stem, module.block.first, module.block.second, ...), "
            "but 4-bit block weights are supported for matrix products only",
            "Set `bits: 8`, or list the convolutions in `exclude` to keep them in floating point.",
        ),
    ],
)
def test_what_convolutions_cannot_do_is_refused(
    changes: dict[str, Any], where: str, message: str, hint: str, lowered: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        make(quantize, tmp_path, quantize_spec(changes), lowered)
    assert (caught.value.where, caught.value.message, caught.value.hint) == (where, message, hint)


def test_calibration_holds_one_image_at_a_time(lowered: Artifact, tmp_path: Path) -> None:
    batches = list(calibration_batches(given(tmp_path, Int8Spec(), lowered), lowered, 5)())
    assert [batch["pixel_values"].shape for batch in batches] == [(1, 1, 8, 8)] * 5


@pytest.mark.slow
def test_a_pruned_network_recovers_and_goes_on(network: Artifact, tmp_path: Path) -> None:
    recover = RecoverySpec(epochs=4, learning_rate=3e-3)
    spec = PruneSpec.model_validate(
        {"remove": {"channels": 0.5}, "round_to": 4, "recover": recover.model_dump()}
    )
    pruned, result = make(prune, tmp_path / "prune", spec, network)
    facts = result.facts
    assert result.form.structure is Structure.PRUNED
    assert facts["parameters"] == facts["parameters_predicted"] < 0.45 * facts["parameters_before"]
    assert {(layer["channels"], layer["channels_removed"]) for layer in facts["layers"]} == {(8, 8), (12, 12)}
    assert facts["validation_score"] > 0.9
    assert (pruned.path / STRUCTURE).exists()
    lowered, result = make(lower, tmp_path / "lower", ExportSpec(), pruned)
    assert result.facts["parameters"] == facts["parameters"]
    _, result = make(quantize, tmp_path / "quantize", Int8Spec(), lowered)
    assert (result.facts["integer_matmuls"], result.facts["float_matmuls"]) == (8, 0)
    pixels = torch.arange(64.0).reshape(1, 1, 8, 8) / 64
    with torch.inference_mode():
        expected = load_model(pruned.path, allow_code=True)(pixel_values=pixels)
    assert torch.equal(outputs_in_a_fresh_process(pruned.path, pixel_values=pixels), expected)


def test_a_step_that_cuts_nothing_recovers_from_nothing(network: Artifact, tmp_path: Path) -> None:
    recover = {"epochs": 0.5, "learning_rate": 1e-3}
    asked = {"remove": {"channels": 0.5}, "round_to": 8, "steps": 5, "importance": "magnitude"}
    _, result = make(prune, tmp_path, PruneSpec.model_validate({**asked, "recover": recover}), network)
    # Of 16 channels 8 go, in multiples of 8: the last step alone can take them. Of 24 the first ones cannot either.
    assert [curve.name for curve in result.curves] == ["recover"]
    left = [(layer["channels"], layer["channels_removed"]) for layer in result.facts["layers"]]
    assert sorted(left) == [(8, 8)] * 3 + [(16, 8)]
    finer = PruneSpec.model_validate({**asked, "round_to": 4, "recover": recover})
    _, result = make(prune, tmp_path / "finer", finer, network)
    # The widths are 16 16 12 12 12 8 and 24 20 16 16 16 12: the third and fourth steps cut nothing.
    assert [curve.name for curve in result.curves] == ["recover-1", "recover-2", "recover"]
    assert sorted(layer["channels"] for layer in result.facts["layers"]) == [8, 8, 8, 12]


def test_a_pruned_vision_transformer_goes_on(tmp_path: Path) -> None:
    source = write_image_artifact(tmp_path / "torch", tiny_vit(distilled=True))
    spec = PruneSpec.model_validate({"remove": {"heads": 0.5, "feed_forward": 0.25}, "recover": None})
    pruned, result = make(prune, tmp_path / "prune", spec, source)
    assert result.facts["parameters"] == result.facts["parameters_predicted"] < source.facts["parameters"]
    assert [(layer["heads"], layer["feed_forward"]) for layer in result.facts["layers"]] == [(2, 48)] * 2
    _, result = make(lower, tmp_path / "lower", ExportSpec(), pruned)
    assert result.facts["fused_attentions"] == 2


@pytest.mark.parametrize(
    ("kind", "remove", "where", "message"),
    [
        (
            "network",
            {"heads": 0.5},
            "prune.remove.heads",
            "this model has no removable heads: a UserModule is not a transformer with a known layer structure",
        ),
        (
            "network",
            {"feed_forward": 0.5},
            "prune.remove.feed_forward",
            "this model has no removable feed-forward: "
            "a UserModule is not a transformer with a known layer structure",
        ),
        ("dense", {"channels": 0.5}, "prune.remove.channels", "this model has no convolutions"),
        (
            "vit",
            {"channels": 0.5},
            "prune.remove.channels",
            "this model is a transformer: it has no convolutions to remove channels from",
        ),
    ],
)
def test_removing_what_a_model_has_not_is_refused(
    kind: str, remove: dict[str, float], where: str, message: str, tmp_path: Path
) -> None:
    model = tiny_vit() if kind == "vit" else tiny_network(tmp_path / "code", kind)
    source = write_image_artifact(tmp_path / "torch", model)
    with pytest.raises(ModelError) as caught:
        make(prune, tmp_path / "prune", PruneSpec.model_validate({"remove": remove}), source)
    assert (caught.value.where, caught.value.message) == (where, message)


def test_a_fraction_that_removes_no_channel_is_refused(network: Artifact, tmp_path: Path) -> None:
    spec = PruneSpec.model_validate({"remove": {"channels": 0.1}, "recover": None})
    with pytest.raises(ModelError, match=r"0\.1 of the channels of convolutions with 16, 24 channels"):
        make(prune, tmp_path / "prune", spec, network)


def test_an_integer_network_is_packaged_for_both_formats(lowered: Artifact, tmp_path: Path) -> None:
    after, _ = make(quantize, tmp_path / "q", Int8Spec(), lowered)
    bundle, result = make(export, tmp_path / "x", ExportSpec(formats=("onnx", "ort"), golden=4), after)
    assert set(result.facts["export_parity"]) == {"model.onnx", "model.ort"}
    assert verify_bundle(bundle.path).problems == ()
