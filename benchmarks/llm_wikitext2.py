"""What decoders that learnt from news lose on another text: perplexity of ONNX files on WikiText-2, and on the news.

    python benchmarks/llm_wikitext2.py --tokenizer tokenizer.json [--tokens 50000] NAME=MODEL.onnx ...

The first file is what the others are held against: their losses are of its perplexity, with an interval over windows.
Both texts are cut into windows of 512 tokens that follow one another, the first token of each given: the test text of
WikiText-2 in ../shared/data/wikitext2 beside the clone (without it, this stops), and the test split of
profiles/smollm_int4.yaml. Writes reports/benchmarks/llm_wikitext2.json and .md after each file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from llm_int4 import PROFILE, WINDOW, Ids, token_losses, windows
from numpy.typing import NDArray
from tokenizers import Tokenizer
from writing import write_rows

from compress.core.units import megabytes
from compress.data.kinds import TEXTS
from compress.measuring.statistics import mean_interval
from compress.passes.quantize.size_check import model_bytes
from compress.profile.load import load_profile
from compress.tasks.causal_lm.data import load

TEXT = Path(__file__).parents[2] / "shared" / "data" / "wikitext2" / "test.txt"
NAME = "llm_wikitext2"
Sums = NDArray[np.float64]
"""Nats of each window."""


def main() -> None:
    """Score what is not in the report yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="NAME=MODEL.onnx")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=50_000)
    options = parser.parse_args()
    if not TEXT.is_file():
        raise SystemExit(f"{TEXT} is not there")
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    profile = load_profile(PROFILE).profile
    news = load(profile.data, PROFILE.parent, profile.seed, TEXTS).test.texts
    scored: dict[str, list[Ids]] = {
        name: windows(texts, tokenizer, options.tokens)
        for name, texts in (("WikiText-2", [TEXT.read_text(encoding="utf-8")]), ("BBC News", news))
    }
    note = (
        f"Perplexity on the first {options.tokens} tokens of the test texts, windows of {WINDOW}, the first token of "
        "each given. Loss: of the perplexity over the first file's, with a 95 % interval over the windows."
    )
    rows: list[dict[str, Any]] = []
    first: dict[str, Sums] = {}
    for label, _, file in (one.partition("=") for one in options.files):
        path = Path(file)
        for text, cut in scored.items():
            sums = np.array([one.sum(dtype=np.float64) for one in token_losses(path, cut)])
            counted = sum(len(ids) - 1 for ids in cut)
            row = {"model": label, "text": text, "MB": round(megabytes(model_bytes(path.parent)), 1)}
            row |= {"perplexity": round(float(np.exp(sums.sum() / counted)), 3)}
            if text in first:
                row |= lost(sums - first[text], counted / len(cut))
            first.setdefault(text, sums)
            rows.append(row)
            write_rows(NAME, rows, note=note, script=NAME)


def lost(further: Sums, tokens: float) -> dict[str, Any]:
    """What is lost, in percent of the perplexity: `further` nats of each window, of so many tokens on average."""
    found = mean_interval(further, seed=0)
    percent = [
        f"{100 * float(np.expm1(value / tokens)):.2f}" for value in (found.value, found.low, found.high)
    ]
    return {"loss, %": percent[0], "95 % of it": f"{percent[1]} .. {percent[2]}"}


if __name__ == "__main__":
    main()
