"""Training in two processes: the same cache, one report, an equal student; and what a killed process leaves."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from compress.core.artifacts import open_artifact
from compress.core.disk.files import sha256_file, write_json
from compress.core.terminal.progress import SilentProgress
from compress.encoding.tokens import TokenInputs
from compress.losses.contract import LossSpec
from compress.losses.table import LOSS_ENTRIES
from compress.passes.prune import step as prune
from compress.passes.prune.choosing import latency_table, targets
from compress.passes.prune.spec import PruneSpec
from compress.profile.specs.training import TrainingSpec
from compress.tasks.base import TrainingData
from compress.training.checkpointing import weights_of
from compress.training.distributed.world import STRATEGY_VARIABLE, current_world
from compress.training.loop import train
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import TrainingModule
from compress.training.objective.weighted_losses import objective_between
from compress.training.on_policy import OnPolicy, OnPolicySettings
from compress.training.signals.answers import from_model, no_signals
from tests import steps
from tests.integration.test_training_steps import examples as texts
from tests.jobs import compress, facts_of, report_of, trained_teacher, write_job
from tests.processes import ends_of, start, start_compress
from tests.timings import shorten
from tests.tiny import LABELS, text_task, tiny_bert, write_torch_artifact
from tests.tiny_decoders import tiny_decoder
from tests.unit.test_losses_in_parts import LESSONS, check_same, hide_all, learnt
from tests.unit.test_training_loop import examples


def meet(rank: int, processes: int, folder: Path, strategy: str = "ddp") -> None:
    """Be one of so many processes that meet in a folder."""
    torch.set_num_threads(1)
    os.environ.update({"GLOO_SOCKET_IFNAME": "lo", STRATEGY_VARIABLE: strategy})
    if processes > 1:
        meeting = f"file://{folder / 'meeting'}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)


def train_tiny(
    rank: int, processes: int, folder: Path, stop_at: int = 0, dropout: float = 0.0, strategy: str = "ddp"
) -> None:
    """Train a tiny model as one of so many processes, up to one step; the weights are left in the folder."""
    meet(rank, processes, folder, strategy)
    inputs, labels = examples(61)
    model, steps = tiny_bert(), 0

    def loss(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            os._exit(1)
        return label_cross_entropy(outputs, labels[indices])

    def validate(model: nn.Module) -> float:
        spread = any(isinstance(one, DTensor) for one in gc.get_objects())
        (folder / f"spread-{rank}").write_text(str(spread))
        return rank

    spec = TrainingSpec(epochs=3, learning_rate=3e-3, batch_size=12, dropout=dropout)
    work = folder / ("work" if rank == 0 else "other")
    train(
        model, inputs, loss, spec, validate, work=work, seed=7, precision="fp32",
        device="cpu", progress=SilentProgress(), name="t", checkpoint_seconds=0.0 if stop_at else 60.0,
    )  # fmt: skip
    save_file(
        {name: tensor.clone() for name, tensor in weights_of(model).items()},
        folder / f"rank-{rank}.safetensors",
    )
    if processes > 1:
        distributed.destroy_process_group()


def train_in(
    folder: Path, processes: int, stop_at: int = 0, dropout: float = 0.0, strategy: str = "ddp"
) -> list[int | None]:
    """Train a tiny model in so many processes; how each of them ended."""
    folder.mkdir(exist_ok=True)
    (folder / "meeting").unlink(missing_ok=True)
    running = [
        start(train_tiny, rank, processes, folder, stop_at, dropout, strategy) for rank in range(processes)
    ]
    return ends_of(running)


def train_writing(rank: int, processes: int, folder: Path) -> None:
    """Train a tiny decoder on what it writes itself, as one of so many processes."""
    meet(rank, processes, folder)
    student, teacher = tiny_decoder("llama"), tiny_decoder("llama, tied with biases")
    prompts = [[5, 7, 11], [17, 19], [23, 29, 31, 37], [41, 43], [47, 53, 59], [61, 67], [71, 73, 79]]
    inputs = TokenInputs([np.array(one) for one in prompts], ("input_ids", "attention_mask"), 0)
    how = OnPolicySettings(1.0, inputs.ragged, 5, 6, (2,), 1.0, seed=3)
    policy = OnPolicy(
        student, how, inputs, parts=2, world=current_world(), precision="fp32", device="cpu", decode=str
    )
    logits: LossSpec = LOSS_ENTRIES.parse("logits", {"temperature": 1, "top_k": "all"})
    objective = objective_between([logits], student, (folder, inputs), (teacher, inputs), seed=0)
    module = TrainingModule(student, objective)
    answers = policy.with_teacher(from_model(teacher, objective.teacher_needs, "cpu"), no_signals)
    spec = TrainingSpec(epochs=3, learning_rate=1e-3, batch_size=5, accumulate=2, dropout=0.0)
    train(
        module, inputs, batch_loss(module, answers, np.zeros(7, np.int64)), spec, lambda model: 0.0,
        work=folder / f"work-{rank}", seed=7, precision="fp32", device="cpu", progress=SilentProgress(), name="t",
        keep="last", replacement=policy,
    )  # fmt: skip
    told = {name: policy.stats[name] for name in ("steps", "answers", "tokens", "ended")}
    write_json(folder / f"told-{rank}.json", told)
    save_file(
        {name: tensor.clone() for name, tensor in weights_of(student).items()},
        folder / f"rank-{rank}.safetensors",
    )
    if processes > 1:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_write_their_shares_of_what_one_would_write(tmp_path: Path):
    """7 prompts in batches of 5 and 2, in two parts: in the second batch one process writes nothing of its own."""
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        write_json(folder / "task.json", {})
        running = [start(train_writing, rank, processes, folder) for rank in range(processes)]
        assert ends_of(running) == [0] * processes
    one, two, other = weights(tmp_path / "1"), weights(tmp_path / "2"), weights(tmp_path / "2", rank=1)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-3)
        assert torch.equal(two[name], other[name])
    told = [(tmp_path / name).read_text() for name in ("1/told-0.json", "2/told-0.json", "2/told-1.json")]
    assert told[0] == told[1] == told[2]
    assert json.loads(told[0])["steps"] == 6


def train_in_parts(rank: int, processes: int, folder: Path, name: str) -> None:
    """Take a step over examples of unequal length, as one of so many processes; its loss and gradients are left."""
    meet(rank, processes, folder)
    with pytest.MonkeyPatch.context() as patch:
        hide_all(patch)
        loss, gradients = learnt(LESSONS[name], 2, folder / f"work-{rank}")
    write_json(folder / f"loss-{rank}.json", {"loss": loss})
    save_file(gradients, folder / f"rank-{rank}.safetensors")
    if processes > 1:
        distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_step_of_two_processes_is_that_of_one(tmp_path: Path, name: str):
    """Though labelled examples, real tokens and trusted ones are unequally many in each process and part."""
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        running = [start(train_in_parts, rank, processes, folder, name) for rank in range(processes)]
        assert ends_of(running) == [0] * processes
        found.append((json.loads((folder / "loss-0.json").read_text())["loss"], weights(folder)))
    check_same(found[1], found[0])


def weights(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"rank-{rank}.safetensors")


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_processes_give_the_weights_of_one_up_to_the_order_of_sums(tmp_path: Path, strategy: str):
    """61 examples in batches of 12: the last batch holds one, and one process has nothing of its own in it."""
    for processes in (1, 2):
        assert train_in(tmp_path / str(processes), processes, strategy=strategy) == [0] * processes
        spread = (tmp_path / str(processes) / "spread-0").read_text()
        assert spread == str(processes == 2 and strategy == "fsdp")
    one, two, other = weights(tmp_path / "1"), weights(tmp_path / "2"), weights(tmp_path / "2", rank=1)
    for name, tensor in one.items():
        # The gradient of a key's bias is 0 but for rounding, and Adam makes steps of rounding.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-3)
        assert torch.equal(two[name], other[name])
    assert any(not torch.equal(two[name], tensor) for name, tensor in one.items())


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_go_on_from_their_checkpoint_bit_for_bit(tmp_path: Path, strategy: str):
    """With dropout, so that the random state of each process counts."""
    assert train_in(tmp_path / "straight", 2, 0, 0.2, strategy) == [0, 0]
    assert train_in(tmp_path / "killed", 2, 8, 0.2, strategy)[0] == 1
    assert (tmp_path / "killed" / "work" / "checkpoint.json").exists()
    assert not (tmp_path / "killed" / "other").exists()
    assert train_in(tmp_path / "killed", 2, 0, 0.2, strategy) == [0, 0]
    straight, resumed = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job in one process, whose teacher is trained already, and its profile `tiny.yaml`."""
    folder = tmp_path_factory.mktemp("jobs")
    profile = write_job(folder / "job")
    shutil.rmtree(folder / "job" / "teacher")
    shutil.copytree(trained_teacher(folder).path, folder / "job" / "teacher")
    body: dict[str, Any] = yaml.safe_load(profile.read_text())
    body["teacher"] = {"model": "teacher"}
    body["passes"] = body["passes"][:1]
    body["passes"][0]["distill"] |= {"epochs": 12, "precision": "fp32"}
    profile.write_text(yaml.safe_dump(body))
    result = compress("run", profile, folder=folder / "job")
    assert result.returncode == 0, result.stderr
    return folder / "job"


