"""A rotated decoder computes what it did, with other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compress.core.errors import ModelError
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.passes.quantize.calibration.activation_capture import empty_past
from compress.passes.quantize.weight_only.rotation import rotate
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


@pytest.mark.parametrize(
    "name", ["llama, tied with biases", "llama", "qwen3", "phi3", "gemma"]
)  # fmt: skip
def test_a_rotated_decoder_computes_what_it_did(name: str, tmp_path: Path):
    model = tiny_decoder(name)
    wanted = logits(lowered_decoder(model, tmp_path))
    before = model.state_dict()
    layout, after = rotate(layout_of(model.config), before)
    ir.save(decoder_graph(layout, after), tmp_path / "rotated.onnx")
    got = logits(tmp_path / "rotated.onnx")
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert not layout.tied
    norm = "model.layers.1.input_layernorm.weight"
    assert np.ptp(after[norm].numpy()) == 0 < np.ptp(before[norm].numpy())
    words = "model.embed_tokens.weight"
    assert np.abs((after[words] - before[words]).numpy()).max() > 0.05


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_norms_that_see_a_rotation_are_refused(name: str):
    model = tiny_decoder(name)
    with pytest.raises(ModelError, match="RMS norms before attention and feed-forward alone"):
        rotate(layout_of(model.config), model.state_dict())
