"""Memory of scoring a language model: 49,152 words, windows of 1,024 and of 8,192 tokens.

    python benchmarks/llm_scoring_memory.py [--tokens 32768] [--windows 1024 8192]

The model is a Llama of one layer, 64 wide, with random weights: what is measured is what stands beside it, of which
the keys and values alone grow with the layers. Each row is one scoring process of the kind that measures artifacts.
`whole` scores each window in one run, as if no window were long. What is noted is the peak of the resident memory above
that of a process that only imports and above the file of the model. Writes reports/benchmarks/llm_scoring_memory.json
and .md.
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

WORDS = 49_152
RUN = """
import re, runpy, sys
import numpy, onnxruntime
def peak(): return 1024 * int(re.search("VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1])
before = peak()
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(peak() - before)
"""


def main() -> None:
    """Score windows of each length in pieces and whole, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--windows", type=int, nargs="+", default=[1024, 8192])
    options = parser.parse_args()
    from writing import write_rows

    rows = []
    with tempfile.TemporaryDirectory(prefix="llm-scoring-") as name:
        folder = Path(name)
        model = write_model(folder, max(options.windows))
        for window in options.windows:
            for whole in (False, True):
                rows.append(row_of(folder, model, options.tokens, window, whole))
                print(rows[-1], flush=True)
                write_rows("llm_scoring_memory", rows)


def write_model(folder: Path, positions: int) -> Path:
    """The ONNX file of a decoder of one layer."""
    import onnx_ir as ir
    import transformers

    from compress.lowering.decoder.graph import decoder_graph
    from compress.lowering.decoder.layout import layout_of

    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=WORDS,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    ir.save(decoder_graph(layout_of(config), model.state_dict()), folder / "model.onnx")
    return folder / "model.onnx"


def row_of(folder: Path, model: Path, tokens: int, window: int, whole: bool) -> dict[str, Any]:
    """What a scoring process took for so many tokens, and its perplexity."""
    import numpy as np

    from compress.runtimes import runner
    from compress.store.flat import Ragged
    from compress.tasks.causal_lm import scorer
    from compress.tasks.causal_lm.text.windows import WindowInputs

    random = np.random.default_rng(0)
    count = tokens // window
    inputs = WindowInputs(
        [random.integers(3, WORDS, window).astype(np.int32) for _ in range(count)],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([np.minimum(np.arange(window, dtype=np.int32), 1)] * count),
        documents=np.arange(count),
        target_bytes=np.full(count, window),
    ).against(None)
    runner.write_batches(str(folder / "feeds.npz"), [inputs.batch([place]) for place in range(count)])
    job = {
        "kind": "score",
        "model": str(model),
        "feeds": str(folder / "feeds.npz"),
        "scorer": scorer.__file__,
        # A scorer that does not know how many words there are takes no window for a long one.
        "settings": {"length": window, "words": 0 if whole else WORDS},
        "outputs": str(folder / "answers.npz"),
        "threads": 1,
        "device": "cpu",
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [
        sys.executable,
        "-c",
        RUN,
        runner.__file__,
        *(str(folder / f"{n}.json") for n in ("job", "result")),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    with np.load(folder / "answers.npz") as answers:
        nats, scored = float(answers["nats"].sum()), int(answers["tokens"].sum())
        kept = sum(answers[name].nbytes for name in answers.files)
    above = int(done.stdout.split()[-1]) - model.stat().st_size
    return {
        "tokens": count * window,
        "window": window,
        "whole": whole,
        "above_model_mb": round(above / 1e6),
        "kept_mb": round(kept / 1e6, 1),
        "nats_a_token": round(nats / scored, 9),
        "seconds": round(time.perf_counter() - began, 1),
    }


if __name__ == "__main__":
    main()
