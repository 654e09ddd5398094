"""Weights of bitsandbytes: packed, saved, read back in a fresh process, and never lowered to ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from compress.core.artifacts import BITSANDBYTES, TORCH_WEIGHTS, Artifact
from compress.core.errors import ModelError, ProfileError
from compress.core.forms import NumberFormat, Structure
from compress.data.splits import Examples
from compress.models.io.checkpoints import load_model, save_model
from compress.models.io.ensemble import Ensemble
from compress.models.io.low_bit import LowBit, linear_layers, pack_layers, replace_layers, unpack_layers
from compress.models.io.weights import read_weights, write_weights
from compress.passes.quantize.bitsandbytes import step as bitsandbytes_step
from compress.passes.quantize.bitsandbytes.spec import BitsandbytesSpec
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
from compress.step import StepResult
from compress.tasks.base import TrainingData
from tests.processes import outputs_in_a_fresh_process
from tests.steps import context, run
from tests.tiny import LABELS, text_task, tiny_bert, write_torch_artifact
from tests.tiny_decoders import tiny_decoder

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 10, 3, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}
WAYS = (
    {"bits": 8},
    {"bits": 4},
    {"bits": 4, "double_quantization": False},
    {"bits": 4, "numbers": "fp4"},
)


def spec_of(**keys: Any) -> BitsandbytesSpec:
    return BitsandbytesSpec.model_validate({"library": "bitsandbytes", **keys})


def quantize(source: Artifact, folder: Path, spec: BitsandbytesSpec) -> tuple[Artifact, StepResult]:
    examples = Examples(("red cat",), np.zeros(1, np.int64))
    data = TrainingData(examples, examples, LABELS)
    return run(bitsandbytes_step, context(folder, spec, {"model": source}, text_task(32), data))


def outputs(model: nn.Module) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(model(**INPUTS).logits.numpy())


def wide_bert() -> nn.Module:
    """Wide enough for the kernels of 4-bit layers on CPUs with AVX512-BF16."""
    return tiny_bert(hidden=64, ffn=128)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_torch_artifact(tmp_path_factory.mktemp("float") / "m", wide_bert())


@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_what_is_reloaded_is_what_was_in_memory(source: Artifact, tmp_path: Path, keys: dict[str, Any]):
    after, result = quantize(source, tmp_path, spec_of(**keys))
    weights = read_weights(source.path)
    model = load_model(source.path)
    low_bit = LowBit(
        spec_of(**keys).stored_as, spec_of(**keys).double_quantization, tuple(linear_layers(model, weights))
    )
    packed = pack_layers(weights, low_bit)
    in_memory = load_model(source.path)
    replace_layers(in_memory, unpack_layers(in_memory, packed, after.path))
    wanted = outputs(in_memory)
    np.testing.assert_array_equal(outputs_in_a_fresh_process(after.path, **INPUTS), wanted)
    float_outputs = outputs(model)
    assert 0 < np.abs(wanted - float_outputs).max() < (0.05 if keys["bits"] == 8 else 0.5)
    assert result.form.numbers is NumberFormat.BITSANDBYTES
    assert (result.facts["packed_layers"], result.facts["float_layers"]) == (14, 0)
    assert after.size_mb < (0.5 if keys["bits"] == 8 else 0.4) * source.size_mb


@pytest.mark.parametrize("name", ["llama", "llama, tied with biases", "gemma3"])
def test_the_layers_of_a_decoder_are_packed(tmp_path: Path, name: str):
    """The table of words stays as it is, and with it a head that is tied to it."""
    model = tiny_decoder(name)
    source = write_torch_artifact(tmp_path / "m", model)
    after, result = quantize(source, tmp_path / "packed", spec_of(bits=4))
    packed = load_model(after.path)
    assert result.facts["packed_layers"] == 3 * 7 + (not model.config.tie_word_embeddings)
    assert after.size_mb < 0.6 * source.size_mb
    for path, weight in model.named_parameters():
        if weight.ndim < 2 or "embed" in path:
            torch.testing.assert_close(dict(packed.named_parameters())[path], weight, rtol=0, atol=0)
    # With random weights little of the errors averages out.
    assert 0.6 < np.corrcoef(outputs(packed).ravel(), outputs(model).ravel())[0, 1] < 0.9999


def test_a_forward_pass_changes_no_file(source: Artifact, tmp_path: Path):
    """A 4-bit layer lays its weight out anew when it first runs; nothing is saved from memory, so nothing is lost."""
    after, _ = quantize(source, tmp_path, spec_of(bits=4, double_quantization=False))
    first = outputs(load_model(after.path))
    model = load_model(after.path)
    outputs(model)
    np.testing.assert_array_equal(outputs(model), first)
    np.testing.assert_array_equal(outputs(load_model(after.path)), first)


def test_four_bit_weights_are_near_the_float_ones(source: Artifact):
    weights = read_weights(source.path)
    name = "bert.encoder.layer.0.intermediate.dense"
    low_bit = LowBit("nf4", double_quantization=True, layers=(name,))
    model = load_model(source.path)
    (layer,) = _rebuilt(model, pack_layers(weights, low_bit), low_bit).values()
    restored = dequantize_4bit(layer.weight.data, layer.weight.quant_state).numpy()
    wanted = weights[f"{name}.weight"].numpy()
    # The widest gap between the codes of NF4 is 0.304 of a block's largest value.
    assert np.abs(restored - wanted).max() < 0.16 * np.abs(wanted).max()


def _rebuilt(model: nn.Module, packed: dict[str, torch.Tensor], low_bit: LowBit) -> dict[str, Any]:
    import tempfile

    from compress.models.io.low_bit import write_low_bit

    with tempfile.TemporaryDirectory() as name:
        write_low_bit(low_bit, Path(name))
        return unpack_layers(model, packed, Path(name))


def test_pruned_shapes_that_the_fast_kernel_cannot_take(tmp_path: Path):
    model = wide_bert()
    dense = model.bert.encoder.layer[0].intermediate.dense
    dense.weight = nn.Parameter(dense.weight[:40].clone())
    dense.bias = nn.Parameter(dense.bias[:40].clone())
    dense.out_features = 40
    after = model.bert.encoder.layer[0].output.dense
    after.weight = nn.Parameter(after.weight[:, :40].clone())
    after.in_features = 40
    source = write_torch_artifact(tmp_path / "m", model)
    assert source.form.structure is Structure.PRUNED
    packed, _ = quantize(source, tmp_path, spec_of(bits=4))
    assert np.abs(outputs(load_model(packed.path)) - outputs(load_model(source.path))).max() < 0.5


def test_excluded_layers_stay_floating(source: Artifact, tmp_path: Path):
    after, result = quantize(source, tmp_path, spec_of(exclude=("classifier", "*.pooler.*")))
    assert (result.facts["packed_layers"], result.facts["float_layers"]) == (12, 2)
    assert read_weights(after.path)["classifier.weight"].dtype is torch.float32
    assert read_weights(after.path)["bert.encoder.layer.0.output.dense.weight"].dtype is torch.int8


def test_a_pattern_that_fits_nothing_names_the_layers(source: Artifact, tmp_path: Path):
    with pytest.raises(ModelError, match="no linear layer of the model matches the pattern 'head'") as caught:
        quantize(source, tmp_path, spec_of(exclude=("head",)))
    assert "bert.pooler.dense, classifier" in str(caught.value)


def test_an_average_of_several_models_is_refused_with_a_way_out(source: Artifact, tmp_path: Path):
    save_model(Ensemble([wide_bert(), wide_bert()]), tmp_path / "average")
    with pytest.raises(ModelError, match="an ensemble of several models has one for each") as caught:
        quantize(replace(source, path=tmp_path / "average"), tmp_path / "packed", spec_of())
    assert caught.value.hint == "Leave `library` out, or distil with `keep: last` or `keep: best`."


@pytest.mark.parametrize("keys", [{"bits": 8}, {"bits": 4}], ids=str)
def test_a_layer_that_lost_its_scales_is_refused(source: Artifact, tmp_path: Path, keys: dict[str, Any]):
    after, _ = quantize(source, tmp_path, spec_of(**keys))
    weights = read_weights(after.path)
    for name in [
        name for name in weights if name.startswith("classifier") and ("SCB" in name or "absmax" in name)
    ]:
        del weights[name]
    write_weights(weights, after.path / TORCH_WEIGHTS)
    with pytest.raises(ModelError, match="the layer 'classifier' cannot be rebuilt"):
        load_model(after.path)


def test_settings_of_another_version_are_refused(source: Artifact, tmp_path: Path):
    after, _ = quantize(source, tmp_path, spec_of(bits=4))
    file = after.path / BITSANDBYTES
    file.write_text(json.dumps({**json.loads(file.read_text()), "block_size": 128}))
    with pytest.raises(ModelError, match="are not supported"):
        load_model(after.path)


IN_ONNX = (
    "ONNX has no operator for bitsandbytes weights, which only its own kernels can read; "
    "for 4 bits in ONNX use `quantize: {bits: 4}` (MatMulNBits)"
)
PROFILE = """
name: packed
task: text-classification
data: {path: data.csv}
teacher: {model: m}
passes:
  - quantize: {bits: 4, library: bitsandbytes}
