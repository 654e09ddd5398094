"""A whole job small enough for a test: a tiny teacher on disk, data that it can learn, a profile."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from click.testing import CliRunner

from compress.cli.root import main
from compress.core.artifacts import Artifact
from compress.data.splits import Examples
from compress.passes.finetune import step as finetune
from compress.profile.specs.training import FinetuneSpec
from compress.tasks.base import TrainingData
from tests.steps import context, run
from tests.tiny import text_task, tiny_bert, write_torch_artifact

WORDS_OF = {
    "colour": ("red", "green", "blue"),
    "animal": ("cat", "dog", "bird"),
    "verb": ("runs", "sleeps", "sings"),
}
FILLERS = ("the", "a", "and")


def tiny_texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Distinct texts with their labels: most of the telling words are of the label's class."""
    source = random.Random(seed)
    texts: dict[str, str] = {}
    while len(texts) < count:
        label = source.choice(sorted(WORDS_OF))
        other = source.choice(sorted(WORDS_OF))
        words = [
            *source.choices(WORDS_OF[label], k=3),
            source.choice(WORDS_OF[other]),
            *source.choices(FILLERS, k=4),
        ]
        source.shuffle(words)
        texts.setdefault(" ".join(words), label)
    return list(texts.items())


def write_job(folder: Path, hidden: int = 32, **changes: Any) -> Path:
    """Write a teacher of that width, data and profile; `changes` replace sections of the profile."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "teacher").mkdir()
    write_torch_artifact(folder / "teacher", tiny_bert(hidden=hidden, layers=2, heads=4, ffn=2 * hidden))
    lines = ["text,label", *(f"{text},{label}" for text, label in tiny_texts(400, seed=1))]
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    body = {
        "name": "tiny",
        "task": "text-classification",
        "data": {"path": "data.csv", "max_length": 16},
        "teacher": {"model": "teacher", "finetune": {"epochs": 4, "learning_rate": 3e-3, "batch_size": 16}},
        "passes": [
            {"distill": {"student": {"layers": 1, "hidden_size": 16}, "epochs": 4, "learning_rate": 5e-3}},
            {"prune": {"remove": {"feed_forward": 0.25}, "recover": {"epochs": 1, "learning_rate": 1e-3}}},
            {"quantize": {"bits": 8, "scheme": "dynamic"}},
            {"export": {"formats": ["onnx", "ort"], "golden": 4}},
        ],
        "targets": [{"threads": 1, "batch_sizes": [1, 4]}],
        "measure": {"examples": 10, "min_seconds": 0.05, "min_rounds": 5, "patience_s": 0},
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**body, **changes}, sort_keys=False))
    return file


def trained_teacher(folder: Path) -> Artifact:
    """The teacher of `write_job` as it is after its training, which is what most jobs need not repeat."""
    texts = tiny_texts(400, seed=1)
    labels = [sorted(WORDS_OF).index(label) for _, label in texts]
    first, rest = (
        Examples(tuple(text for text, _ in texts[part]), np.array(labels[part]))
        for part in (slice(0, 320), slice(320, 400))
    )
    data = TrainingData(first, rest, tuple(sorted(WORDS_OF)))
    spec = FinetuneSpec(epochs=4, learning_rate=3e-3, batch_size=16)
    source = write_torch_artifact(folder / "untrained", tiny_bert(), max_length=16)
    return run(finetune, context(folder / "trained", spec, {"model": source}, text_task(16), data))[0]


def compress(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, with its cache there, in this process: importing torch takes it seconds.

    The signals that it listens to and the threads that it gives torch are put back.
    """
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    threads = torch.get_num_threads()
    try:
        with contextlib.chdir(folder):
            done = CliRunner(env=_variables(folder)).invoke(main, list(map(str, words)))
    finally:
        torch.set_num_threads(threads)
        for number, handler in signals.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def compress_alone(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own: for what is killed, what is large, and what a fresh interpreter decides."""
    command = [sys.executable, "-m", "compress", *map(str, words)]
    environment = {**os.environ, **_variables(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _variables(folder: Path) -> dict[str, str]:
    return {"COMPRESS_CACHE": str(folder / "cache"), "COLUMNS": "200"}


def report_of(folder: Path, name: str = "tiny") -> dict[str, Any]:
    """The report's JSON."""
    report: dict[str, Any] = json.loads((folder / "reports" / name / "report.json").read_text())
    return report


def facts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What the steps of the only run of `folder` found out, by their kind."""
    records = [json.loads(file.read_text()) for file in folder.glob("runs/*/records/*.json")]
    return {record["kind"]: record["facts"] for record in records}
