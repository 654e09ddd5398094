"""Decoders whose keys and values are kept in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compress.core.errors import ModelError
from compress.lowering.graph import constant_of
from compress.passes.quantize.calibration.activation_capture import model_feeds
from compress.passes.quantize.kv_cache import quantize_kv_cache
from compress.runtimes.decoding import Decoder, generate
from compress.runtimes.runner import CachedSession, open_session
from tests.tiny_decoders import lowered_decoder, tiny_decoder
from tests.unit.test_decoder_quantization import UNSEEN, batches, logits, quantized

FAMILIES = ["llama, tied with biases", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "gpt_neox"]


@pytest.fixture(scope="module", params=FAMILIES)
def files(request, tmp_path_factory) -> tuple[Path, Path]:
    """The float file, and the same with a cache in 8 bits."""
    folder = tmp_path_factory.mktemp("cache")
    lowered = lowered_decoder(tiny_decoder(request.param), folder)
    model = ir.load(lowered)
    quantize_kv_cache(model, batches, folder)
    ir.save(model, folder / "cache.onnx")
    return lowered, folder / "cache.onnx"


def test_it_answers_nearly_as_before(files: tuple[Path, Path]):
    whole, stored = (logits(file) for file in files)
    assert np.abs(stored - whole).max() > 0
    assert np.corrcoef(stored.ravel(), whole.ravel())[0, 1] > 0.98


def test_token_by_token_is_as_all_at_once(files: tuple[Path, Path]):
    session = CachedSession(open_session(str(files[1])))
    decoder, ids = Decoder(session, 64), UNSEEN["input_ids"][0].tolist()
    assert {array.dtype for array in session.allocate_cache(1, 64)} == {np.dtype(np.int8)}
    rows = [decoder.start([ids[:5]])[0], *(decoder.append_tokens([[token]])[0] for token in ids[5:])]
    expected = logits(files[1])[4:]
    np.testing.assert_allclose(np.stack(rows), expected, rtol=0, atol=0.1 * np.abs(expected).max())
    assert np.corrcoef(np.stack(rows).ravel(), expected.ravel())[0, 1] > 0.995


def test_prompts_of_unlike_lengths_are_answered_as_alone(files: tuple[Path, Path]):
    session = CachedSession(open_session(str(files[1])))
    ids = UNSEEN["input_ids"][0].tolist()
    prompts = [ids[:3], ids[3:12], ids[12:14]]
    together = generate(Decoder(session, 48), prompts, 12)
    assert together == [generate(Decoder(session, 48), [prompt], 12)[0] for prompt in prompts]


def test_a_model_without_a_cache_is_refused(tmp_path: Path):
    model = ir.Model(ir.Graph([], [], nodes=[], name="empty"), ir_version=10)
    with pytest.raises(ModelError, match="has no key-value cache"):
        quantize_kv_cache(model, batches, tmp_path)


def test_scales_are_of_the_values_that_the_file_keeps(tmp_path: Path):
    """`awq` moves scales into the values: those of the float model are others."""
    folder = tmp_path / "awq"
    folder.mkdir()
    path = quantized(lowered_decoder(tiny_decoder("llama"), tmp_path), folder, method="awq", bits=8)
    session = open_session(str(path))
    names = [value.name for value in session.get_outputs() if value.name.endswith("value")]
    largest = dict.fromkeys(names, 0.0)
    for batch in batches():
        found = session.run(names, model_feeds(session.get_inputs(), batch))
        for name, values in zip(names, found, strict=True):
            largest[name] = np.maximum(largest[name], np.abs(values).max(axis=(0, 2), keepdims=True))
    model = ir.load(path)
    quantize_kv_cache(model, batches, tmp_path)
    for name in names:
        np.testing.assert_allclose(
            constant_of(model.graph.initializers[f"{name}.scale"]), largest[name] / 127, 1e-4
        )
