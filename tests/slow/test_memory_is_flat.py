"""Twenty times the examples, the same memory: encoding, the teacher's signals, training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

JOB = """
import json, sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from compress.profile.training_spec import TrainingSpec
from compress.progress import Silent
from compress.tasks.tokens import encode_texts
from compress.training.loop import train
from compress.training.losses import logits_kl
from compress.training.teachers import cached_signals
from tests.tiny import WORDS, tiny_bert, write_torch_artifact

class Texts(Sequence):
    "Texts that are made when they are read."
    def __init__(self, places):
        self.places = places
    def __len__(self):
        return len(self.places)
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Texts(self.places[index])
        random = np.random.default_rng(self.places[index])
        return " ".join(np.array(WORDS)[random.integers(0, len(WORDS), random.integers(2, 12))])

torch.set_num_threads(1)
folder, count = Path(sys.argv[1]), int(sys.argv[2])
artifact = write_torch_artifact(folder / "model", tiny_bert(hidden=16, layers=1, heads=1, ffn=16))
inputs = encode_texts(Texts(range(count)), folder / "model" / "tokenizer.json", folder / "model" / "task.json")
signals = cached_signals(lambda: tiny_bert(hidden=16, layers=1, heads=1, ffn=16), inputs, ("hidden.0",),
    folder / "signals", teacher_digest="t", device="cpu", precision="fp32", progress=Silent())
projection = torch.nn.Linear(16, 16)

def loss(outputs, batch, indices):
    taken = signals.take(indices.numpy())
    return logits_kl(outputs, taken["outputs"], 2.0) + 0.0 * projection(taken["hidden.0"]).mean()

model = tiny_bert(hidden=16, layers=1, heads=1, ffn=16, seed=1)
result = train(model, inputs, loss, TrainingSpec(batch_size=64, learning_rate=1e-3), lambda model: 0.0,
    work=folder / "work", seed=0, precision="fp32", device="cpu", progress=Silent(), name="t", steps=300)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
stored = sum(file.stat().st_size for file in (folder / "signals").rglob("*.bin"))
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024, "stored": stored, "steps": result.steps}))
"""


def run(folder: Path, count: int) -> dict[str, int]:
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", JOB, folder, str(count)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    facts: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return facts


@pytest.mark.slow
def test_a_million_examples_take_the_memory_of_fifty_thousand(tmp_path: Path):
    """What stays in memory of an example are a few numbers: where it begins, its length, its place in an epoch."""
    few, many = run(tmp_path / "few", 50_000), run(tmp_path / "many", 1_000_000)
    assert few["steps"] == many["steps"] == 300
    assert many["stored"] > 18 * few["stored"] > 100_000_000
    assert many["peak"] - few["peak"] < 64 * 1_000_000
    assert many["peak"] < 1.12 * few["peak"]
