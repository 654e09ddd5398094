"""What runs on a GPU, on one: marked `gpu`. What can be tried on a CPU is tried there too, so that the test itself is
known to work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from compress.core.artifacts import Artifact
from compress.core.numerics import local_numerics, visible_gpu
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.engine import worker
from compress.engine.resolve import resolve_job
from compress.models.io.checkpoints import load_model
from compress.models.io.low_bit import to_device
from compress.passes.quantize.bitsandbytes import step as bitsandbytes_step
from compress.passes.quantize.bitsandbytes.spec import BitsandbytesSpec
from compress.profile.load import load_profile
from compress.profile.specs.training import TrainingSpec
from compress.runtimes import runner
from compress.runtimes.torch_worker import TorchRuntime
from compress.tasks.base import TrainingData
from compress.training.batches import to_tensors
from compress.training.checkpointing import weights_of
from compress.training.distributed.world import STRATEGY_VARIABLE, World, current_world
from compress.training.loop import TrainResult, _parallel, _WithLoss, train
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.objective.means import SingleMean
from compress.training.prediction import predict
from compress.training.signals.teachers import LiveSignals, cached_signals
from tests.gpu import gpu_target
from tests.jobs import compress, compress_alone, report_of, write_job
from tests.steps import context, run
from tests.tiny import LABELS, text_task, tiny_bert, write_torch_artifact
from tests.unit.test_training_loop import examples

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])


def trained(
    work: Path,
    device: Any,
    *,
    precision: Any = "fp32",
    stop_at: int | None = None,
    seconds: float = 1e9,
    **spec: Any,
) -> tuple[nn.Module, TrainResult | None]:
    """A tiny classifier after its training, which may be stopped before a step."""
    inputs, labels = examples(120)
    model, steps = tiny_bert(), 0

    def loss(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        nonlocal steps
        assert all(tensor.device.type == device for tensor in (outputs, *batch.values()))
        if steps == stop_at:
            raise KeyboardInterrupt
        steps += 1
        return label_cross_entropy(outputs, labels[indices].to(outputs.device))

    def validate(model: nn.Module) -> float:
        found = predict(model, inputs, precision=precision, device=device)
        return float((found.argmax(1) == labels.numpy()).mean())

    wanted = TrainingSpec(**{"epochs": 6, "learning_rate": 3e-3, "batch_size": 12, "dropout": 0.1, **spec})
    try:
        result = train(
            model, inputs, loss, wanted, validate, work=work, seed=3, precision=precision, device=device,
            progress=SilentProgress(), name="t", checkpoint_seconds=seconds,
        )  # fmt: skip
    except KeyboardInterrupt:
        return model, None
    return model, result


@DEVICES
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_learns(tmp_path: Path, device: str, precision: str) -> None:
    model, result = trained(tmp_path, device, precision=precision)
    assert result is not None
    assert result.best_score > 0.9
    # Autocast multiplies in 16 bits; the weights and the optimizer stay as they are.
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert {one.device.type for one in model.parameters()} == {device}


@DEVICES
def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path, device: str) -> None:
    """With dropout: the random state of the device is in the checkpoint. A GPU sums in any order: weights are near."""
    straight, _ = trained(tmp_path / "straight", device, seconds=0.0)
    _, result = trained(tmp_path / "stopped", device, seconds=0.0, stop_at=45)
    assert result is None
    resumed, _ = trained(tmp_path / "stopped", device, seconds=0.0)
    for name, tensor in weights_of(straight).items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(
                weights_of(resumed)[name], tensor, atol=0 if device == "cpu" else 2e-3, rtol=0
            )


@pytest.mark.gpu
def test_a_gpu_trains_to_what_the_cpu_trains_to(tmp_path: Path) -> None:
    gpu_target("torch")
    scores = {device: trained(tmp_path / device, device, dropout=0.0)[1] for device in ("cpu", "cuda")}
    assert all(scores.values())
    found = {device: result.best_score for device, result in scores.items() if result is not None}
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.05)


@pytest.mark.gpu
def test_numerics_are_those_that_torch_sees() -> None:
    gpu_target("torch")
    assert local_numerics().device == "cuda"
    assert local_numerics().bf16 == (torch.cuda.get_device_capability()[0] >= 8)
    assert visible_gpu() == (torch.cuda.get_device_name(), torch.cuda.get_device_capability()[0])


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Joins a group of this process alone."""
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")

    def join(device: str) -> None:
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        meeting = f"file://{tmp_path / 'meeting'}"
        distributed.init_process_group(backend, init_method=meeting, rank=0, world_size=1)

    yield join
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.mark.gpu
def test_a_process_meets_the_others_over_nccl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `torch.distributed.run` starts it, alone; what all must know travels over gloo beside it."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29531")
    monkeypatch.delenv(STRATEGY_VARIABLE, raising=False)
    job = resolve_job(load_profile(write_job(tmp_path, train={"strategy": "fsdp"})), allow_code=False)
    worker._join(job, 0)
    try:
        assert current_world() == World(0, 1, "fsdp")
        for device in ("cpu", "cuda"):
            one = torch.ones(3, device=device)
            distributed.all_reduce(one)
            assert one.tolist() == [1, 1, 1]
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
        os.environ.pop(STRATEGY_VARIABLE, None)


