"""quantize.train: what is simulated is what the integer file computes, and training makes the better of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.core.errors import ModelError
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.encoding.inputs import Batch
from compress.lowering import step as lower
from compress.lowering.parity import onnx_predictor
from compress.models.io.checkpoints import load_model
from compress.passes.quantize import step as quantize
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.qat import step as qat_step
from compress.passes.quantize.qat.fake_quant import add_fake_quantization
from compress.passes.quantize.weight_only import train as scales_step
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.step import StepContext, StepResult
from compress.training.prediction import predict
from compress.training.rounding.rounded_model import FakeQuantizedModel, folding_factors
from tests.integration import test_images_after_training as of_images
from tests.integration import test_lower_quantize_export as of_texts
from tests.processor import WEIGHT_LIMIT
from tests.steps import run
from tests.tiny import WORDS, tiny_bert, tiny_tokenizer, write_torch_artifact
from tests.tiny_vision import images, tiny_network, tiny_vit, write_image_artifact


def spec(**changes: Any) -> Int8Spec:
    # Ranges that are found at run time are found without calibration examples.
    read = {} if changes.get("scheme") == "dynamic" else {"calibration": {"examples": 24}}
    return Int8Spec.model_validate({**read, **changes})


def context_of(kind: str, folder: Path, made: Spec, model: Artifact) -> StepContext:
    return (of_texts if kind == "text" else of_images).given(folder, made, model)


class Lowered:
    """A torch model, its ONNX file, and some inputs of it."""

    def __init__(self, kind: str, source: Artifact, folder: Path) -> None:
        self.kind, self.source, self.folder = kind, source, folder
        self.count = count()
        self.made: dict[str, Artifact] = {}
        self.artifact = run(lower, context_of(kind, folder / "lower", Spec(), source))[0]
        ctx = context_of(kind, folder / "read", Spec(), source)
        self.batch: Batch = ctx.task.encode(ctx.data.validation, source.path).batch(range(12))
        self.tensors = {name: torch.from_numpy(values) for name, values in self.batch.items()}

    def simulated(self, made: Int8Spec) -> tuple[FakeQuantizedModel, dict[str, Any]]:
        model = load_model(self.source.path, allow_code=True)
        rounded, facts = self.simulate(model, made)
        ctx = context_of(self.kind, self.folder / f"ranges-{next(self.count)}", made, self.source)
        batches = calibration_batches(ctx, self.source, made.calibration_examples)
        rounded.calibrate(
            {name: torch.from_numpy(values) for name, values in one.items()} for one in batches()
        )
        return rounded, facts

    def simulate(self, model: torch.nn.Module, made: Int8Spec) -> tuple[FakeQuantizedModel, dict[str, Any]]:
        path = self.artifact.path / ONNX_MODEL
        return add_fake_quantization(model, path, made, WEIGHT_LIMIT, self.tensors, self.folder)

    def quantized(self, made: Int8Spec, name: str) -> Artifact:
        if name not in self.made:
            self.made[name] = run(quantize, context_of(self.kind, self.folder / name, made, self.artifact))[0]
        return self.made[name]

    def outputs(self, model: torch.nn.Module) -> Any:
        with torch.no_grad():
            given = model(**self.tensors)
        return (given if isinstance(given, torch.Tensor) else given.logits).numpy()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    folder = tmp_path_factory.mktemp("text")
    words = [*WORDS, *(f"w{index}" for index in range(of_texts.VOCAB - len(WORDS) - 5))]
    model = tiny_bert(vocab=of_texts.VOCAB, layers=1)
    return Lowered("text", write_torch_artifact(folder / "torch", model, tiny_tokenizer(words)), folder)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    folder = tmp_path_factory.mktemp("network")
    model = of_images.taught(tiny_network(folder / "code"), images(240), steps=30)
    return Lowered("image", write_image_artifact(folder / "torch", model), folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    folder = tmp_path_factory.mktemp("vit")
    return Lowered("image", write_image_artifact(folder / "torch", tiny_vit(distilled=True)), folder)


def distances(lowered: Lowered, made: Int8Spec, name: str) -> tuple[float, float]:
    """How far the integer file is from the simulation, and from the float model: root mean squares."""
    rounded, _ = lowered.simulated(made)
    integers = onnx_predictor(lowered.quantized(made, name).path / ONNX_MODEL)(lowered.batch)
    simulated = lowered.outputs(rounded)
    floats = lowered.outputs(rounded.release())
    return float(np.std(integers - simulated)), float(np.std(integers - floats))


CASES: dict[str, dict[str, Any]] = {
    "dynamic": {"scheme": "dynamic"},
    "a scale a weight": {"scheme": "dynamic", "per_channel": False, "embeddings": 4},
    "some left out": {"scheme": "dynamic", "embeddings": False, "exclude": ["*.output.dense"]},
    "static": {"scheme": "static", "calibration": {"examples": 24, "symmetric": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_text_model_is_simulated_to_the_last_digit(text: Lowered, case: str) -> None:
    near, far = distances(text, spec(**CASES[case]), case)
    assert near < 1e-6 < 1e-3 < far


def test_an_image_transformer_is_simulated_to_the_last_digit(vit: Lowered) -> None:
    near, far = distances(vit, spec(scheme="dynamic"), "vit")
    assert near < 1e-5 < 1e-3 < far


def test_a_network_with_branches_is_simulated_closely(network: Lowered) -> None:
    # Its biases have 32 bits in the file and are not simulated: a few values are rounded to the next integer.
    near, far = distances(network, spec(), "network")
    assert near < 0.6 * far


def test_what_is_simulated_is_told(text: Lowered, network: Lowered) -> None:
    # Query, key and value are one weight of the file, and read one input each; of the tables one is large enough.
    assert text.simulated(spec(**CASES["dynamic"]))[1] == {
        "weights": 7,
        "inputs": 8,
        "between": 0,
        "ranges": "at run time",
        "not_simulated": [],
    }
    # The image, and what the head reads, are rounded where they are read, the rest where it is made.
    assert network.simulated(spec())[1] == {
        "weights": 8,
        "inputs": 2,
        "between": 8,
        "ranges": "running",
        "not_simulated": [],
    }


def test_the_kernel_that_is_rounded_is_the_folded_one(network: Lowered) -> None:
    rounded, _ = network.simulated(spec())
    weights = rounded.quantized_weights()
    norms = {weight.names[0]: weight.norm for weight in rounded.weights}
    file = onnx.load(str(network.quantized(spec(), "network").path / ONNX_MODEL)).graph
    held = {each.name: numpy_helper.to_array(each) for each in file.initializer}
    folded = 0
    for name, norm in norms.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.weight.zero" not in held:
            continue  # a linear map
        scales = held[f"{stem}.weight.scale"].reshape(-1, 1, 1, 1)
        kernel = held[f"{stem}.weight.int8"] * scales
        factors = 1.0 if norm is None else folding_factors(norm).view(-1, 1, 1, 1).numpy()
        mine = weights[name].detach().numpy() * factors
        assert np.abs(mine - kernel).max() < 1e-3 * scales.min()
        folded += norm is not None
    assert folded == 4


def test_a_model_is_not_changed_by_being_simulated(network: Lowered) -> None:
    rounded, _ = network.simulated(spec())
    network.outputs(rounded.train())
    plain, model = load_model(network.source.path, allow_code=True), rounded.release()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert np.array_equal(network.outputs(model.eval()), network.outputs(plain))


TRAIN = {"epochs": 4, "learning_rate": 1e-3, "batch_size": 16}


def trained(lowered: Lowered, made: Int8Spec, folder: Path) -> tuple[Artifact, StepResult]:
    """The step on examples whose labels are the model's own answers, so that the score is how often it gives them."""
    ctx = context_of(lowered.kind, folder / "train", made, lowered.source)
    teacher = load_model(lowered.source.path, allow_code=True)

    def answered(examples: Examples) -> Examples:
        inputs = ctx.task.encode(examples, lowered.source.path)
        outputs = predict(teacher, inputs, precision="fp32", device="cpu")
        return replace(examples, labels=outputs.argmax(axis=1).astype(np.int64))

    data = replace(ctx.data, train=answered(ctx.data.train), validation=answered(ctx.data.validation))
    both = {"model": lowered.source, "teacher": lowered.source}
    return run(qat_step, replace(ctx, inputs=both, data=data))


