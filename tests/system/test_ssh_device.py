"""Measuring on a device over ssh: a real server on loopback, the system's own client."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.artifacts import Artifact
from compress.core.errors import TargetError
from compress.core.records import TargetMeasurement
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import UNLABELLED, Examples
from compress.measuring.artifact import measure
from compress.measuring.jobs import JobFolder
from compress.measuring.results import load_answers
from compress.profile.schema import DataSpec, MeasureSpec, TargetSpec
from compress.targets.resolving import resolve
from compress.targets.ssh.connection import Connection
from compress.tasks.base import task_of
from tests.small_disk import small_disk
from tests.sshd import Sshd, running_under, soon
from tests.tiny_onnx import VOTES, write_votes_artifact

pytestmark = pytest.mark.system

TASK = task_of("text-classification", DataSpec(path="unused", max_length=16))
TEXTS = (
    "red blue",
    "cat",
    "dog cat red",
    "runs",
    "sings runs cat",
    "blue",
    "zebra dog",
    "red runs runs",
    "x",
)
TEST = Examples(TEXTS, np.array([0, 1, 1, 2, 2, 0, 1, 2, UNLABELLED]))
SPEC = MeasureSpec(examples=8, min_seconds=0.2, min_rounds=8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the device puts its work: what stays behind can be seen."""
    folder = tmp_path / "on the device; $(touch x)"
    folder.mkdir()
    return folder


def spec_of(sshd: Sshd, place: Path, **changes: Any) -> TargetSpec:
    return TargetSpec(device=sshd.device, python=sys.executable, folder=str(place), name="board", **changes)


def measured(
    spec: TargetSpec, *artifacts: Artifact, measuring: MeasureSpec = SPEC
) -> list[TargetMeasurement]:
    """The artifacts on a target, in one session; the first is the baseline."""
    target = resolve(spec)
    found: list[TargetMeasurement] = []
    try:
        for artifact in artifacts:
            baseline = found[0] if found else None
            found.append(
                measure(
                    artifact,
                    artifacts[0],
                    baseline,
                    target,
                    TASK,
                    TEST,
                    measuring,
                    0,
                    "key",
                    SilentProgress(),
                )
            )
    finally:
        target.close()
    return found


