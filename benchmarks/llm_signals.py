"""What is kept of a teacher's words: bytes a token, how far it is from the same words in float32, what is left out.

    python benchmarks/llm_signals.py --model FOLDER [--tokens 4096]

FOLDER holds a decoder in torch form (safetensors, tokenizer). It reads windows of 512 tokens of the test split of
profiles/smollm_int4.yaml. It is no timing. Writes reports/benchmarks/llm_signals.json and .md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from llm_int4 import PROFILE, windows
from tokenizers import Tokenizer
from torch import Tensor
from writing import write_rows

from compress.data.kinds import TEXTS
from compress.models.io.checkpoints import load_model
from compress.profile.load import load_profile
from compress.tasks.causal_lm.data import load
from compress.training.signals.top_k import TopK

MOST_BYTES = {16: 200, 17: 208, 18: 216}
"""Of a token whose 64 ids take so many bits."""
MOST_ERROR = 1.2e-3


def main() -> None:
    """Pack, unpack, compare, and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    profile = load_profile(PROFILE).profile
    texts = load(profile.data, PROFILE.parent, profile.seed, TEXTS).test.texts
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    model = load_model(options.model, allow_code=False).eval()
    asked = [(64, 1.0), (64, 2.0), (32, 1.0), (128, 1.0)]
    found: dict[tuple[int, float], list[Tensor]] = {one: [] for one in asked}
    words = 0
    with torch.no_grad():
        for number, window in enumerate(windows(texts, tokenizer, options.tokens), start=1):
            logits = model(input_ids=torch.as_tensor(window)[None]).logits[0].float()
            words = logits.shape[-1]
            for k, temperature in asked:
                found[k, temperature].append(compared(TopK(k, temperature, words), logits))
            print(f"window {number}", flush=True)
    rows = [row(TopK(k, temperature, words), torch.cat(parts)) for (k, temperature), parts in found.items()]
    rows.append({"words": 2**18, "k": 64, "bytes a token": TopK(64, 1.0, 2**18).row_bytes})
    for one in rows:
        most = MOST_BYTES[(one["words"] - 1).bit_length()]
        if one["k"] == 64 and (one["bytes a token"] > most or one.get("KL from float32", 0) > MOST_ERROR):
            raise SystemExit(f"more than is allowed: {one}")
    note = (
        f"{options.tokens} tokens of the test split of BBC News, read by {options.model.name}. The error is KL(float32 "
        "|| kept) of the same words and of all others together, the mean over the tokens; lost is what those others "
        "have, which is one more class of the loss."
    )
    write_rows("llm_signals", rows, note=note)


def compared(top: TopK, logits: Tensor) -> Tensor:
    """Of each row of logits (n, words) the error of what is kept and the mass that is lost: (n, 2)."""
    ids, kept = top.unpack(top.pack(logits))
    exact = top.log_probabilities_of(logits, ids).double()
    error = (exact.exp() * (exact - kept.double())).sum(-1)
    return torch.stack([error, exact[:, -1].exp()], -1)


def row(top: TopK, found: Tensor) -> dict[str, Any]:
    """A line of the table."""
    error, lost = found.unbind(-1)
    return {
        "words": top.vocabulary_size,
        "k": top.k,
        "temperature": top.temperature,
        "bytes a token": top.row_bytes,
        "KL from float32": float(f"{error.mean():.2e}"),
        "its 99th percentile": float(f"{error.quantile(0.99):.2e}"),
        "mass lost, mean": round(lost.mean().item(), 4),
        "mass lost, 95th percentile": round(lost.quantile(0.95).item(), 4),
    }


if __name__ == "__main__":
    main()
