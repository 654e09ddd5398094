"""Decoders with weights in blocks: a session computes what the integers in the file say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from compress.core.errors import ModelError
from compress.encoding.inputs import Batch
from compress.passes.quantize.calibration.activation_capture import empty_past, model_feeds
from compress.passes.quantize.layers import weighted_layers
from compress.passes.quantize.scale_folding import average_tied, scale_channels, source_groups, tied_channels
from compress.passes.quantize.weight_only import matmul_nbits
from compress.passes.quantize.weight_only.gptq import gptq_blocks
from compress.passes.quantize.weight_only.hessian import moments_of, second_moment
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.runtimes.decoding import Decoder, generate
from compress.runtimes.runner import CachedSession, open_session
from tests.tiny_decoders import WORDS, lowered_decoder, tiny_decoder

TIED = "llama, tied with biases"
FAMILIES = ["llama", "gpt2"]
TOKENS = 24


@pytest.fixture(scope="module", params=FAMILIES)
def lowered(request, tmp_path_factory) -> Path:
    return lowered_decoder(tiny_decoder(request.param), tmp_path_factory.mktemp("lowered"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    return lowered_decoder(tiny_decoder(TIED), tmp_path_factory.mktemp("tied"))


def batch_of(ids: np.ndarray) -> Batch:
    return {
        "input_ids": ids[None],
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "logit_positions": np.arange(len(ids))[None],
    }


def batches() -> Iterator[Batch]:
    """As a task gives them: which logits are wanted is not said, and what a scorer needs stands beside."""
    rng = np.random.default_rng(5)
    for _ in range(8):
        batch = batch_of(rng.integers(3, WORDS, TOKENS))
        del batch["logit_positions"]
        yield batch | {"beside.learnt": np.ones((1, TOKENS), np.int64)}


def quantized(path: Path, folder: Path, **spec: object) -> Path:
    model = ir.load(path)
    quantize_weights(model, path, WeightOnlySpec(**spec), batches, folder)
    ir.save(model, folder / "quantized.onnx")
    return folder / "quantized.onnx"


UNSEEN = batch_of(np.random.default_rng(9).integers(3, WORDS, TOKENS))
"""Tokens that no method learns from."""


def logits(path: Path) -> np.ndarray:
    """(tokens, words)."""
    session = open_session(str(path))
    return session.run(["logits"], UNSEEN | empty_past(session.get_inputs(), 1))[0][0]


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    return (
        packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    )


def floats_of(path: Path) -> dict[str, np.ndarray]:
    """The weights (inputs, outputs) of a file's products in blocks, by their names, worked out from its bytes."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        rows, bits = given["N"], given["bits"]
        values = unpacked(arrays[node.input[1]], bits).astype(np.float32)
        assert values.shape[2] == given["block_size"]
        scales = arrays[node.input[2]].reshape(rows, -1)
        zeros = np.full(scales.shape, 2 ** (bits - 1), np.float32)
        if len(node.input) > 3:
            zeros = unpacked(arrays[node.input[3]].reshape(rows, -1), bits)[:, : scales.shape[1]]
        restored = (values - zeros[..., None]) * scales[..., None]
        found[node.name] = restored.reshape(rows, -1)[:, : given["K"]].T.copy()
    return found


def dequantized(path: Path) -> Path:
    """The file with products by those weights in floats."""
    model, floats = onnx.load(path), floats_of(path)
    for place, node in enumerate(model.graph.node):
        if node.name in floats:
            name = f"{node.name}.floats"
            model.graph.initializer.append(numpy_helper.from_array(floats[node.name], name))
            product = helper.make_node("MatMul", [node.input[0], name], node.output, name=node.name)
            model.graph.node[place].CopyFrom(product)
    onnx.save(model, path.with_name("dequantized.onnx"))
    return path.with_name("dequantized.onnx")


