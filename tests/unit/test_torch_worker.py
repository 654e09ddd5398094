"""The jobs of the runner, done by torch in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.splits import Examples
from compress.measuring import outputs_scorer
from compress.measuring.jobs import JobFolder
from compress.measuring.results import load_answers
from compress.models.io.checkpoints import load_model, save_model
from compress.models.io.plain import Origin, UserModule
from compress.models.teacher.code import call_function
from compress.models.text.sentence import SentenceEncoder
from compress.runtimes import runner
from compress.runtimes.torch_worker import TorchRuntime
from tests.tiny import text_task, tiny_bert, write_torch_artifact

TEXTS = ("red cat", "the dog sleeps and sings", "bird", "blue runs a")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_torch_artifact(tmp_path / "m").path


def feeds(artifact: Path, file: Path) -> str:
    inputs = text_task(16).encode(Examples(TEXTS, np.zeros(4, np.int64)), artifact)
    runner.write_batches(str(file), [inputs.batch([0, 1]), inputs.batch([2, 3])])
    return str(file)


def test_scores_are_those_of_the_model(artifact: Path, tmp_path: Path) -> None:
    job = {
        "kind": "score",
        "model": str(artifact),
        "scorer": outputs_scorer.__file__,
        "settings": {},
        "feeds": feeds(artifact, tmp_path / "f.npz"),
        "outputs": str(tmp_path / "o.npz"),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    assert runner.score_job(job, TorchRuntime(allow_code=True))["examples"] == 4
    model = load_model(artifact).eval()
    with torch.inference_mode():
        expected = [
            model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits
            for batch in runner.read_batches(job["feeds"])
        ]
    np.testing.assert_allclose(
        load_answers(tmp_path / "o.npz")["outputs"], torch.cat(expected).numpy(), rtol=1e-6
    )


def test_a_process_of_its_own_does_a_job(artifact: Path, tmp_path: Path) -> None:
    jobs = JobFolder(tmp_path, "torch", "cpu", 1, "here")
    job, outputs = jobs.outputs(str(artifact), feeds(artifact, tmp_path / "f.npz"))
    assert jobs.run(job)[0]["examples"] == 4
    assert load_answers(outputs)["outputs"].shape == (4, 3)


def network_of_the_digits() -> torch.nn.Module:
    profiles = Path(__file__).parents[2] / "profiles"
    source = "python:digits_cnn:build_small"
    return UserModule(call_function(source, profiles, 0, allow_code=True), Origin.of(source, profiles)).eval()


def sentence_encoder() -> torch.nn.Module:
    return SentenceEncoder(tiny_bert().bert, "mean", True).eval()


IDS = np.array([[2, 5, 6, 3], [2, 7, 3, 0]])
BATCHES = {
    "images": {"pixel_values": np.random.default_rng(0).random((2, 1, 8, 8), np.float32)},
    "sentences": {"input_ids": IDS, "attention_mask": (IDS > 0).astype(np.int64)},
}


@pytest.mark.parametrize(
    ("kind", "make", "width"), [("images", network_of_the_digits, 10), ("sentences", sentence_encoder, 32)]
)
def test_models_of_other_kinds_run_as_well(
    kind: str, make: Callable[[], torch.nn.Module], width: int, tmp_path: Path
) -> None:
    model, batch = make(), BATCHES[kind]
    save_model(model, tmp_path)
    got = TorchRuntime(allow_code=True).open(str(tmp_path), 1, "cpu")(batch)
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
    assert (got.shape, got.dtype) == ((2, width), np.float32)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_loop_and_the_counter_are_the_runners(artifact: Path, tmp_path: Path) -> None:
    path = feeds(artifact, tmp_path / "f.npz")
    common = {"threads": torch.get_num_threads(), "device": "cpu"}
    latency = {
        "models": [str(artifact)] * 2,
        "load_order": [1, 0],
        "scenarios": [{"feeds": [path, path]}],
        "seconds": 0.05,
        "rounds": 4,
        "share": [0, 1],
    }
    (scenario,) = runner.latency_job({**common, **latency}, TorchRuntime(allow_code=True))["scenarios"]
    assert [len(times) >= 4 for times in scenario["samples_ns"]] == [True, True]
    memory = runner.memory_job(
        {**common, "model": str(artifact), "feeds": path}, TorchRuntime(allow_code=True)
    )
    assert memory["peak_bytes"] >= memory["before_load_bytes"] > 0
    assert memory["gpu_peak_bytes"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_it_says_so() -> None:
    with pytest.raises(runner.RunnerError, match="cannot use the GPU: "):
        TorchRuntime(allow_code=True).prepare(1, "cuda")
    assert TorchRuntime(allow_code=True).gpu_peak_bytes() is None