@DEVICES
def test_a_model_that_is_spread_trains_alike(
    tmp_path: Path, device: Any, one_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over one process: NCCL refuses two on one card."""
    plain, _ = trained(tmp_path / "plain", device, dropout=0.0)
    one_process(device)
    monkeypatch.setenv(STRATEGY_VARIABLE, "fsdp")
    spread, result = trained(tmp_path / "spread", device, dropout=0.0, seconds=0.0)
    assert result is not None
    assert not any(isinstance(one.data, DTensor) for one in spread.parameters())
    for name, tensor in weights_of(plain).items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(weights_of(spread)[name], tensor, atol=2e-3, rtol=1e-3)


@DEVICES
def test_gradients_that_are_averaged_over_one_process_are_its_own(device: Any, one_process: Any) -> None:
    one_process(device)
    inputs, labels = examples(8)
    batch = to_tensors(inputs.batch(range(8)), device)

    def of_labels(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        return label_cross_entropy(outputs, labels[indices].to(outputs.device))

    loss = SingleMean(of_labels)
    own, joined = (tiny_bert().to(device) for _ in range(2))
    _WithLoss(own, loss)(batch, np.arange(8)).backward()
    parallel = _parallel(_WithLoss(joined, loss), device)
    parallel(batch, np.arange(8)).backward()
    for one, other in zip(own.parameters(), joined.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, atol=1e-5, rtol=1e-4)


@DEVICES
def test_signals_of_a_teacher_are_those_that_it_gives(tmp_path: Path, device: Any) -> None:
    inputs, _ = examples(40)
    teacher = tiny_bert().to(device)
    names = ("outputs", "hidden.1")
    kept = cached_signals(
        lambda: teacher, inputs, names, tmp_path, teacher_digest="t", device=device, precision="fp32",
        progress=SilentProgress(), chunk=16,
    )  # fmt: skip
    live = LiveSignals(teacher, inputs, names, device=device, precision="fp32")
    indices = np.array([3, 17, 5])
    stored, given = kept.take(indices), live.take(indices)
    mask = to_tensors(inputs.batch(indices), device)["attention_mask"].bool()
    for name in names:
        assert stored[name].device.type == given[name].device.type == device
        assert stored[name].dtype is torch.float32
    torch.testing.assert_close(stored["outputs"], given["outputs"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stored["hidden.1"][mask], given["hidden.1"][mask], atol=2e-3, rtol=2e-3)


WAYS: tuple[dict[str, Any], ...] = (
    {"bits": 8},
    {"bits": 4},
    {"bits": 4, "double_quantization": False},
    {"bits": 4, "numbers": "fp4"},
)


def packed(folder: Path, **keys: Any) -> tuple[Artifact, Artifact]:
    """A model, and the same as bitsandbytes packs it."""
    source = write_torch_artifact(folder / "float", tiny_bert(hidden=64, ffn=128))
    spec = BitsandbytesSpec.model_validate({"library": "bitsandbytes", **keys})
    data = Examples(("red cat",), np.zeros(1, np.int64))
    ctx = context(folder / "packed", spec, {"model": source}, text_task(32), TrainingData(data, data, LABELS))
    return source, run(bitsandbytes_step, ctx)[0]


@DEVICES
@pytest.mark.parametrize("keys", WAYS, ids=str)
def test_packed_layers_multiply_on_the_device(tmp_path: Path, device: str, keys: dict[str, Any]) -> None:
    source, after = packed(tmp_path, **keys)
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 10, 3, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    with torch.inference_mode():
        wanted = load_model(source.path)(**batch).logits
        model = to_device(load_model(after.path), device)
        found = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
    for parameter in model.parameters():
        beside = (getattr(parameter, name, None) for name in ("CB", "SCB"))
        assert all(one is None or one.device == parameter.device for one in beside)
        assert parameter.device.type == device
    assert found.device.type == device
    assert 0 < float((found.cpu() - wanted).abs().max()) < (0.05 if keys["bits"] == 8 else 0.5)


def test_scales_of_eight_bit_layers_move_with_their_weights(tmp_path: Path) -> None:
    """`Module.to` gives a parameter new data, and leaves what else stands at it where it was."""
    _, after = packed(tmp_path, bits=8)
    model = load_model(after.path)
    name, weight = next(
        (name, one) for name, one in model.named_parameters() if getattr(one, "CB", None) is not None
    )
    # As the parameter is after such a move.
    weight.data = weight.data.clone()
    assert weight.CB.data_ptr() != weight.data_ptr()
    to_device(model, "cpu")
    weight = model.get_parameter(name)
    assert weight.CB.data_ptr() == weight.data_ptr()


@DEVICES
@pytest.mark.parametrize("numbers", ["float", "bits 8", "bits 4"])
def test_the_runtime_answers_times_and_weighs(tmp_path: Path, device: str, numbers: str) -> None:
    keys = {"bits": int(numbers[-1])} if numbers != "float" else {"bits": 8}
    source, after = packed(tmp_path, **keys)
    artifact = source if numbers == "float" else after
    inputs, _ = examples(6)
    path = str(tmp_path / "feeds.npz")
    runner.write_batches(path, [dict(inputs.batch([index])) for index in range(6)])
    job = {"model": str(artifact.path), "feeds": path, "threads": 1, "device": device}
    runtime: Any = TorchRuntime()
    runtime.prepare(1, device)
    answers = runtime.open(str(artifact.path), 1, device)
    found = np.concatenate([answers(dict(inputs.batch([index]))) for index in range(6)])
    wanted = predict(load_model(source.path), inputs, precision="fp32", device="cpu")
    assert np.abs(found - wanted).max() < {"float": 1e-4, "bits 8": 0.05, "bits 4": 0.5}[numbers]
    latency = {**job, "models": [str(artifact.path)] * 2, "load_order": [0, 1], "scenarios": [{"feeds": [path, path]}],
               "seconds": 0.05, "rounds": 4, "share": [0, 1]}  # fmt: skip
    (scenario,) = runner.latency_job(latency, runtime)["scenarios"]
    assert all(min(times) > 0 for times in scenario["samples_ns"])
    weighed = runner.memory_job(job, runtime)["gpu_peak_bytes"]
    assert (weighed or 0) > 0 if device == "cuda" else weighed is None


@pytest.mark.gpu
def test_a_run_on_two_targets_stands_side_by_side_in_its_report(tmp_path: Path) -> None:
    """Trained on the GPU; each row measured there and on the CPU, with the same answers but for a few."""
    gpu_target("torch")
    targets = [
        {"device": "cuda", "runtime": "torch", "batch_sizes": [1, 8]},
        {"device": "cpu", "runtime": "torch"},
    ]
    distill = {"distill": {"student": {"layers": 1, "hidden_size": 16}, "epochs": 4, "learning_rate": 5e-3}}
    profile = write_job(tmp_path, passes=[distill], targets=targets)
    done = compress("run", profile, "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path)
    assert report["targets"] == ["cuda-torch-1t", "cpu-torch-1t"]
    for row in report["rows"]:
        on_gpu, on_cpu = row["targets"]
        assert on_gpu["score"] == pytest.approx(on_cpu["score"], abs=0.05)
        assert on_gpu["gpu_peak_memory_mb"] > 0
        assert on_cpu["gpu_peak_memory_mb"] is None
        assert [timed["batch_size"] for timed in on_gpu["latency"]] == [1, 8]
    (record,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(record.read_text())["environment"]["training"]["device"] == "cuda"
    assert "GPU peak MB" in (tmp_path / "reports" / "tiny" / "report.md").read_text()


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_targets_says_that_the_card_is_ready(tmp_path: Path, runtime: str) -> None:
    gpu_target(runtime)
    profile = write_job(tmp_path, passes=[{"prune": {"remove": {"feed_forward": 0.25}, "recover": None}}],
                        targets=[{"device": "cuda", "runtime": runtime}])  # fmt: skip
    done = compress("targets", profile, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.cuda.get_device_name() in done.stdout


@pytest.mark.gpu
def test_a_file_runs_on_the_cuda_provider_as_on_the_cpu(tmp_path: Path) -> None:
    """Integers, FP16 and FP32: the provider takes what it can, and what it cannot the CPU's does."""
    gpu_target("onnxruntime")
    targets = [{"device": "cuda"}, {"device": "cpu"}]
    profile = write_job(tmp_path, passes=[{"quantize": {"bits": 16}}], targets=targets)
    done = compress("run", profile, "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["step"]: row["targets"] for row in report_of(tmp_path)["rows"]}
    assert "baseline.fp16" in rows
    for measured in rows.values():
        on_gpu = measured[0]
        assert on_gpu["gpu_peak_memory_mb"] is None or on_gpu["gpu_peak_memory_mb"] > 0
        assert all(one["score"] == pytest.approx(on_gpu["score"], abs=0.05) for one in measured)


@pytest.mark.gpu
def test_a_card_that_may_not_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_target("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    profile = write_job(tmp_path, targets=[{"device": "cuda", "runtime": "torch"}])
    done = compress_alone("run", profile, "--quiet", folder=tmp_path)
    assert done.returncode == 5
    assert "torch sees no CUDA device" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has several cards")
def test_more_processes_than_cards_are_told(tmp_path: Path) -> None:
    gpu_target("torch")
    profile = write_job(tmp_path, train={"processes": 2})
    done = compress_alone("run", profile, "--quiet", folder=tmp_path)
    assert done.returncode == 2
    assert "2 processes need a GPU each, and this machine has 1" in done.stderr