def finished(lowered: Lowered, made: Int8Spec, source: Artifact, folder: Path) -> Lowered:
    """The trained model, lowered; its integer file is checked to multiply integers alone."""
    made = made.model_copy(update={"train": None})
    after = Lowered(lowered.kind, source, folder / "after")
    facts = after.quantized(made, "eight").facts
    assert facts["float_matmuls"] == 0
    assert facts["integer_matmuls"] > 0
    assert facts["quantization_aware"] == source.facts["quantization_aware"]
    return after


@pytest.mark.slow
def test_a_text_model_learns_to_be_rounded(text: Lowered, tmp_path: Path) -> None:
    made = spec(scheme="dynamic", per_channel=False, embeddings=4, train=TRAIN)
    artifact, result = trained(text, made, tmp_path)
    assert result.form == text.source.form
    (curve,) = result.curves
    assert curve.name == "train"
    # How far the rounded model's answers are from the float model's.
    losses = [point.train_loss for point in curve.points if point.train_loss is not None]
    assert losses[-1] < 0.5 * losses[0]
    facts = result.facts["quantization_aware"]
    assert facts["validation_score_float"] == 1
    assert facts["validation_score"] >= facts["validation_score_before"]
    finished(text, made, artifact, tmp_path)


@pytest.mark.parametrize("kind", ["text", "network"])
def test_rounding_is_learned_by_any_losses(
    kind: str, text: Lowered, network: Lowered, tmp_path: Path
) -> None:
    lowered, inner = (text, "attention") if kind == "text" else (network, "hidden")
    losses = [{"logits": {}}, {"labels": {"weight": 0.1}}, {inner: {}}, {"similarity": "matrix"}]
    artifact, result = trained(lowered, spec(train={**TRAIN, "losses": losses}), tmp_path)
    (curve,) = result.curves
    found = [point.train_loss for point in curve.points if point.train_loss is not None]
    assert found[-1] < found[0]
    # Nothing that the losses have learned beside the model is left in it.
    before, after = (
        load_model(each.path, allow_code=True).state_dict() for each in (lowered.source, artifact)
    )
    assert list(before) == list(after)