def rounded_in_blocks(x: np.ndarray, size: int) -> np.ndarray:
    """Rows (n, width) as the kernels see them at accuracy level 4: rounded to 8 bits around zero, in blocks that are as
    long as the weight's."""
    filled = np.zeros((len(x), -(-x.shape[1] // size) * size), np.float32)
    filled[:, : x.shape[1]] = x
    cut = filled.reshape(len(x), -1, size)
    largest = np.abs(cut).max(axis=2, keepdims=True)
    inverse = np.where(largest > 0, 127 / np.maximum(largest, 1e-30), 0).astype(np.float32)
    return (np.rint(cut * inverse) * (largest / 127)).reshape(len(x), -1)[:, : x.shape[1]]


def products_of(path: Path, batch: Batch = UNSEEN) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each product in blocks read and made in a session, (tokens, width) each."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    names = list(dict.fromkeys(name for node in nodes for name in (node.input[0], node.output[0])))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    onnx.save(model, path.with_name("watched.onnx"))
    session = open_session(str(path.with_name("watched.onnx")))
    found = dict(zip(names, session.run(names, model_feeds(session.get_inputs(), batch)), strict=True))

    def rows(name: str) -> np.ndarray:
        return found[name].reshape(-1, found[name].shape[-1])

    return {node.name: (rows(node.input[0]), rows(node.output[0])) for node in nodes}


CASES = [
    (4, 32, True, 4),
    (4, 16, False, 4),
    (4, 64, False, 8),
    (8, 32, True, 8),
    (8, 16, False, 8),
    (4, 128, True, 4),
]


def spec_of(case: tuple[int, int, bool, int]) -> dict[str, object]:
    return dict(zip(("bits", "block_size", "symmetric", "embeddings"), case, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_dequantized_weights(lowered, tmp_path, monkeypatch, case):
    monkeypatch.setattr(matmul_nbits, "ACCURACY_LEVEL", 0)
    path = quantized(lowered, tmp_path, method="rtn", **spec_of(case))
    wanted = logits(dequantized(path))
    assert np.abs(logits(path) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert np.abs(logits(lowered) - wanted).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("case", CASES)
def test_products_round_what_they_read_to_bytes(lowered, tmp_path, case):
    path = quantized(lowered, tmp_path, method="rtn", **spec_of(case))
    sizes = {
        node.name: next(one.i for one in node.attribute if one.name == "block_size")
        for node in onnx.load(path).graph.node
        if node.op_type == "MatMulNBits"
    }
    floats = floats_of(path)
    assert len(floats) == len(
        [node for node in onnx.load(lowered).graph.node if node.op_type in ("MatMul", "Gemm")]
    )
    # A prompt, and a single token: they have kernels of their own.
    for batch in (UNSEEN, batch_of(UNSEEN["input_ids"][0, :1])):
        seen = products_of(path, batch)
        assert floats.keys() == seen.keys() == sizes.keys()
        for name, (read, made) in seen.items():
            wanted = rounded_in_blocks(read, sizes[name]) @ floats[name]
            assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max()
            assert np.abs(made - read @ floats[name]).max() > 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("case", CASES)
def test_a_tied_head_and_its_table_are_one_constant(tied, tmp_path, case):
    path = quantized(tied, tmp_path, method="gptq", **spec_of(case))
    graph = onnx.load(path).graph
    made = {node.op_type: node for node in graph.node}
    head = next(node for node in graph.node if node.name == "head")
    assert made["GatherBlockQuantized"].input[0] == head.input[1]
    constants = [tensor.name for tensor in graph.initializer if tensor.name.startswith("words.int")]
    assert constants == [head.input[1]]
    model = onnx.load(path)
    read = next(node.input[0] for node in graph.node if node.op_type == "RMSNormalization")
    model.graph.output.append(onnx.ValueInfoProto(name=read))
    onnx.save(model, tmp_path / "rows.onnx")
    session = open_session(str(tmp_path / "rows.onnx"))
    rows = session.run([read], UNSEEN | empty_past(session.get_inputs(), 1))[0]
    np.testing.assert_array_equal(rows, floats_of(path)["head"].T[UNSEEN["input_ids"]])


def test_feedback_is_of_inputs_that_went_through_quantized_layers(tied, tmp_path):
    path = quantized(tied, tmp_path, method="gptq", block_size=16)
    floats = {layer.node.name: layer for layer in weighted_layers(ir.load(tied).graph)}
    learnt = [products_of(path, batch) for batch in batches()]
    for name in ("layers.0.gate_feed_in", "layers.2.query_key_value", "layers.2.feed_out"):
        rows, source = floats[name].weight.T, floats[name].source.name
        seen = second_moment([one[name][0] for one in learnt])
        without = moments_of(tied, [source], batches, tmp_path)[source].second
        unlike = [
            int((gptq_blocks(rows, second, 16, 4, True).dequantized() != floats_of(path)[name].T).sum())
            for second in (seen, without)
        ]
        # The last bits of what a session computes depend on which values it gives, and roundings on them.
        assert unlike[0] < 0.2 * unlike[1]


def test_named_layers_keep_eight_bits(tied, tmp_path):
    path = quantized(tied, tmp_path, method="hqq", eight_bits=["*.feed_out", "words"])
    bits = {
        node.name: next(one.i for one in node.attribute if one.name == "bits")
        for node in onnx.load(path).graph.node
        if any(one.name == "bits" for one in node.attribute)
    }
    assert {name for name, width in bits.items() if width == 8} == {
        "words", "head", *(f"layers.{layer}.feed_out" for layer in range(3))
    }  # fmt: skip
    assert set(bits.values()) == {4, 8}


def test_a_pattern_that_fits_nothing_is_told(tied, tmp_path):
    with pytest.raises(ModelError, match=r"no layer of the model matches the pattern '\*.feed'") as caught:
        quantized(tied, tmp_path, method="rtn", eight_bits=["*.feed"])
    assert caught.value.where == "quantize.eight_bits"


def test_a_quantized_decoder_generates(tied, tmp_path):
    path = quantized(tied, tmp_path, method="rtn", bits=8, block_size=16)
    found = [
        generate(Decoder(CachedSession(open_session(str(file))), 40), [[5, 6, 7], [9]], 12)
        for file in (tied, path)
    ]
    assert [row[:3] for row in found[0]] == [row[:3] for row in found[1]]


@pytest.mark.parametrize("name", [TIED, "gpt2", "gemma3", "qwen3", "phi3"])
def test_scales_move_into_norms_values_and_gates(name, tmp_path):
    path = lowered_decoder(tiny_decoder(name), tmp_path)
    wanted, model = logits(path), ir.load(path)
    rng, left = np.random.default_rng(0), []
    for group in source_groups(list(weighted_layers(model.graph))):
        factors = np.exp(rng.normal(size=group.layers[0].shape[0])).astype(np.float32)
        ties = tied_channels(group)
        if not scale_channels(model.graph, group, factors if ties is None else average_tied(factors, ties)):
            left.append(group.layers[0].node.op_type)
    ir.save(model, tmp_path / "scaled.onnx")
    got = logits(tmp_path / "scaled.onnx")
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    # What comes out of an activation cannot be scaled before it, and tokens are picked before a head of its own.
    assert left == {"gpt2": ["MatMul"] * 3, "qwen3": ["Gemm"], "phi3": ["Gemm"]}.get(name, [])


def test_scales_that_heads_do_not_share_stay_outside(tied, tmp_path):
    wanted, model = logits(tied), ir.load(tied)
    group = next(
        one for one in source_groups(list(weighted_layers(model.graph))) if tied_channels(one) is not None
    )
    factors = np.exp(np.random.default_rng(0).normal(size=group.layers[0].shape[0])).astype(np.float32)
    assert not scale_channels(model.graph, group, factors)
    ir.save(model, tmp_path / "scaled.onnx")
    assert np.abs(logits(tmp_path / "scaled.onnx") - wanted).max() <= 1e-4 * np.abs(wanted).max()
