"""What packing short texts gains: tokens learnt a second by a small Llama, padded and packed, by the length of texts.

    python benchmarks/llm_packing.py [--rounds 6] [--texts 2000] [--window 256] [--batch 8]

Texts of random tokens, whose lengths are drawn evenly up to a longest one. Padded, a step takes as many texts of like
length as a packed step takes on average, so that both learn the same number of tokens a step; in each round both take
their turn over 8 steps, in an order that is turned. A ratio is that of the medians. Writes
reports/benchmarks/llm_packing.json and .md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from writing import write_rows

from compress.encoding.inputs import Inputs, model_inputs
from compress.encoding.packing import pack_texts
from compress.encoding.tokens import INPUT_IDS
from compress.models.io.outputs import without_cache
from compress.store.flat import Ragged
from compress.tasks.causal_lm.text.windows import LOSS_MASK, WindowInputs
from compress.training.batches import shuffled_batches, to_tensors

WORDS = 4000
LONGEST = (16, 48, 128)
STEPS = 8


def main() -> None:
    """Time both on texts of each length, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="blocks a step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for longest in LONGEST:
        rows.append(row_of(longest, options))
        write_rows("llm_packing", rows)


def row_of(longest: int, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both on texts of up to `longest` tokens."""
    inputs = texts_of(options.texts, longest)
    blocks = pack_texts(inputs, options.window)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        vocab_size=WORDS,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    alike = max(1, round(options.batch * len(inputs) / len(blocks)))
    speeds: dict[str, list[float]] = {"padded": [], "packed": []}
    turns = {"padded": batches(inputs, alike), "packed": batches(blocks, options.batch)}
    shown: dict[str, Inputs] = {"padded": inputs, "packed": blocks}
    with without_cache(model):
        for number in range(-1, options.rounds):
            for name in list(turns)[:: 1 if number % 2 else -1]:
                speed = tokens_a_second(model, shown[name], turns[name])
                if number >= 0:
                    speeds[name].append(speed)
    padded, together = (float(np.median(speeds[name])) for name in ("padded", "packed"))
    return {
        "longest_text": longest,
        "texts": len(inputs),
        "blocks": len(blocks),
        "filled": round(float(blocks.lengths.sum()) / (len(blocks) * options.window), 3),
        "padded_tokens_s": round(padded),
        "packed_tokens_s": round(together),
        "ratio": round(together / padded, 3),
    }


def texts_of(count: int, longest: int) -> WindowInputs:
    """Texts of random tokens, all learnt but the first."""
    random = np.random.default_rng(0)
    lengths = random.integers(4, longest + 1, count)
    return WindowInputs(
        [random.integers(0, WORDS, length) for length in lengths],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([np.arange(length) > 0 for length in lengths]),
        documents=np.arange(count),
        target_bytes=lengths.astype(np.int64),
    )


def batches(inputs: Inputs, size: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Batches as the training loop shuffles them, without end."""
    epoch = 0
    while True:
        yield from shuffled_batches(inputs.lengths, size, seed=0, epoch=epoch)
        epoch += 1


def tokens_a_second(model: torch.nn.Module, inputs: Inputs, turn: Iterator[Any]) -> float:
    """Learnt tokens a second of some steps, forward and backward."""
    learnt, started = 0, time.perf_counter()
    for _ in range(STEPS):
        batch = to_tensors(inputs.batch(next(turn)), "cpu")
        chosen = batch[LOSS_MASK][:, 1:].bool()
        logits = model(**model_inputs(batch)).logits[:, :-1][chosen]
        torch.nn.functional.cross_entropy(logits, batch[INPUT_IDS][:, 1:][chosen]).backward()
        model.zero_grad(set_to_none=True)
        learnt += int(chosen.sum())
    return learnt / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
