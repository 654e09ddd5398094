"""A convolutional teacher of digits, from the data to a trained artifact, and on after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from compress.core.artifacts import Artifact, seal
from compress.core.spec import Spec
from compress.core.terminal.progress import Advance, SilentProgress
from compress.data.sources import load
from compress.data.splits import Splits
from compress.models.io.checkpoints import load_model
from compress.passes.finetune.step import run as finetune
from compress.passes.source.step import run as source
from compress.profile.schema import DataSpec, TargetSpec, TeacherSpec
from compress.profile.specs.training import FinetuneSpec
from compress.step import StepContext
from compress.targets.local import resolve
from compress.tasks.base import TrainingData, Truth, task_of
from compress.training.checkpointing import load_checkpoint
from compress.training.prediction import score

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

DATA = DataSpec(path="sklearn://digits")
TASK = task_of("image-classification", DATA)
TRAINED = FinetuneSpec(epochs=8, learning_rate=5e-3, batch_size=64, augment=True, smoothing=0.1)
CODE = """
from torch import nn

def block(before, after):
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

def cnn():
    layers = [*block(1, 24), *block(24, 32), nn.MaxPool2d(2), *block(32, 48)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
"""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load(DATA, Path.cwd(), 0, "image-classification")


def context(
    folder: Path, splits: Splits, spec: Spec, inputs: dict[str, Artifact], **changes: Any
) -> StepContext:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "progress": SilentProgress(),
        "shared": folder / "shared",
        "base": folder.parent,
        "allow_code": True,
    }
    return StepContext(
        spec=spec,
        inputs=inputs,
        task=TASK,
        data=TrainingData(splits.train, splits.validation, splits.labels),
        out=folder / "out",
        work=folder / "work",
        seed=0,
        precision="fp32",
        device="cpu",
        timing_target=resolve(TargetSpec()),
        **{**settings, **changes},
    )


def finished(ctx: StepContext, run: Any) -> Artifact:
    result = run(ctx)
    return seal(ctx.out, result.form, result.facts)


@pytest.fixture(scope="module")
def untrained(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    base = tmp_path_factory.mktemp("digits")
    (base / "shop_digits.py").write_text(CODE)
    spec = TeacherSpec(model="python:shop_digits:cnn", finetune=TRAINED)
    return finished(context(base / "source", splits, spec, {}), source)


@pytest.fixture(scope="module")
def teacher(untrained: Artifact, splits: Splits) -> Artifact:
    folder = untrained.path.parents[1] / "teacher"
    return finished(context(folder, splits, TRAINED, {"model": untrained}), finetune)


def accuracy(artifact: Artifact, splits: Splits) -> float:
    inputs = TASK.encode(splits.test, artifact.path)
    truth = Truth.of(splits.test)
    return score(
        load_model(artifact.path, allow_code=True), inputs, truth, TASK, precision="fp32", device="cpu"
    )


def test_a_small_network_learns_the_digits(untrained: Artifact, teacher: Artifact, splits: Splits) -> None:
    assert teacher.facts["validation_score"] > 0.97
    assert accuracy(teacher, splits) > 0.96
    assert accuracy(untrained, splits) < 0.3
    assert teacher.facts["parameters"] == untrained.facts["parameters"]


def test_the_source_measured_the_training_split(untrained: Artifact, splits: Splits) -> None:
    image = untrained.read_json("task.json")["image"]
    pixels = np.stack(splits.train.items) / 255
    assert image["mean"] == pytest.approx([pixels.mean()])
    assert image["std"] == pytest.approx([pixels.std()])
    encoded = TASK.encode(splits.train, untrained.path).batch(np.arange(len(splits.train)))["pixel_values"]
    assert encoded.mean() == pytest.approx(0, abs=1e-4)
    assert encoded.std() == pytest.approx(1, abs=1e-4)


class Stopped(Exception):
    pass


class StopsAfter(SilentProgress):
    """Stops the training after so many steps, as a kill would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str | None = None) -> None:
            self.left -= steps
            if self.left < 0:
                raise Stopped

        yield advance


def test_a_training_with_moved_images_goes_on_bit_by_bit(
    untrained: Artifact, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compress.training.loop as loop

    monkeypatch.setattr(
        loop.train, "__kwdefaults__", {**loop.train.__kwdefaults__, "checkpoint_seconds": 0.0}
    )
    spec = TRAINED.model_copy(update={"epochs": 1})
    inputs = {"model": untrained}
    whole = finished(context(tmp_path / "whole", splits, spec, inputs), finetune)
    stopped = context(tmp_path / "stopped", splits, spec, inputs, progress=StopsAfter(9))
    with pytest.raises(Stopped):
        finetune(stopped)
    checkpoint = load_checkpoint(stopped.work / "finetune")
    assert checkpoint is not None
    assert 0 < checkpoint.values["step"] < whole.facts["steps"]
    again = finished(context(tmp_path / "stopped", splits, spec, inputs), finetune)
    first, second = (load_file(artifact.path / "model.safetensors") for artifact in (whole, again))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
