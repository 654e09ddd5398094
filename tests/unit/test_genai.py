"""A language model for onnxruntime-genai: a second graph on the same weights, which says the same there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer

from compress.lowering.decoder.layout import layout_of
from compress.lowering.genai import genai_config, write_genai
from compress.lowering.genai_tokenizer import why_not_genai
from compress.lowering.shared_weights import MIN_SHARED_BYTES, raw_data_spans
from compress.models.text.tokenization import PROBE_TEXTS
from compress.passes.quantize.kv_cache import quantize_kv_cache
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.runtimes.decoding import Decoder, generate
from compress.runtimes.runner import CachedSession, open_session
from tests.tiny_decoders import CONFIGS, lowered_decoder, tiny_decoder
from tests.unit.test_decoder_quantization import batches
from tests.unit.test_gguf import BYTES, LLAMA_3, TASK, changed, letters
from tests.unit.test_low_rank_decoders import factored

WORDS, NEW = 266, 40
FAST = ["llama, tied with biases", "gpt2"]
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in CONFIGS]


def written(
    folder: Path, name: str, *, quantized: bool = False, cache: bool = False, share: float | None = None
) -> Path:
    """The files of a bundle that genai reads; token 0 ends an answer. `share`: of the ranks of its factored maps."""
    model = tiny_decoder(name, vocab_size=WORDS)
    if share is not None:
        factored(model, share)
    path = lowered_decoder(model, folder)
    if quantized:
        graph = ir.load(path)
        quantize_weights(graph, path, WeightOnlySpec(method="rtn"), lambda: iter(()), folder)
        ir.save(graph, path)
    if cache:
        graph = ir.load(path)
        quantize_kv_cache(graph, batches, folder)
        ir.save(graph, path)
    (folder / "tokenizer.json").write_text(json.dumps(BYTES))
    write_genai(folder, layout_of(model.config).sizes, BYTES, {**TASK, "words": WORDS, "end_id": 0})
    return folder


def prompt_of(length: int) -> list[int]:
    return np.random.default_rng(1).integers(3, WORDS, length).tolist()


def test_an_answer_has_as_many_ends_as_the_model(tmp_path: Path):
    folder = written(tmp_path, FAST[0])
    said = json.loads((folder / "genai_config.json").read_text())
    assert said["model"]["eos_token_id"] == 0
    graph = onnx.load(folder / "genai.onnx", load_external_data=False).graph
    sizes = layout_of(tiny_decoder(FAST[0]).config).sizes
    for ends, wanted in (([0, 5], [0, 5]), ([5], 5), ([], TASK["pad_id"])):
        found = genai_config(graph, sizes, BYTES, {**TASK, "words": WORDS, "end_ids": ends})
        assert found["model"]["eos_token_id"] == wanted


@pytest.mark.parametrize("quantized", [False, True])
def test_weights_lie_in_the_file_once(quantized: bool, tmp_path: Path):
    folder = written(tmp_path, FAST[0], quantized=quantized)
    whole, shared = folder / "model.onnx", folder / "genai.onnx"
    assert shared.stat().st_size < 0.3 * whole.stat().st_size
    content, places = whole.read_bytes(), raw_data_spans(whole)
    for tensor in onnx.load(whole).graph.initializer:
        offset, length = places[tensor.name]
        assert content[offset : offset + length] == tensor.raw_data
    outside = list(onnx.load(shared, load_external_data=False).graph.initializer)
    assert sum(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in outside) > 10
    assert all(len(tensor.raw_data) < MIN_SHARED_BYTES for tensor in outside)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_token_of_each_row_is_answered(name: str, tmp_path: Path):
    folder = written(tmp_path, name)
    first, second = (open_session(str(folder / file)) for file in ("model.onnx", "genai.onnx"))
    assert "logit_positions" not in [node.name for node in second.get_inputs()]
    lengths = np.array([7, 4])
    ids = np.array([prompt_of(7), [*prompt_of(4), 0, 0, 0]])
    feed = {"input_ids": ids, "attention_mask": (np.arange(7) < lengths[:, None]).astype(np.int64)}
    past = {
        node.name: np.zeros((2, node.shape[1], 0, node.shape[3]), np.float32)
        for node in second.get_inputs()[2:]
    }
    wanted, *cache = first.run(None, {**feed, **past, "logit_positions": lengths[:, None] - 1})
    found, *own = second.run(None, {**feed, **past})
    assert found.shape == (2, 1, WORDS)
    assert np.allclose(found, wanted, atol=1e-5)
    feed = {
        "input_ids": np.array([[5], [6]]),
        "attention_mask": np.concatenate([feed["attention_mask"], np.ones((2, 1), np.int64)], 1),
    }
    wanted = first.run(
        ["logits"], {**feed, **dict(zip(past, cache, strict=True)), "logit_positions": [[0], [0]]}
    )[0]
    found = second.run(["logits"], {**feed, **dict(zip(past, own, strict=True))})[0]
    assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("cache", "share"), [(False, None), pytest.param(True, None, marks=pytest.mark.slow), (False, 0.75)]
)
def test_genai_writes_the_same_tokens(name: str, cache: bool, share: float | None, tmp_path: Path):
    genai = pytest.importorskip("onnxruntime_genai", reason="the extra `genai` is not installed")
    folder, prompt = written(tmp_path, name, cache=cache, share=share), prompt_of(9)
    session = CachedSession(open_session(str(folder / "model.onnx")))
    wanted = generate(Decoder(session, 9 + NEW), [prompt], NEW, stop_ids=(0,))[0]
    assert len(wanted) >= 6
    model = genai.Model(str(folder))
    asked = genai.GeneratorParams(model)
    asked.set_search_options(max_length=9 + NEW)
    generator = genai.Generator(model, asked)
    generator.append_tokens(np.array(prompt, np.int32))
    found = []
    while not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    assert found == wanted
    cut, ours = genai.Tokenizer(model), Tokenizer.from_str(json.dumps(BYTES))
    for text in PROBE_TEXTS:
        # Its texts end at a zero.
        if "\x00" not in text:
            assert cut.encode(text).tolist() == ours.encode(text).ids, repr(text)


def test_what_genai_cuts_otherwise_is_refused():
    digits = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES["pre_tokenizer"]],
    }
    split = {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": False}
    regex = {
        "type": "Sequence",
        "pretokenizers": [split, {**BYTES["pre_tokenizer"], "use_regex": False}],
    }
    assert why_not_genai(BYTES) is None
    assert why_not_genai(changed(pre_tokenizer=regex)) is None
    cases = [
        (changed(pre_tokenizer=digits), "by rules other than those of GPT-2"),
        (changed(normalizer={"type": "Lowercase"}), "changes texts"),
        (json.loads(letters(prefix=True).to_str()), "byte fallback"),
        ({"model": {"type": "Unigram"}}, "a Unigram"),
    ]
    for tokenizer, words in cases:
        assert words in str(why_not_genai(tokenizer))