def signals(folder: Path) -> dict[str, int]:
    """When each file of teachers' signals was written."""
    files = (folder / "cache" / "signals").rglob("*.bin")
    return {str(file): file.stat().st_mtime_ns for file in files}


@pytest.mark.slow
def test_a_run_in_two_processes_gives_the_same_cache_one_report_and_as_good_a_student(job: Path):
    """Also where one of the processes was killed: that ends the run with its error, and the command goes on."""
    one, said = report_of(job)["rows"], signals(job)
    assert said
    words = ("run", job / "tiny.yaml", "--set", "train.processes=2")
    run = start_compress(*words, folder=job, cache=job / "cache", errors=job / "errors")
    workers = wait_for_workers(run, job)
    workers[1].send_signal(signal.SIGKILL)
    run.join(60)
    errors = (job / "errors").read_text()
    assert run.exitcode == 1, errors
    assert "a training process was killed by SIGKILL" in errors
    assert "resumes from the last checkpoint" in errors
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    result = compress(*words, folder=job)
    assert result.returncode == 0, result.stderr
    report = report_of(job)
    two = report["rows"]
    assert report["status"] == "ok"
    assert signals(job) == said
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert two[0]["score"] == one[0]["score"]
    assert abs(two[-1]["score"] - one[-1]["score"]) < 0.05
    assert two[-1]["parameters"] == one[-1]["parameters"]
    assert two[-1]["artifact"] != one[-1]["artifact"]
    assert len(list((job / "runs").iterdir())) == 2
    assert [path.name for path in (job / "reports").iterdir()] == ["tiny"]