"""


def profile(tmp_path: Path, text: str) -> Path:
    (tmp_path / "data.csv").write_text("text,label\nred,colour\n")
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "profile.yaml").write_text(text)
    return tmp_path / "profile.yaml"


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        load_profile(profile(tmp_path, text))
    return [f"{fault.line}: {fault.path}: {fault.message}" for fault in caught.value.faults]


def test_an_export_is_refused_with_the_way_to_the_same_bits(tmp_path: Path):
    text = PROFILE + "  - export: {formats: [onnx]}\ntargets: [{runtime: torch}]\n"
    assert faults(tmp_path, text) == [
        f"8: passes.1.export: passes.0.quantize gives a model that cannot become ONNX: {IN_ONNX}"
    ]


@pytest.mark.parametrize("target", ["{runtime: onnxruntime}", "{threads: 2}"])
def test_a_target_that_runs_onnx_is_refused(tmp_path: Path, target: str):
    assert faults(tmp_path, PROFILE + f"targets:\n  - {{runtime: torch}}\n  - {target}\n") == [
        f"10: targets.1.runtime: onnxruntime cannot run the model that passes.0.quantize gives: {IN_ONNX}"
    ]


def test_the_default_target_is_refused(tmp_path: Path):
    assert faults(tmp_path, PROFILE) == [
        f"7: passes.0.quantize.library: needs a target with `runtime: torch`: {IN_ONNX}"
    ]


def test_keys_that_serve_the_other_library_are_refused(tmp_path: Path):
    (fault,) = faults(
        tmp_path,
        PROFILE.replace("bitsandbytes}", "bitsandbytes, block_size: 64, method: hqq}")
        + "targets: [{runtime: torch}]\n",
    )
    assert "block_size and method serve ONNX only; this is `library: bitsandbytes`" in fault
    (fault,) = faults(tmp_path, PROFILE.replace("library: bitsandbytes", "numbers: fp4"))
    assert "numbers serves 16 bits and `library: bitsandbytes` only; this is `bits: 4`" in fault


def test_the_plan_takes_the_torch_model(tmp_path: Path):
    plan = build_plan(load_profile(profile(tmp_path, PROFILE + "targets: [{runtime: torch}]\n")).profile)
    step = plan.step("quantize")
    assert (step.kind, dict(step.inputs), str(step.form)) == (
        "quantize.bitsandbytes",
        {"model": "source"},
        "torch bitsandbytes",
    )
    assert all(step.kind != "lower" for step in plan.steps)
