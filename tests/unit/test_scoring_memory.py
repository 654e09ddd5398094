"""How much memory scoring a decoder takes: no more for many texts than for few, whatever the batch size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from transformers import AutoModelForCausalLM

from compress.core.units import MIB
from compress.measuring.scoring import LOGITS_BYTES
from compress.runtimes import runner
from compress.store.flat import Ragged
from compress.tasks.causal_lm import scorer
from compress.tasks.causal_lm.windows import WindowInputs
from tests.tiny_decoders import lowered_decoder

WORDS, TOKENS = 49152, 256
PEAK = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
"""


def peak_of(model: Path, windows: int, together: int, folder: Path) -> int:
    """Bytes that a scoring process takes at most."""
    random = np.random.default_rng(0)
    ids = [random.integers(3, WORDS, TOKENS).astype(np.int32) for _ in range(windows)]
    inputs = WindowInputs(
        ids,
        ("input_ids", "attention_mask"),
        0,
        learnt=Ragged.of([np.minimum(np.arange(TOKENS, dtype=np.int32), 1)] * windows),
        documents=np.arange(windows),
        sizes=np.full(windows, TOKENS),
    ).against(None)
    every = np.arange(windows)
    batches = [inputs.batch(every[start : start + together]) for start in range(0, windows, together)]
    runner.write_batches(str(folder / "feeds.npz"), batches)
    job = {
        "kind": "score",
        "model": str(model),
        "feeds": str(folder / "feeds.npz"),
        "scorer": scorer.__file__,
        "settings": {"length": TOKENS},
        "outputs": str(folder / "answers.npz"),
        "threads": 1,
        "device": "cpu",
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [
        sys.executable,
        "-c",
        PEAK,
        runner.__file__,
        str(folder / "job.json"),
        str(folder / "result.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_the_peak_does_not_grow_with_the_texts(tmp_path: Path):
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=16,
        vocab_size=WORDS,
        max_position_embeddings=TOKENS,
    )
    model = lowered_decoder(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), tmp_path)
    few, many = (peak_of(model, windows, 1, tmp_path) for windows in (8, 64))
    # Of 14,336 further tokens logits are 2,700 MiB; what is kept of them, and the tokens, stay below a hundredth.
    assert many - few < 24 * MIB
    size = model.stat().st_size
    assert many - size < 600 * MIB
    # As many at once as are let: 256 MiB of logits.
    together = LOGITS_BYTES // (4 * WORDS * TOKENS)
    assert together == 5
    wide = peak_of(model, 20, together, tmp_path)
    assert wide - size < 1000 * MIB