def prune_tiny(rank: int, folder: Path) -> None:
    """Prune for a latency as one of two processes; `facts-RANK.json` tells what was found."""
    meet(rank, 2, folder)
    shorten(targets, latency_table)
    recovery = {"epochs": 1, "precision": "fp32"}
    spec = PruneSpec.model_validate({"target": {"speedup": 1.2}, "round_to": 8, "recover": recovery})
    data = TrainingData(texts(64, 0), texts(32, 1), LABELS)
    source = {"model": open_artifact(folder / "source")}
    _, result = steps.run(prune, steps.context(folder / f"rank-{rank}", spec, source, text_task(16), data))
    write_json(folder / f"facts-{rank}.json", dict(result.facts))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_prune_for_a_latency_that_one_of_them_has_timed(tmp_path: Path):
    """Had each timed for itself, they would have taken different heads and widths, and could not recover together."""
    write_torch_artifact(tmp_path / "source", tiny_bert(hidden=256, ffn=512))
    pruning = [start(prune_tiny, rank, tmp_path) for rank in range(2)]
    for process in pruning:
        process.join(300)
    assert [process.exitcode for process in pruning] == [0, 0]
    one, other = (json.loads((tmp_path / f"facts-{rank}.json").read_text()) for rank in range(2))
    assert one["target"] == other["target"]
    assert one["layers"] == other["layers"]
    assert one["target"]["timed_on"] == "cpu-onnxruntime-1t"
    assert one["target"]["predicted_speedup"] >= 1.2


