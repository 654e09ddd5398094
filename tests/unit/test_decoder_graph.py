"""A decoder's ONNX file says the same as the model: whole, in pieces, and for rows of unlike lengths."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.runtimes.decoding import (
    GREEDY,
    Decoder,
    Sampling,
    compacted_order,
    generate,
    sample_token,
    stream,
    top_tokens,
)
from compress.runtimes.runner import CachedSession, open_session
from compress.runtimes.torch_decoder import TorchDecoder
from tests.tiny_decoders import CONFIGS, WORDS, lowered_decoder, tiny_decoder

FAST = list(CONFIGS)[:4]
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in CONFIGS]
NEW = 64


def whole_logits(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def unshared(session, ids: np.ndarray, mask: np.ndarray, past: list[np.ndarray]) -> list[np.ndarray]:
    """Every logit of the new tokens, and the cache as a new array."""
    feed = {
        "input_ids": ids,
        "attention_mask": mask,
        "logit_positions": np.tile(np.arange(ids.shape[1]), (len(ids), 1)),
    }
    names = [node.name for node in session.get_inputs()[3:]]
    return session.run(None, {**feed, **dict(zip(names, past, strict=True))})


def nothing_past(session, rows: int) -> list[np.ndarray]:
    return [
        np.zeros((rows, node.shape[1], 0, node.shape[3]), np.float32) for node in session.get_inputs()[3:]
    ]


@pytest.mark.parametrize("key", ["scale_attn_by_inverse_layer_idx", "scale_attn_weights"])
def test_attention_is_scaled_as_the_config_says(key: str, tmp_path: Path):
    model = tiny_decoder("gpt2", **{key: key == "scale_attn_by_inverse_layer_idx"})
    session = open_session(str(lowered_decoder(model, tmp_path)))
    ids = np.random.default_rng(0).integers(3, WORDS, 24).tolist()
    wanted = whole_logits(model, ids)
    found = unshared(session, np.array([ids]), np.ones((1, 24), np.int64), nothing_past(session, 1))[0][0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_says_the_same_as_the_model(name: str, tmp_path: Path):
    model = tiny_decoder(name)
    session = open_session(str(lowered_decoder(model, tmp_path)))
    ids = np.random.default_rng(0).integers(3, WORDS, 24).tolist()
    wanted = whole_logits(model, ids)
    allowed = 1e-5 * np.abs(wanted).max()
    # In one go, and in pieces of 18, 4 and 2 tokens over a cache that grows.
    one_go = unshared(session, np.array([ids]), np.ones((1, 24), np.int64), nothing_past(session, 1))[0][0]
    assert np.abs(one_go - wanted).max() <= allowed
    past, pieces = nothing_past(session, 1), []
    for start, end in ((0, 18), (18, 22), (22, 24)):
        logits, *past = unshared(session, np.array([ids[start:end]]), np.ones((1, end), np.int64), past)
        pieces.append(logits[0])
    assert np.abs(np.concatenate(pieces) - wanted).max() <= allowed
    # Two rows of 10 and 16 tokens side by side, the shorter one padded behind, without a shared buffer.
    lengths, rows = (10, 16), np.zeros((2, 16), np.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = ids[:length]
    mask = (np.arange(16) < np.array(lengths)[:, None]).astype(np.int64)
    logits, *past = unshared(session, rows, mask, nothing_past(session, 2))
    for row, length in zip(logits, lengths, strict=True):
        assert np.abs(row[:length] - wanted[:length]).max() <= allowed
    mask = np.concatenate([mask, np.ones((2, 1), np.int64)], 1)
    following = unshared(session, np.array([[ids[length]] for length in lengths]), mask, past)[0]
    for row, length in zip(following, lengths, strict=True):
        assert np.abs(row[0] - wanted[length]).max() <= allowed


def test_learned_positions_count_on_behind_a_short_prompt(tmp_path: Path):
    model = tiny_decoder("gpt2")
    session = open_session(str(lowered_decoder(model, tmp_path)))
    rows = np.random.default_rng(0).integers(3, WORDS, (2, 16))
    mask = (np.arange(16) < np.array([[10], [16]])).astype(np.int64)
    with torch.no_grad():
        wanted = model(torch.from_numpy(rows), attention_mask=torch.from_numpy(mask)).logits.numpy()
    found = unshared(session, rows, mask, nothing_past(session, 2))[0]
    # Behind the prompt too: whoever compares files with models compares all of it.
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_generated_is_what_the_model_generates(name: str, tmp_path: Path):
    model = tiny_decoder(name)
    session = open_session(str(lowered_decoder(model, tmp_path)))
    random = np.random.default_rng(1)
    prompts = [random.integers(3, WORDS, length).tolist() for length in (5, 12, 9, 1)]
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    kept = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        wanted = model.generate(
            padded,
            attention_mask=kept,
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, longest:].tolist()
    # An answer that repeats itself would hide a mistake.
    assert max(len(set(row)) for row in wanted) >= 16
    assert generate(Decoder(CachedSession(session), longest + NEW), prompts, NEW) == wanted
    assert generate(Decoder(CachedSession(session), longest + NEW), prompts[:1], NEW) == wanted[:1]


@pytest.mark.parametrize("attribute", ["local_window_size", "do_rotary"])
def test_a_mistake_in_the_mask_or_the_positions_is_seen(attribute: str, tmp_path: Path):
    model = tiny_decoder("llama")
    path = lowered_decoder(model, tmp_path)
    broken = onnx.load(path)
    node = next(node for node in broken.graph.node if node.op_type == "GroupQueryAttention")
    for known in list(node.attribute):
        if known.name == attribute:
            node.attribute.remove(known)
    node.attribute.append(onnx.helper.make_attribute(attribute, 6 if attribute == "local_window_size" else 0))
    onnx.save(broken, path)
    prompt = np.random.default_rng(1).integers(3, WORDS, 12).tolist()
    got = generate(Decoder(CachedSession(open_session(str(path))), 12 + NEW), [prompt], NEW)
    right = generate(
        Decoder(CachedSession(open_session(str(lowered_decoder(model, tmp_path)))), 12 + NEW), [prompt], NEW
    )
    assert got != right


def test_rows_take_the_place_of_those_that_ended(tmp_path: Path):
    session = CachedSession(open_session(str(lowered_decoder(tiny_decoder("llama"), tmp_path))))
    random = np.random.default_rng(4)
    prompts = [random.integers(3, WORDS, length).tolist() for length in (5, 12, 9, 1, 30, 2, 7)]

    def written(some: list[list[int]], first: int, together: int, how: Sampling) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in some]
        seeds = lambda row: [3, first + row]  # noqa: E731
        for row, token in stream(Decoder(session, 60), iter(some), 20, range(100, 115), how, together, seeds):
            found[row].append(token)
        return found

    for how in (GREEDY, Sampling(temperature=1.0)):
        alone = [written([prompt], row, 1, how)[0] for row, prompt in enumerate(prompts)]
        # They end at different times: after 20 tokens, or at one of fifteen.
        assert how is GREEDY or len({len(row) for row in alone}) > 2
        for together in (1, 3, 7):
            assert written(prompts, 0, together, how) == alone


def test_rows_end_alone_and_draw_alone(tmp_path: Path):
    session = open_session(str(lowered_decoder(tiny_decoder("llama"), tmp_path)))
    prompts = [[5, 6, 7], [8], [9, 10]]
    sampling = Sampling(temperature=1.0, top_k=50, top_p=0.9, seed=3)
    together = generate(Decoder(CachedSession(session), 40), prompts, 20, sampling=sampling)
    ends = (together[1][4],)
    stopped = generate(Decoder(CachedSession(session), 40), prompts, 20, ends, sampling)
    for row, found in zip(together, stopped, strict=True):
        first = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        assert found == row[: first + 1]
    assert len(stopped[1]) <= 5
    assert generate(Decoder(CachedSession(session), 40), prompts[:1], 20, sampling=sampling) == together[:1]


def test_drawing_keeps_to_the_likeliest():
    logits = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))
    drawn = [sample_token(logits, Sampling(1.0, seed=0), np.random.default_rng(seed)) for seed in range(4000)]
    assert np.abs(np.bincount(drawn, minlength=4) / 4000 - [0.1, 0.4, 0.3, 0.2]).max() < 0.03
    cases = [
        (Sampling(1.0, top_k=2), {1, 2}),
        (Sampling(1.0, top_p=0.65), {1, 2}),
        (Sampling(1.0, top_p=0.3), {1}),
    ]
    for sampling, allowed in cases:
        found = {sample_token(logits, sampling, np.random.default_rng(seed)) for seed in range(200)}
        assert found == allowed
    assert sample_token(logits, Sampling(), np.random.default_rng(0)) == 1


def test_drawing_looks_at_all_tokens_that_it_must():
    random = np.random.default_rng(0)
    # Flat: the likeliest 64 of them hold a tenth; and some are equal.
    for logits in (random.normal(size=5000), random.normal(size=5000) * 6, random.integers(0, 9, 5000) / 3):
        logits = logits.astype(np.float32)
        for sampling in (
            Sampling(0.8, 0, 0.95),
            Sampling(1.3, 40, 0.5),
            Sampling(1.0, 7000),
            Sampling(1.0, 9),
        ):
            order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
            scaled = logits[order].astype(np.float64) / sampling.temperature
            chances = np.exp(scaled - scaled.max())
            chances /= chances.sum()
            kept = int(np.searchsorted(chances.cumsum(), sampling.top_p)) + 1
            chances = chances[:kept] / chances[:kept].sum()
            for seed in range(20):
                drawn = order[np.random.default_rng(seed).choice(len(chances), p=chances)]
                assert sample_token(logits, sampling, np.random.default_rng(seed)) == drawn
        assert top_tokens(logits, 70).tolist() == np.argsort(-logits, kind="stable")[:70].tolist()


def test_few_rows_move_where_some_end():
    assert compacted_order([0, 1, 2]) == [0, 1, 2]
    assert compacted_order([1, 2, 4, 5]) == [5, 1, 2, 4]
    assert compacted_order([3]) == [3]
    assert compacted_order([]) == []


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1], []], "every row needs a token"),
        ([[1] * 9, [1]], "room for 8 tokens, and 9"),
        ([[1]], "every row needs a token"),
    ],
)
def test_what_cannot_be_read_is_refused(tokens: list[list[int]], message: str, tmp_path: Path):
    decoder = Decoder(CachedSession(open_session(str(lowered_decoder(tiny_decoder("llama"), tmp_path)))), 8)
    decoder.start([[1], [2]])
    with pytest.raises(ValueError, match=message):
        decoder.start(tokens) if len(tokens) > 1 else decoder.append_tokens(tokens)
    with pytest.raises(ValueError, match="room for 2 rows of 8 tokens"):
        decoder.add_rows([[1]])


def test_parts_without_an_operator_are_refused_by_name():
    changed = [
        (transformers.LlamaConfig(hidden_act="mish"), "its activation 'mish'"),
        (transformers.LlamaConfig(hidden_size=40, num_attention_heads=4), "rotates 10 of 10"),
        (
            transformers.LlamaConfig(
                rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
            ),
            "change with the length",
        ),
    ]
    for config, message in changed:
        with pytest.raises(ModelError, match=message):
            layout_of(config)
    lacking = tiny_decoder("llama")
    weights = {name: tensor for name, tensor in lacking.state_dict().items() if "layers.1.mlp.up" not in name}
    with pytest.raises(ModelError, match=r"lack 'model.layers.1.mlp.up_proj.weight'"):
        decoder_graph(layout_of(lacking.config), weights)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_torch_is_timed_behind_a_cache_as_the_file_is(name: str, tmp_path: Path):
    model = tiny_decoder(name)
    file = CachedSession(open_session(str(lowered_decoder(model, tmp_path))))
    whole = TorchDecoder(model)
    ids = np.random.default_rng(2).integers(3, WORDS, (2, 6))
    read = {
        "input_ids": ids,
        "attention_mask": np.ones((2, 6), np.int64),
        "logit_positions": np.full((2, 1), 5),
    }
    wrote = {**read, "input_ids": ids[:, -1:], "attention_mask": np.ones((2, 13), np.int64)}
    wrote["logit_positions"] = np.zeros((2, 1), np.int64)
    tensors = [{key: torch.from_numpy(value) for key, value in batch.items()} for batch in (read, wrote)]
    with torch.inference_mode():
        found = [whole(batch).numpy() for batch in (*tensors, tensors[1])]
        direct = model(torch.from_numpy(ids)).logits[:, -1:].numpy()
    assert np.abs(found[0] - direct).max() < 1e-5
    assert np.abs(file(read) - direct).max() < 1e-4
    # The cache is what it was before: the same token gives the same again.
    assert np.array_equal(found[1], found[2])
    assert file(wrote).shape == found[1].shape == (2, 1, WORDS)
    assert np.array_equal(file(wrote), file(wrote))


@pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, platform.release().split(".")[:2])) < (6, 1),
    reason="gathers memory in large pages on Linux 6.1 and later",
)
def test_memory_that_is_full_is_gathered_in_large_pages_and_keeps_its_content():
    # In a process of its own: what lies beside it there is always the same.
    code = """
import mmap, re
from compress.runtimes.runner import use_huge_pages
def large():
    return int(re.search("AnonHugePages: *([0-9]+)", open("/proc/self/smaps_rollup").read())[1])
filled = mmap.mmap(-1, 8 * 2**21, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
filled[:] = bytes(range(256)) * (len(filled) // 256)
before = large()
moved = use_huge_pages()
print(moved, large() - before, filled[:] == bytes(range(256)) * (len(filled) // 256))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    moved, kilobytes, same = told.split()
    if moved == "0":
        pytest.skip("this system has no large pages to give")
    assert int(kilobytes) >= 6 * 2048
    assert same == "True"
