"""What writing several answers at once gains: tokens a second at batches of 1 to 32, and by llama.cpp one at a time.

    PYTHONPATH=SITE python benchmarks/llm_batches.py --peers SITE [--model FOLDER] [--rounds 8] [--tokens 48]

SITE and FOLDER are those of benchmarks/llm_versus_peers.py, whose files these are, kept in the cache: our FP32 file,
our 4-bit file that is held to the bars there, and llama.cpp's Q4_0 of the same weights.

Prompts of 64 tokens of the test split, read and gone on with greedily, all rows to their end, on one thread and on two;
the time of the whole answer is told apart from that of the tokens behind the first. In each round every setting has its
turn, the order turned from round to round; a ratio is that of the medians, its interval a bootstrap over the rounds.
Writes reports/benchmarks/llm_batches.json and .md after each round.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llm_versus_peers import DEFAULT, FLOAT, PURE, Key, Made, entries, made_of, texts
from writing import write_rows

from compress.measuring.statistics import bootstrap_medians
from compress.runtimes.decoding import Decoder, stream
from compress.runtimes.runner import CachedSession, open_session

PROMPT = 64
BATCHES = (1, 4, 16, 32)
THREADS = (1, 2)
Setting = tuple[Key, int, int]
"""A tool with its file, threads, and the rows that are written at once."""
Turn = Callable[[int], tuple[float, float]]
"""The round -> seconds of a whole answer, and of the tokens behind the first."""


def main() -> None:
    """Make the files, take turns, write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True, metavar="SITE")
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    options = parser.parse_args()
    made = made_of(options.model, options.peers)
    settings = turns(made, options.tokens)
    times: dict[Setting, list[tuple[float, float]]] = {key: [] for key in settings}
    loads = []
    for number in range(-1, options.rounds):
        keys = list(settings)
        loads.append(os.getloadavg()[0])
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            found = settings[key](max(0, number))
            if number >= 0:  # one round to warm up
                times[key].append(found)
        print(f"round {number + 1} of {options.rounds}", flush=True)
        if number >= 0:
            note = (
                f"{made.model.name if options.model else 'SmolLM2-135M'}: prompts of {PROMPT} tokens, "
                f"{options.tokens} tokens written to each, {number + 1} rounds; the load of the machine was "
                f"{min(loads):.1f} to {max(loads):.1f}."
            )
            write_rows("llm_batches", rows_of(times, options.tokens), note=note)


def turns(made: Made, tokens: int) -> dict[Setting, Turn]:
    """What has a turn in each round."""
    prompts = [window[:PROMPT] for window in texts(made.model, "test", 64 * 512)]
    files = {entry.key: str(entry.make(made)) for entry in entries() if entry.key in (FLOAT, DEFAULT, PURE)}
    found: dict[Setting, Turn] = {}
    for threads in THREADS:
        for key in (FLOAT, DEFAULT):
            session = CachedSession(open_session(files[key], threads=threads))
            for batch in BATCHES:
                found[key, threads, batch] = written(session, prompts, tokens, batch)
        found[PURE, threads, 1] = llama(files[PURE], threads, prompts, tokens)
    return found


def written(session: Any, prompts: list[list[int]], tokens: int, batch: int) -> Turn:
    """A batch of answers by an ONNX file."""

    def turn(number: int) -> tuple[float, float]:
        rows = [prompts[(number * batch + row) % len(prompts)] for row in range(batch)]
        decoder = Decoder(session, PROMPT + tokens)
        return timed(stream(decoder, rows, tokens), batch)

    return turn


def llama(file: str, threads: int, prompts: list[list[int]], tokens: int) -> Turn:
    """An answer by llama.cpp."""
    from llama_cpp import Llama

    model = Llama(file, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)

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


def rows_of(times: dict[Setting, list[tuple[float, float]]], tokens: int) -> list[dict[str, Any]]:
    """A row a setting."""
    rows = []
    for ((tool, file), threads, batch), found in times.items():
        whole, behind = (np.array(column) for column in zip(*found, strict=True))
        alone, llama_cpp = times[(tool, file), threads, 1], times[PURE, threads, 1]
        rows.append(
            {
                "tool": tool,
                "file": file,
                "threads": threads,
                "batch": batch,
                "tokens/s behind the first": round(batch * (tokens - 1) / float(np.median(behind)), 1),
                "times one at a time": ratio_of([one for _, one in alone], behind / batch),
                "times llama.cpp": ratio_of([one for _, one in llama_cpp], behind / batch),
                "tokens/s with reading": round(batch * tokens / float(np.median(whole)), 1),
                "times one at a time, with reading": ratio_of([one for one, _ in alone], whole / batch),
            }
        )
    return rows


def ratio_of(alone: Sequence[float], share: Any) -> str:
    """How much sooner a row is done than alone, with the interval."""
    found = bootstrap_medians([np.array(alone)], [share], seed=0)[1]
    return f"{found.value:.2f} [{found.low:.2f}-{found.high:.2f}]"


if __name__ == "__main__":
    main()
