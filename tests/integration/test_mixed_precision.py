"""Mixed precision on a model made fragile: one channel of each layer's values is 10,000 times the others."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from compress.core.artifacts import Artifact
from compress.core.errors import PassError
from compress.data.splits import Examples
from compress.lowering import step as lower
from compress.measuring.variants import variant_outputs
from compress.passes.export.spec import ExportSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.mixed import step as mixed
from compress.passes.quantize.mixed.spec import MixedSpec
from compress.step import StepResult
from compress.tasks.base import TrainingData
from tests.steps import context, run
from tests.tiny import LABELS, WORDS, text_task, tiny_bert, tiny_tokenizer, write_torch_artifact

FACTOR = 1e4
TASK = text_task(32)


def texts(seed: int, count: int) -> Examples:
    rng = np.random.default_rng(seed)
    drawn = tuple(" ".join(rng.choice(WORDS, rng.integers(2, 24))) for _ in range(count))
    return Examples(drawn, rng.integers(0, len(LABELS), count))


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = tiny_bert(vocab=600, hidden=32)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            # What the values gain the projection after them takes back, so the float model is what it was.
            layer.attention.self.value.weight[0] *= FACTOR
            layer.attention.self.value.bias[0] *= FACTOR
            layer.attention.output.dense.weight[:, 0] /= FACTOR
    words = [*WORDS, *(f"w{index}" for index in range(600 - len(WORDS) - 5))]
    source = write_torch_artifact(tmp_path_factory.mktemp("torch"), model, tiny_tokenizer(words))
    shown = TrainingData(texts(0, 60), texts(1, 20), LABELS)
    folder = tmp_path_factory.mktemp("lower")
    return run(lower, context(folder, ExportSpec(), {"model": source}, TASK, shown))[0]


@pytest.fixture(scope="module")
def data(fragile: Artifact) -> TrainingData:
    """Validation texts that are labelled by the float model itself: it makes no mistakes."""
    validation = texts(1, 80)
    inputs = TASK.encode(validation, fragile.path)
    outputs = variant_outputs([fragile.model_file], inputs, np.arange(len(inputs)), 1)[0]
    return TrainingData(texts(0, 60), Examples(validation.items, outputs.argmax(axis=1)), LABELS)


def quantized(
    folder: Path, model: Artifact, data: TrainingData, spec: MixedSpec | None
) -> tuple[Artifact, StepResult]:
    asked = Int8Spec(scheme="dynamic", mixed=spec)
    return run(quantize, context(folder, asked, {"model": model}, TASK, data))


@pytest.fixture(scope="module")
def least_mb(fragile: Artifact, data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The size with every layer in integers."""
    mb: float = quantized(tmp_path_factory.mktemp("all"), fragile, data, None)[1].facts["size_mb_after"]
    return mb


def test_layers_are_given_back_until_the_loss_holds(fragile: Artifact, data: TrainingData, tmp_path: Path):
    artifact, result = quantized(tmp_path, fragile, data, MixedSpec(max_drop=0.05, examples=40))
    found = result.facts["mixed"]
    assert found["score_lost_in_integers"] > 0.1
    assert found["held"]
    assert found["score_lost"] <= 0.05
    # The projections that read the channel are the worst by far, and nothing else has to go.
    worst = sorted(found["sensitivities"], key=lambda one: -one["divergence"])[:2]
    assert {one["layer"] for one in worst} == {
        f"bert.encoder.layer.{number}.attention.output.dense" for number in (0, 1)
    }
    assert set(found["given_back"]) <= {one["layer"] for one in worst}
    assert result.facts["float_matmuls"] == 0
    stored = {
        tensor.name: tensor.data_type for tensor in onnx.load(str(artifact.model_file)).graph.initializer
    }
    halves = [name for name, kind in stored.items() if kind == onnx.TensorProto.FLOAT16]
    assert len(halves) == len(found["given_back"])


@pytest.mark.slow
def test_what_loses_most_is_given_back_within_a_size(
    fragile: Artifact, data: TrainingData, least_mb: float, tmp_path: Path
):
    room = 2 * 32 * 32 / 1e6
    artifact, result = quantized(
        tmp_path / "some", fragile, data, MixedSpec(size_mb=least_mb + 1.1 * room, examples=40)
    )
    found = result.facts["mixed"]
    assert artifact.model_file.stat().st_size / 1e6 <= least_mb + 1.1 * room
    assert found["score_lost"] < found["score_lost_in_integers"]
    assert any("attention.output.dense" in name for name in found["given_back"])
    with pytest.raises(PassError, match="with every layer in integers the file has") as caught:
        quantized(tmp_path / "none", fragile, data, MixedSpec(size_mb=least_mb / 2))
    assert caught.value.where == "quantize.mixed.size_mb"


@pytest.mark.slow
def test_the_written_file_decides_what_fits(
    fragile: Artifact,
    data: TrainingData,
    least_mb: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    limit = least_mb + 2.2 * 32 * 32 / 1e6
    # The layers one at a time predict that there is room for all.
    monkeypatch.setattr(mixed, "restore_within_budget", lambda losses, *_: frozenset(range(len(losses))))
    artifact, result = quantized(tmp_path / "some", fragile, data, MixedSpec(size_mb=limit, examples=16))
    assert artifact.model_file.stat().st_size / 1e6 <= limit
    found = result.facts["mixed"]
    assert found["held"]
    assert 0 < len(found["given_back"]) < found["layers"] == found["layers_measured"]


@pytest.mark.slow
def test_layers_are_measured_while_there_is_time_and_then_one_model_is_tried(
    fragile: Artifact, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # A clock that a look at moves by a second: ten of them are over after some layers.
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr(mixed, "time", clock)
    _, result = quantized(tmp_path, fragile, data, MixedSpec(max_drop=0.05, examples=16, minutes=10 / 60))
    found = result.facts["mixed"]
    assert 1 < found["layers_measured"] == len(found["sensitivities"]) < found["layers"]
    assert [bool(trial["given_back"]) for trial in found["trials"]] == [False, True]
    assert found["score_lost"] <= found["score_lost_in_integers"]


@pytest.mark.slow
def test_what_loses_most_is_given_back_within_a_latency(
    fragile: Artifact, data: TrainingData, tmp_path: Path
):
    found = quantized(tmp_path / "some", fragile, data, MixedSpec(latency_ms=1000, examples=16))[1].facts[
        "mixed"
    ]
    # There is time for everything that loses anything.
    assert found["held"]
    assert found["measured_ms"] < 1000
    assert abs(found["score_lost"]) < 0.02
    with pytest.raises(PassError, match="with every layer in integers the model takes") as caught:
        quantized(tmp_path / "none", fragile, data, MixedSpec(latency_ms=1e-4))
    assert caught.value.where == "quantize.mixed.latency_ms"


def test_the_best_model_by_the_end_of_the_time_is_kept(fragile: Artifact, data: TrainingData, tmp_path: Path):
    found = quantized(tmp_path, fragile, data, MixedSpec(max_drop=0.0, minutes=1e-3))[1].facts["mixed"]
    assert not found["held"]
    assert found["reason"] == "the time ran out"
    assert [trial["given_back"] for trial in found["trials"]] == [0, 1]