def test_weights_that_training_made_worse_are_not_kept(network: Lowered, tmp_path: Path) -> None:
    made = spec(train={"epochs": 0.1, "learning_rate": 1.0})
    artifact, result = trained(network, made, tmp_path)
    facts = result.facts["quantization_aware"]
    assert facts["kept"] == "untrained"
    assert facts["validation_score_trained"] < facts["validation_score_before"] == facts["validation_score"]
    before, after = (
        load_model(each.path, allow_code=True).state_dict() for each in (network.source, artifact)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_network_learns_to_be_rounded(network: Lowered, tmp_path: Path) -> None:
    made = spec(train={**TRAIN, "epochs": 1, "learning_rate": 1e-5})
    artifact, result = trained(network, made, tmp_path)
    before, after = (
        load_model(each.path, allow_code=True).state_dict() for each in (network.source, artifact)
    )
    assert list(before) == list(after)
    assert result.facts["quantization_aware"]["kept"] == "trained"
    # Norms keep their statistics, and all the rest learns.
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "running_" in name or "num_batches" in name}
    assert result.facts["quantization_aware"]["ranges"] == "running"
    finished(network, made, artifact, tmp_path)


def test_a_pattern_that_fits_nothing_is_refused(text: Lowered) -> None:
    with pytest.raises(ModelError, match="no layer of the model matches the pattern 'nobody'"):
        text.simulate(load_model(text.source.path), spec(exclude=["nobody"]))


def test_a_weight_that_is_no_parameter_is_named(text: Lowered) -> None:
    model = load_model(text.source.path)
    with torch.no_grad():
        model.get_submodule("bert.pooler.dense").weight.add_(1)
    _, facts = text.simulate(model, spec())
    assert (facts["weights"], facts["not_simulated"]) == (6, ["bert.pooler.dense"])


def test_the_scales_of_blocks_of_an_encoder_are_trained(text: Lowered, tmp_path: Path) -> None:
    made = WeightOnlySpec.model_validate({"bits": 4, "method": "hqq", "train": {"epochs": 1}})
    plain = made.model_copy(update={"train": None})
    blocks = run(quantize, context_of("text", tmp_path / "blocks", plain, text.artifact))[0]
    ctx = context_of("text", tmp_path / "scales", made, blocks)
    inputs = {"model": blocks, "float": text.source, "lowered": text.artifact, "teacher": text.source}
    result = run(scales_step, replace(ctx, inputs=inputs))[1]
    # Queries, keys and values lie side by side in the file.
    assert result.facts["trained_scales"]["weights"] == 8
