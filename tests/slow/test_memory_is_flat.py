"""Twenty times the examples, the same memory: encoding, the teacher's signals, training; new texts and vocabularies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TEXTS = """
from collections.abc import Sequence
import numpy as np
from tests.tiny import WORDS

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
"""

JOB = (
    TEXTS
    + """
import json, sys
from pathlib import Path

import torch

from compress.profile.specs.training import TrainingSpec
from compress.core.terminal.progress import SilentProgress
from compress.encoding.tokens import encode_texts
from compress.training.loop import train
from compress.training.loss_functions.logits import divergence
from compress.training.signals.teachers import cached_signals
from tests.tiny import tiny_bert, write_torch_artifact

torch.set_num_threads(1)
folder, count = Path(sys.argv[1]), int(sys.argv[2])
artifact = write_torch_artifact(folder / "model", tiny_bert(hidden=16, layers=1, heads=1, ffn=16))
inputs = encode_texts(Texts(range(count)), folder / "model" / "tokenizer.json", folder / "model" / "task.json")
signals = cached_signals(lambda: tiny_bert(hidden=16, layers=1, heads=1, ffn=16), inputs, ("hidden.0",),
    folder / "signals", teacher_digest="t", device="cpu", precision="fp32", progress=SilentProgress())
projection = torch.nn.Linear(16, 16)

def loss(outputs, batch, indices):
    taken = signals.take(indices.numpy())
    return divergence(outputs, taken["outputs"], 2.0) + 0.0 * projection(taken["hidden.0"]).mean()

model = tiny_bert(hidden=16, layers=1, heads=1, ffn=16, seed=1)
result = train(model, inputs, loss, TrainingSpec(batch_size=64, learning_rate=1e-3), lambda model: 0.0,
    work=folder / "work", seed=0, precision="fp32", device="cpu", progress=SilentProgress(), name="t", steps=300)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
stored = sum(file.stat().st_size for file in (folder / "signals").rglob("*.bin"))
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024, "stored": stored, "steps": result.steps}))
"""
)

NEW_TEXTS = (
    TEXTS
    + """
import json, sys
from pathlib import Path

from compress.passes.distill.material import append_inputs, augmented_inputs, check_segmentation
from compress.profile.specs.examples import AugmentSpec, VocabularySpec
from compress.encoding.tokens import encode_texts
from compress.training.trimming import write_tokenizer
from tests.tiny import tiny_bert, write_torch_artifact

folder, count = Path(sys.argv[1]), int(sys.argv[2])
model = tiny_bert(hidden=16, layers=1, heads=1, ffn=16)
teacher = write_torch_artifact(folder / "model", model).path
student = folder / "student"
student.mkdir()

def encoded(reader):
    return encode_texts(Texts(range(count)), reader / "tokenizer.json", reader / "task.json")

words = write_tokenizer(teacher, student, VocabularySpec(), encoded(teacher).ids, ("a", "b", "c"))
readers = [(teacher, encoded(teacher)), (student, encoded(student))]
check_segmentation(readers[1][1], readers[0][1], words)
embeddings = model.get_input_embeddings().weight.detach().numpy()
new = augmented_inputs(readers[0], readers, embeddings, AugmentSpec(copies=2), max_length=16, seed=0)
shown = [append_inputs(own, more) for (_, own), more in zip(readers, new)]
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
stored = sum(4 * int(one.lengths.sum()) for one in shown)
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024, "stored": stored, "texts": len(shown[0])}))
"""
)


def run(folder: Path, count: int, job: str = JOB) -> dict[str, int]:
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", job, folder, str(count)], cwd=ROOT, capture_output=True, text=True, check=False
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


@pytest.mark.slow
def test_new_texts_and_a_trimmed_vocabulary_take_no_more_for_more_examples(tmp_path: Path):
    few, many = run(tmp_path / "few", 20_000, NEW_TEXTS), run(tmp_path / "many", 400_000, NEW_TEXTS)
    assert many["texts"] == 3 * 400_000
    assert many["stored"] > 18 * few["stored"]
    # What grows is where each text begins and how long it is, in six sets of texts, and buffers up to 16 MiB; with an
    # object for each new text it would be three times as much, and more for longer texts.
    assert many["peak"] - few["peak"] < 160 * 1_000_000
