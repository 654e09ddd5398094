"""The agent by itself: requests on its standard input, answers on its standard output."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.runtimes.launching import FOLLOW_PARENT
from compress.targets.ssh import agent

RUNNER = b"""
import json, os, sys, time
job = json.load(open(sys.argv[1]))
open("pid", "w").write(str(os.getpid()))
time.sleep(job.get("sleep", 0))
if "exit" in job:
    print("loading"); sys.exit(job["exit"])
json.dump({"cwd": os.getcwd(), "threads": os.environ.get("OMP_NUM_THREADS"), "spin": os.environ.get("OMP_WAIT")},
          open(sys.argv[2], "w"))
"""


def test_it_stands_alone_on_python_3_9() -> None:
    tree = ast.parse(Path(agent.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
        )
    }
    assert imported <= sys.stdlib_module_names


class Talk:
    """A conversation with an agent in a process of its own."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "OMP_WAIT": "active"}
        self.process = subprocess.Popen(
            [sys.executable, "-I", agent.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.answer() == {"agent": agent.PROTOCOL}
        self.work = Path(self.ask(op="open", folder=str(folder), keep=False)["folder"])

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def tell(self, payload: bytes = b"", **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n" + payload)
        self.process.stdin.flush()

    def ask(self, payload: bytes = b"", **request: Any) -> dict[str, Any]:
        self.tell(payload, **request)
        return self.answer()

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        return self.ask(data, op="put", name=name, size=len(data))

    def job(self, *jobs: dict[str, Any]) -> dict[str, Any]:
        return {
            "op": "run",
            "runner": "group/runner.py",
            "jobs": list(jobs),
            "scrub": ["OMP_"],
            "set": {"OMP_NUM_THREADS": "3"},
            "follow": FOLLOW_PARENT,
            "limit": 60,
        }

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    one = Talk(tmp_path)
    yield one
    one.hang_up()


def test_jobs_run_in_the_work_folder_and_a_clean_environment(talk: Talk) -> None:
    assert talk.put("group/runner.py", RUNNER) == {}
    answer = talk.ask(**talk.job({}, {}))
    result = {"cwd": str(talk.work), "threads": "3", "spin": None}
    assert [json.loads(text) for text in answer["results"]] == [result, result]


def test_the_folder_may_be_named_from_where_the_agent_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    talk = Talk(Path("work"))
    try:
        talk.put("group/runner.py", RUNNER)
        (text,) = talk.ask(**talk.job({})).get("results", [None])
        assert text is not None
        assert Path(json.loads(text)["cwd"]).parent.samefile(tmp_path / "work")
    finally:
        talk.hang_up()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_failed_job_ends_the_others_and_tells_its_last_words(talk: Talk) -> None:
    talk.put("group/runner.py", RUNNER)
    answer = talk.ask(**talk.job({"exit": "no such model"}, {"sleep": 60}))
    assert (answer["failed"], answer["code"]) == (0, 1)
    assert answer["output"].splitlines() == ["loading", "no such model"]


def test_a_file_comes_back_once(talk: Talk) -> None:
    talk.put("group/data", b"1234")
    talk.tell(op="take", name="group/data")
    assert talk.answer() == {"size": 4}
    assert talk.process.stdout is not None
    assert talk.process.stdout.read(4) == b"1234"
    assert "No such file" in talk.ask(op="take", name="group/data")["error"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..", "a/b/c", "", "a\nb", "a/."])
def test_names_do_not_lead_out_of_the_work_folder(name: str, talk: Talk) -> None:
    assert "no place for" in talk.put(name, b"12")["error"]
    assert "no place for" in talk.ask(op="take", name=name)["error"]
    # The bytes of what was refused are not taken for a request.
    assert talk.put("group/x", b"12") == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_a_full_disk_is_told_and_the_conversation_goes_on(talk: Talk) -> None:
    (talk.work / "group").mkdir()
    (talk.work / "group" / "model").symlink_to("/dev/full")
    assert "No space left" in talk.put("group/model", b"1" * 3_000_000)["error"]
    assert not (talk.work / "group" / "model").is_symlink()
    assert talk.put("group/other", b"1") == {}


def test_groups_are_dropped(talk: Talk) -> None:
    talk.put("group/data", b"1")
    assert talk.ask(op="drop", groups=["group", "never"]) == {}
    assert not (talk.work / "group").exists()


@pytest.mark.parametrize("way", ["hang up", signal.SIGTERM, signal.SIGHUP])
def test_nothing_stays_behind(way: str | signal.Signals, tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    talk.put("group/runner.py", RUNNER)
    talk.tell(**talk.job({"sleep": 60}))
    deadline = time.monotonic() + 60
    while not (talk.work / "pid").is_file() or not (talk.work / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pid = int((talk.work / "pid").read_text())
    if isinstance(way, signal.Signals):
        talk.process.send_signal(way)
        talk.process.wait(30)
    talk.hang_up()
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{pid}").exists()


def test_what_the_machine_is(talk: Talk) -> None:
    facts = talk.ask(op="probe")
    assert facts["libraries"].keys() == {"numpy", "onnxruntime"}
    assert facts["fault"] is None
    assert facts["cores"] == sorted(os.sched_getaffinity(0))
    assert facts["memory_bytes"] > 2**28


def test_jobs_that_take_too_long_are_ended(talk: Talk) -> None:
    """It then answers the next request."""
    talk.put("group/runner.py", RUNNER)
    late = talk.ask(**{**talk.job({"sleep": 60}, {"sleep": 60}), "limit": 0.5})
    assert (late["failed"], late["late"]) == (0, True)
    assert talk.ask(op="drop", groups=[]) == {}
