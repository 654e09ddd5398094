"""Traced by the kernel: no command opens a connection that neither the profile nor its words name, and none tells
anybody's device id to the home folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from compress.core.telemetry import TELEMETRY_OFF
from tests.jobs import write_job
from tests.tracing import STRACE, Traced, traced

pytestmark = [pytest.mark.system, pytest.mark.skipif(STRACE is None, reason="strace is not installed")]


class Machine:
    """A folder with a job, and the home of a user who has said nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "job"
        self.home = folder / "home"
        self.home.mkdir()
        self.trace = folder / "trace"
        write_job(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        said = {*TELEMETRY_OFF, "CI", "GITHUB_ACTIONS", "TF_BUILD", "HF_HUB_OFFLINE", "HF_HOME"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in said and not name.startswith(("XDG_", "HF_"))
        }
        return {**kept, "HOME": str(self.home), "COMPRESS_CACHE": str(self.folder / "cache")}

    def run(self, *argv: str | Path) -> Traced:
        found = traced(argv, cwd=self.folder, environment=self.environment, trace=self.trace)
        assert found.result.returncode == 0, found.result.stderr
        return found

    def compress(self, *words: str | Path) -> Traced:
        return self.run(sys.executable, "-m", "compress", *words)

    @property
    def bundle(self) -> Path:
        (found,) = self.folder.glob("runs/*/bundle")
        return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def run(machine: Machine) -> Traced:
    return machine.compress("run", "tiny.yaml", "--quiet")


def check(machine: Machine, found: Traced) -> None:
    assert found.addresses == set()
    # matplotlib keeps a list of this machine's fonts.
    assert {name for name in found.written_in(machine.home) if "matplotlib" not in name} <= {
        str(machine.home / ".cache"),
        str(machine.home / ".config"),
    }
    assert not list(machine.home.rglob("*deviceid*"))


def test_the_trace_sees_what_is_looked_for(machine: Machine) -> None:
    code = (
        "import socket, os, pathlib\n"
        "one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.connect(('192.0.2.7', 443))\n"
        "two = socket.socket(); two.settimeout(0.1)\n"
        "two.connect_ex(('127.0.0.1', 9))\n"
        "(pathlib.Path.home() / 'left').write_text('x'); (pathlib.Path.home() / 'left').unlink()\n"
    )
    found = machine.run(sys.executable, "-c", code)
    assert found.addresses == {"192.0.2.7:443"}
    assert found.written_in(machine.home) == {str(machine.home / "left")}


def test_a_run(machine: Machine, run: Traced) -> None:
    check(machine, run)


def test_the_report_of_it(machine: Machine, run: Traced) -> None:
    check(machine, machine.compress("report", "tiny"))


def test_measuring(machine: Machine, run: Traced) -> None:
    settings = ("min_seconds=0.05", "min_rounds=5", "examples=10")
    fast = [word for setting in settings for word in ("--set", f"measure.{setting}")]
    check(machine, machine.compress("measure", machine.bundle, "--data", "data.csv", *fast))


def test_verifying(machine: Machine, run: Traced) -> None:
    found = machine.compress("verify", machine.bundle, "--json")
    assert json.loads(found.result.stdout)["ok"]
    check(machine, found)


def test_a_bundle_predicting_by_itself(machine: Machine, run: Traced) -> None:
    # As where it is deployed: nothing of this package, no variable of it.
    found = machine.run(sys.executable, "-P", machine.bundle / "predict.py", "red cat sleeps")
    assert found.result.stdout
    check(machine, found)
    assert not found.written_in(machine.bundle)


def test_a_torch_target(machine: Machine) -> None:
    write_job(
        machine.folder / "torch",
        passes=[{"prune": {"remove": {"feed_forward": 0.25}, "recover": {"epochs": 1}}}],
        targets=[{"threads": 1, "runtime": "torch"}],
    )
    check(machine, machine.compress("run", "torch/tiny.yaml", "--quiet"))


def test_a_model_that_is_not_here_is_asked_for_by_name(machine: Machine) -> None:
    """What a profile names is fetched; the hub stands in the list, and nothing else."""
    profile = write_job(machine.folder / "hub", teacher={"model": "nobody/nothing"})
    environment = {**machine.environment, "HF_ENDPOINT": "http://192.0.2.9:81"}
    words = (sys.executable, "-m", "compress", "run", profile, "--quiet")
    found = traced(words, cwd=machine.folder, environment=environment, trace=machine.trace)
    assert found.result.returncode == 4
    assert found.addresses == {"192.0.2.9:81"}