def test_a_device_measures_what_this_machine_measures(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    slow = write_votes_artifact(tmp_path / "slow", matmuls=40)
    fast = write_votes_artifact(tmp_path / "fast", {**VOTES, "dog": 2, "runs": 1})
    there = measured(spec_of(sshd, place, batch_sizes=(2,)), slow, fast)
    here = measured(TargetSpec(batch_sizes=(2,), name="board"), slow, fast)
    for one, other in zip(there, here, strict=True):
        assert one.accuracy == other.accuracy
        assert one.fingerprint != other.fingerprint
        assert one.memory.method == other.memory.method
        assert one.memory.absolute_peak_mb == pytest.approx(other.memory.absolute_peak_mb, rel=0.2)
        assert one.tokenization_ms is not None
    for one, verdict in zip(there, ("no difference", "faster"), strict=True):
        assert one.latency[0].verdict == (None if one.latency[0].disturbed else verdict)
    assert list(place.iterdir()) == []


def test_its_outputs_are_equal(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    model = str(write_votes_artifact(tmp_path / "model", matmuls=3).model_file)
    batch = {
        "input_ids": np.array([[2, 3, 6], [4, 1, 0]]),
        "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
    }
    outputs = []
    for spec in (TargetSpec(), spec_of(sshd, place)):
        target = resolve(spec)
        folder = tmp_path / spec.label
        folder.mkdir()
        jobs = JobFolder.of_target(folder, target)
        job, file = jobs.outputs(model, jobs.feeds("feeds", [batch, batch]))
        assert jobs.run(job)[0]["examples"] == 4
        target.close()
        outputs.append(load_answers(file)["outputs"])
    assert outputs[0].shape == (4, 3)
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-3)


def test_files_are_sent_once_a_session_and_dropped_when_they_are_not_used(
    sshd: Sshd, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    put = Connection.put

    def noted(self: Connection, file: Path, name: str, doing: str) -> None:
        sent.append(name)
        put(self, file, name, doing)

    monkeypatch.setattr(Connection, "put", noted)
    models = [write_votes_artifact(tmp_path / f"m{number}", matmuls=number) for number in range(1, 4)]
    target = resolve(spec_of(sshd, place))
    base = None
    for artifact in models:
        made = measure(artifact, models[0], base, target, TASK, TEST, SPEC, 0, "key", SilentProgress())
        base = base or made
        (work,) = place.iterdir()
        assert work.stat().st_mode & 0o777 == 0o700
        assert len(list(work.glob("*/model.onnx"))) <= 3
    kept = {file.stat().st_size for file in work.glob("*/model.onnx")}
    assert kept == {models[0].model_file.stat().st_size, *(m.model_file.stat().st_size for m in models[1:])}
    target.close()
    assert sorted(sent) == sorted(set(sent))
    names = [name.partition("/")[2] for name in sent]
    assert names.count("model.onnx") == 3
    assert names.count("runner.py") == 1
    assert list(place.iterdir()) == []


def test_work_is_kept_where_that_is_asked_for(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    target = resolve(spec_of(sshd, place, keep=True))
    artifact = write_votes_artifact(tmp_path / "m")
    measure(artifact, artifact, None, target, TASK, TEST, SPEC, 0, "key", SilentProgress())
    said = target.close()
    assert said is not None
    work = Path(said.removeprefix("board: the work is kept in "))
    assert work.parent == place
    assert list(work.glob("*/model.onnx"))


def test_an_unknown_host_key_is_refused(sshd: Sshd, place: Path) -> None:
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(
        TargetError, match=r"cannot reach 127\.0\.0\.1: Host key verification failed"
    ) as caught:
        resolve(spec_of(sshd, place))
    assert caught.value.exit_code == 5
    assert caught.value.where == "board"
    assert f"`ssh -p {sshd.port} -l " in str(caught.value.hint)
    assert (sshd.folder / "known_hosts").read_text() == ""


def test_a_changed_host_key_is_refused(sshd: Sshd, place: Path) -> None:
    user = (sshd.folder / "user_key.pub").read_text()
    (sshd.folder / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {user}")
    with pytest.raises(TargetError, match="Host key verification failed"):
        resolve(spec_of(sshd, place))


def test_a_key_that_is_not_known_there_is_refused_without_a_question(sshd: Sshd, place: Path) -> None:
    (sshd.folder / "authorized_keys").write_text("")
    with pytest.raises(TargetError, match="Permission denied") as caught:
        resolve(spec_of(sshd, place))
    assert f"ssh-copy-id -p {sshd.port}" in str(caught.value.hint)


def test_a_python_that_is_not_there(sshd: Sshd, place: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot reach.*not found") as caught:
        resolve(spec_of(sshd, place).model_copy(update={"python": "no such; $(touch python)"}))
    assert "`python`" in str(caught.value.hint)


def test_a_python_without_onnxruntime(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bare = spec_of(sshd, place).model_copy(update={"python": str(tmp_path / "bare" / "bin" / "python")})
    with pytest.raises(TargetError, match="cannot load numpy and onnxruntime: ModuleNotFoundError"):
        resolve(bare)


def test_a_folder_that_is_not_there(sshd: Sshd, place: Path) -> None:
    with pytest.raises(TargetError, match=r"making a work folder.*No such file"):
        resolve(spec_of(sshd, place / "none"))


def test_a_server_that_is_not_there(sshd: Sshd, place: Path) -> None:
    sshd.stop()
    with pytest.raises(TargetError, match=r"cannot reach 127\.0\.0\.1.*Connection refused"):
        resolve(spec_of(sshd, place))


def test_a_shell_that_greets_is_listened_to(sshd: Sshd, place: Path) -> None:
    config = sshd.folder / "sshd_config"
    config.write_text(config.read_text() + 'ForceCommand echo hello; sh -c "$SSH_ORIGINAL_COMMAND"\n')
    # The server reads its config once: the next one greets.
    sshd.restart()
    assert resolve(spec_of(sshd, place)).description["cpu"]["cores"] >= 1


def test_a_failed_job_says_what_the_device_said(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    artifact = write_votes_artifact(tmp_path / "m")
    artifact.model_file.write_bytes(b"\xff" * artifact.model_file.stat().st_size)
    with pytest.raises(TargetError, match="scoring the model failed") as caught:
        measured(spec_of(sshd, place), artifact)
    assert caught.value.where == "board"
    assert soon(lambda: not list(place.iterdir()))


def test_cores_and_memory_are_held_there_too(sshd: Sshd, place: Path, tmp_path: Path) -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    (one,) = measured(spec_of(sshd, place, cores=(core,)), write_votes_artifact(tmp_path / "m"))
    assert one.accuracy.metrics[0].n == 8
    heavy = write_votes_artifact(tmp_path / "heavy", ballast_mb=150)
    (one,) = measured(spec_of(sshd, place, memory_limit_mb=120), heavy)
    assert one.memory.over_limit


def test_a_device_whose_disk_is_full(sshd: Sshd, tmp_path: Path) -> None:
    heavy = write_votes_artifact(tmp_path / "heavy", ballast_mb=3)
    with small_disk(tmp_path / "small", 2) as disk:
        with pytest.raises(TargetError, match=r"sending model\.onnx \(3\.0 MB\): .*No space left") as caught:
            measured(spec_of(sshd, disk.path), heavy)
        assert "set `folder` to one on another disk of the device" in (caught.value.hint or "")
        assert soon(lambda: not list(disk.path.iterdir()))


def test_a_connection_that_is_cut_is_an_error_and_leaves_nothing(
    sshd: Sshd, place: Path, tmp_path: Path
) -> None:
    artifact = write_votes_artifact(tmp_path / "m")
    caught: list[TargetError] = []

    def work() -> None:
        try:
            measured(spec_of(sshd, place), artifact, measuring=MeasureSpec(min_seconds=240))
        except TargetError as error:
            caught.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        timed = '"kind": "latency"'
        assert soon(lambda: any(timed in job.read_text() for job in place.glob("*/job0.json")), 120)
        assert soon(lambda: running_under(place))
    finally:
        sshd.cut()
    worker.join(60)
    (error,) = caught
    assert error.exit_code == 5
    assert "the connection to 127.0.0.1 was lost while timing the model" in str(error)
    assert "it resumes from here" in str(error)
    assert soon(lambda: not running_under(place))
    assert soon(lambda: not list(place.iterdir()))