@pytest.mark.slow  # the same in a whole run; its processes are started and timed as a user's are
def test_a_run_in_two_processes_prunes_for_a_latency(tmp_path: Path):
    prune = {"target": {"speedup": 1.2}, "round_to": 8, "recover": {"epochs": 1, "precision": "fp32"}}
    changes = {"teacher": {"model": "teacher"}, "passes": [{"prune": prune}], "train": {"processes": 2}}
    result = compress("run", write_job(tmp_path, 256, **changes), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    target = facts_of(tmp_path)["prune"]["target"]
    assert target["timed_on"] == "cpu-onnxruntime-1t"
    assert target["predicted_speedup"] >= 1.2


@pytest.mark.slow
def test_the_processes_die_with_the_run(job: Path):
    words = ("run", job / "tiny.yaml", "--set", "train.processes=2")
    words += ("--set", "passes.0.distill.epochs=300", "--set", "seed=1")
    run = start_compress(*words, folder=job, cache=job / "cache", errors=job / "errors")
    workers = wait_for_workers(run, job)
    run.kill()
    run.join()
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def wait_for_workers(run: BaseProcess, job: Path) -> list[psutil.Process]:
    """The two processes that train, once they do."""
    began = time.monotonic()
    while time.monotonic() - began < 90 and run.is_alive():
        workers = [child for child in psutil.Process(run.pid).children(recursive=True) if trains(child)]
        if len(workers) == 2 and any(
            "distill" in file.read_text()
            for file in (job / "cache" / "work").glob("*/processes/progress.jsonl")
        ):
            return workers
        time.sleep(0.2)
    run.kill()
    raise AssertionError("the processes did not start")


def trains(process: psutil.Process) -> bool:
    """Whether this is one of the processes that train; one that has just ended has no command line to ask for."""
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return "compress.engine.worker" in " ".join(command) and "torch.distributed.run" not in command


@pytest.mark.slow
def test_an_error_in_a_process_is_the_error_of_the_run(job: Path):
    losses = "[{logits: {}}, {hidden: {layers: [[0, 9]]}}]"
    changes = ("--set", "train.processes=2", "--set", f"passes.0.distill.losses={losses}")
    result = compress("run", job / "tiny.yaml", *changes, folder=job)
    assert result.returncode == 4
    assert "[0, 9]" in result.stderr
    alone = compress("run", job / "tiny.yaml", *changes[2:], folder=job)
    assert alone.stderr.splitlines()[-2:] == result.stderr.splitlines()[-2:]


@pytest.mark.slow  # two launchers meet over the network of this machine, which takes as long as it takes
def test_two_nodes_train_together_and_each_keeps_the_same_artifact(tmp_path: Path):
    """Two runs on one machine, with caches of their own, that meet at one port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--set", "train.nodes=2", "--set", f"train.rendezvous=127.0.0.1:{port}"]
    runs = []
    for node in ("one", "two"):
        passes = [{"export": {"formats": ["onnx"], "golden": 4}}]
        profile = write_job(tmp_path / node, passes=passes)
        environment = {
            **os.environ,
            "COMPRESS_CACHE": str(tmp_path / node / "cache"),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        command = [sys.executable, "-m", "compress", "run", str(profile), *words]
        runs.append(
            subprocess.Popen(command, cwd=tmp_path / node, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    one, two = (
        {
            file.parent.name: sha256_file(file)
            for file in (tmp_path / node).rglob("artifacts/*/model.safetensors")
        }
        for node in ("one", "two")
    )
    assert one == two
    assert len(one) == 2
