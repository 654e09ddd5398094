"""A rotated decoder computes what it did, with other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compress.core.errors import ModelError
from compress.passes.quantize.calibration.activation_capture import empty_past
from compress.passes.quantize.weight_only.rotation import ROTATIONS, rotate
from compress.runtimes.runner import open_session
from tests.tiny_decoders import WORDS, lowered_decoder, tiny_decoder


def logits(path: Path) -> np.ndarray:
    session = open_session(str(path))
    places = np.arange(24)[None]
    feed = {
        "input_ids": np.random.default_rng(0).integers(3, WORDS, (1, 24)),
        "attention_mask": np.ones_like(places),
        "logit_positions": places,
    }
    return session.run(["logits"], feed | empty_past(session.get_inputs(), 1))[0]


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    """The constants that products multiply by, by the names of their nodes."""
    return {
        node.name: node.inputs[1].const_value.numpy()
        for node in model.graph
        if node.op_type in ("MatMul", "Gemm") and node.inputs[1].const_value is not None
    }


@pytest.mark.parametrize(
    "name", ["llama, tied with biases", "llama", "qwen3", "phi3", "gemma"]
)  # fmt: skip
def test_a_rotated_decoder_computes_what_it_did(name: str, tmp_path: Path):
    path = lowered_decoder(tiny_decoder(name), tmp_path)
    wanted = logits(path)
    rotated = ir.load(path)
    rotate(rotated.graph)
    ir.save(rotated, tmp_path / "rotated.onnx")
    got = logits(tmp_path / "rotated.onnx")
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    before, after = weights(ir.load(path)), weights(rotated)
    # Every product is another one; the words, and the head that may be tied to them, are as they were.
    assert before.keys() | set(ROTATIONS) == after.keys()
    for node, weight in before.items():
        assert np.array_equal(weight, after[node]) == (node == "head")
    assert all(np.allclose(after[name] @ after[name].T, np.eye(64), atol=1e-5) for name in ROTATIONS[:1])


@pytest.mark.parametrize(
    ("name", "why"),
    [("gpt2", "a Add reads"), ("gpt_neox", "a LayerNormalization reads"), ("gemma2", "is added to")],
)
def test_what_sees_a_rotation_is_refused(name: str, why: str, tmp_path: Path):
    graph = ir.load(lowered_decoder(tiny_decoder(name), tmp_path)).graph
    with pytest.raises(ModelError, match=why):
        rotate(graph)
