"""Scales of weights in blocks that are trained: the model that is trained is the file, and the integers stay."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from compress.core.artifacts import ONNX_MODEL, TASK, Artifact
from compress.core.errors import ModelError
from compress.lowering import step as lower
from compress.lowering.files import save_onnx
from compress.lowering.parity import onnx_predictor
from compress.models.io.checkpoints import load_model
from compress.passes.quantize import step as quantize
from compress.passes.quantize.weight_only import train
from compress.passes.quantize.weight_only.row_matching import match_rows
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.passes.quantize.weight_only.stored import multiply_scales, stored_blocks
from compress.step import StepContext
from tests import tiny_language
from tests.steps import context, run
from tests.tiny_decoders import lowered_decoder, tiny_decoder
from tests.tiny_families import text_batch, tiny_model
from tests.tiny_language import Taught
from tests.tiny_vision import tiny_vit, write_image_artifact
from tests.unit.test_decoder_quantization import UNSEEN, dequantized, logits, quantized

TIED = "llama, tied with biases"
WAYS = {
    TIED: {"embeddings": 8},
    "qwen3": {"bits": 8, "scheme": "weight_only", "symmetric": False},
    "gpt2": {"symmetric": False},
    "gpt_neox": {"block_size": 16},
    "phi3": {"block_size": 128, "embeddings": 4},
    "gemma3": {"symmetric": False, "embeddings": False},
}


@pytest.mark.parametrize("name", WAYS)
def test_the_trained_model_is_the_file(tmp_path: Path, name: str):
    """Whatever lies side by side or turned in the file, and whichever blocks are not full."""
    model = tiny_decoder(name)
    lowered = lowered_decoder(model, tmp_path)
    file = quantized(lowered, tmp_path, **{"bits": 4, "method": "rtn", "block_size": 32, **WAYS[name]})
    rows, graph = match_rows(model, ir.load(lowered).graph), ir.load(file)
    student = train.scaled_model(model, rows, stored_blocks(graph.graph))
    layers = model.config.num_hidden_layers
    assert len(student.weights) >= 4 * layers
    torch.manual_seed(1)
    for change in student.changes:
        nn.init.uniform_(change, -0.2, 0.2)
    before = stored_blocks(graph.graph)
    multiply_scales(graph.graph, train.trained_factors(student, rows))
    for node, stored in stored_blocks(graph.graph).items():
        np.testing.assert_array_equal(stored.blocks.values, before[node].blocks.values)
    ir.save(graph, file)
    with torch.no_grad():
        expected = student(input_ids=torch.from_numpy(UNSEEN["input_ids"])).logits[0].numpy()
    if not model.config.tie_word_embeddings:
        np.testing.assert_allclose(
            logits(dequantized(file)), expected, rtol=0, atol=2e-4 * np.abs(expected).max()
        )
    assert np.corrcoef(logits(file).ravel(), expected.ravel())[0, 1] > 0.95


def test_the_patches_of_images_are_those_of_the_file(tmp_path: Path):
    """They are a kernel in torch and a matrix in the file."""
    artifact = write_image_artifact(tmp_path / "torch", tiny_vit())
    model = load_model(artifact.path, attention="eager")
    lowered, _ = lower.lower(model, artifact.read_json(TASK))
    ir.save(lowered, tmp_path / ONNX_MODEL)
    file = quantized(tmp_path / ONNX_MODEL, tmp_path, method="rtn", block_size=16)
    rows, stored = match_rows(model, ir.load(tmp_path / ONNX_MODEL).graph), stored_blocks(ir.load(file).graph)
    student = train.scaled_model(model, rows, stored)
    name = next(name for name in stored if name.endswith("patch_embeddings.projection"))
    kernel = model.get_parameter(f"{name}.weight").detach().numpy()
    np.testing.assert_array_equal(kernel.reshape(len(kernel), -1), stored[name].blocks.dequantized())
    assert {f"{name}.weight", *(one.name for one in student.weights)} >= {
        f"{owner}.weight"
        for owner, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    assert name not in train.trained_factors(student, rows)
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)}
    with torch.no_grad():
        expected = student(pixel_values=torch.from_numpy(pixels["pixel_values"])).logits.numpy()
    given = onnx_predictor(dequantized(file))(pixels)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_scales_that_layers_share_are_trained_once(tmp_path: Path):
    """All layers of an ALBERT are one."""
    model = tiny_model("albert", num_hidden_layers=3)
    model.set_attn_implementation("eager")
    names = ("input_ids", "attention_mask", "token_type_ids")
    task = {"input_names": names, "output_names": ["logits"], "max_length": 16}
    lowered = lower.lower(model, task)[0]
    path = save_onnx(lowered, tmp_path)
    file = quantized(path, tmp_path, method="rtn", block_size=16)
    rows, graph = match_rows(model, ir.load(path).graph), ir.load(file)
    student = train.scaled_model(model, rows, stored_blocks(graph.graph))
    torch.manual_seed(1)
    for change in student.changes:
        nn.init.uniform_(change, -0.2, 0.2)
    multiply_scales(graph.graph, train.trained_factors(student, rows))
    ir.save(graph, file)
    batch = text_batch("albert", 1, 12, names)
    with torch.no_grad():
        expected = student(**batch).logits.numpy()
    given = onnx_predictor(dequantized(file))({name: values.numpy() for name, values in batch.items()})
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


def test_weights_of_another_model_are_refused(tmp_path: Path):
    model = tiny_decoder("llama")
    lowered = lowered_decoder(model, tmp_path)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 5] += 1
    with pytest.raises(
        ModelError, match=r"layers\.1\.gate_feed_in in the file does not match the torch model's"
    ):
        match_rows(model, ir.load(lowered).graph)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return tiny_language.taught(tmp_path_factory.mktemp("language"))


def test_training_makes_up_for_rounding(tmp_path: Path, taught: Taught):
    source, task, data = taught
    spec = WeightOnlySpec.model_validate(
        {
            "bits": 4,
            "method": "rtn",
            "block_size": 64,
            "embeddings": 8,
            "train": {"epochs": 6, "learning_rate": 5e-3},
        }
    )

    def ctx(name: str, spec: WeightOnlySpec, **inputs: Artifact) -> StepContext:
        return context(tmp_path / name, spec, inputs, task, data)

    lowered, _ = run(lower, ctx("lower", spec, model=source))
    plain = spec.model_copy(update={"train": None})
    blocks, _ = run(quantize, ctx("blocks", plain, model=lowered))
    # Four bits cost so small a model nothing; scales that are wrong do.
    spoilt, folder = ir.load(blocks.path / ONNX_MODEL), tmp_path / "spoilt"
    drawn = np.random.default_rng(0)
    for node, stored in stored_blocks(spoilt.graph).items():
        if not stored.is_lookup:
            factors = drawn.uniform(0.6, 1.4, stored.blocks.scales.shape)
            multiply_scales(spoilt.graph, {node: factors.astype(np.float32)})
    shutil.copytree(blocks.path, folder)
    ir.save(spoilt, folder / ONNX_MODEL)
    blocks = replace(blocks, path=folder)
    inputs = {"model": blocks, "float": source, "lowered": lowered, "teacher": source}
    made, result = run(train, ctx("scales", spec, **inputs))
    facts = result.facts["trained_scales"]
    assert facts["kept"] == "trained"
    assert facts["weights"] == 2 * 7
    # The score is minus the perplexity.
    assert facts["validation_score_trained"] > facts["validation_score_before"]
    before, after = (stored_blocks(ir.load(one.path / ONNX_MODEL).graph) for one in (blocks, made))
    for node, stored in after.items():
        np.testing.assert_array_equal(stored.blocks.values, before[node].blocks.values)
        moved = np.abs(stored.blocks.scales / before[node].blocks.scales - 1).max()
        assert moved == 0 if stored.is_lookup else 1e-2 < moved < 0.5
    ids = {"input_ids": torch.from_numpy(task.encode(data.validation, source.path).batch([0])["input_ids"])}
    with torch.no_grad():
        wanted = load_model(source.path)(**ids).logits[0].log_softmax(-1).numpy()

    def distance(folder: Path) -> float:
        given = onnx_predictor(folder / ONNX_MODEL)(
            {"input_ids": ids["input_ids"].numpy(), "attention_mask": np.ones((1, 32), np.int64)}
        )
        return task.divergence(wanted[None], given)

    assert distance(made.path) < 0.8 * distance(blocks.path)
