"""Memory of a language model's data: 1 and 20 million distinct tokens, read, told from duplicates, encoded and learnt.

    python benchmarks/llm_data_memory.py [--tokens 1000000 20000000] [--ending jsonl]

The texts are generated: words of three letters, each one token of a byte-level tokenizer, 60 tokens a text, one text in
fifty a duplicate. Each size runs in a process of its own: the file is loaded into its three splits, encoded in windows
of 128 tokens, packed, and a tiny Llama is trained for 40 steps of 16 blocks. What is noted is the peak of the resident
memory after each part, above that of the process before it; and how long encoding takes, once and when a further step
asks for the same texts. Writes reports/benchmarks/llm_data_memory.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOKENS = (1_000_000, 20_000_000)
LENGTH = 60
WINDOW = 128
STEPS = 40
BLOCKS = 16
PARTS = ("read", "encoded", "packed", "trained")


def main() -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--ending", choices=("jsonl", "parquet", "csv"), default="jsonl")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(json.dumps(measured(options.part, options.ending)))
        return
    from writing import write_rows

    rows = []
    for tokens in options.tokens:
        rows.append(row_of(tokens, options.ending))
        write_rows("llm_data_memory", rows)


def row_of(tokens: int, ending: str) -> dict[str, Any]:
    """Write texts of so many tokens, and what a process of its own took for them."""
    with tempfile.TemporaryDirectory(prefix="llm-data-") as name:
        folder = Path(name)
        size = write_data(folder, tokens, ending)
        command = [sys.executable, __file__, "--part", str(folder), "--ending", ending]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(tokens, found, flush=True)
    return {"tokens": tokens, "ending": ending, "file_mb": round(size / 1e6, 1), **found}


def write_data(folder: Path, tokens: int, ending: str) -> int:
    """A file of texts and the files that say how a model reads them; the bytes of the first."""
    import numpy as np
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f"{one}{two}{three}" for one in letters for two in letters for three in letters[:6]]
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="aaa")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "max_length": WINDOW,
        "pad_id": 0,
        "begin_id": None,
        "end_id": None,
        "chat_template": None,
        "special_tokens": {},
        "input_names": ["input_ids", "attention_mask"],
        "words": len(words),
    }
    (folder / "task.json").write_text(json.dumps(described))
    random = np.random.default_rng(0)
    table = np.array(words)
    count = tokens // LENGTH
    file = folder / f"train.{ending}"
    lines = folder / "train.jsonl"
    with lines.open("w") as stream:
        last = ""
        for place in range(count):
            if place % 50 != 49:
                last = " ".join(table[random.integers(0, len(table), LENGTH)])
            stream.write(json.dumps({"id": place, "text": last}) + "\n")
    if ending == "csv":
        import pandas as pd

        pd.read_json(lines, lines=True).to_csv(file, index=False)
        lines.unlink()
    if ending == "parquet":
        import pyarrow.json as pj
        import pyarrow.parquet as pq

        pq.write_table(pj.read_json(lines), file, row_group_size=10_000)
        lines.unlink()
    return file.stat().st_size


def measured(folder: Path, ending: str) -> dict[str, Any]:
    """What each part takes at its peak above the process before the first, MB, and what was done."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from compress.core.terminal.progress import SilentProgress
    from compress.data.sources import load
    from compress.encoding.packing import pack_texts
    from compress.models.io.outputs import without_cache
    from compress.profile.specs.training import TrainingSpec
    from compress.tasks.causal_lm.keys import LanguageData
    from compress.tasks.causal_lm.task import CausalLanguageModel
    from compress.tasks.causal_lm.text.windows import LOSS_MASK
    from compress.training.loop import train

    torch.set_num_threads(1)
    words = json.loads((folder / "task.json").read_text())["words"]
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=words,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    before, peaks = peak_mb(), {}
    data = LanguageData(path=str(folder / f"train.{ending}"), max_length=WINDOW)
    splits = load(data, folder, 0, "causal-lm")
    peaks["read"] = peak_mb() - before
    task, times = CausalLanguageModel(data), [time.perf_counter()]
    for _ in range(2):
        inputs = task.encode(splits.train, folder)
        times.append(time.perf_counter())
    peaks["encoded"] = peak_mb() - before
    blocks = pack_texts(inputs, WINDOW)
    peaks["packed"] = peak_mb() - before

    def loss(outputs: Any, batch: Any, indices: Any) -> Any:
        learnt = batch[LOSS_MASK][:, 1:].bool()
        return torch.nn.functional.cross_entropy(outputs[:, :-1][learnt], batch["input_ids"][:, 1:][learnt])

    class Shown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **batch: Any) -> Any:
            return self.model(
                **{name: each for name, each in batch.items() if not name.startswith("beside.")}
            )

    epochs = STEPS * BLOCKS / len(blocks)
    spec = TrainingSpec(batch_size=BLOCKS, epochs=epochs, learning_rate=1e-3)
    with without_cache(model):
        done = train(
            Shown(),
            blocks,
            loss,
            spec,
            lambda current: 0.0,
            work=folder / "work",
            seed=0,
            precision="fp32",
            device="cpu",
            progress=SilentProgress(),
            name="finetune",
        )
    peaks["trained"] = peak_mb() - before
    return {
        **{f"{part}_mb": round(peaks[part], 1) for part in PARTS},
        "process_mb": round(before, 1),
        "encoding_s": round(times[1] - times[0], 2),
        "again_s": round(times[2] - times[1], 2),
        "texts": len(splits.train),
        "windows": len(inputs),
        "blocks": len(blocks),
        "steps": done.steps,
        "notes": list(splits.notes),
    }


def peak_mb() -> float:
    """The largest resident memory of this process so far, MB of 10^6 bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
