"""A device that misbehaves in whatever way: exit code 5, within the time that is allowed, and nothing believed.

The agent runs here, behind a program that takes the place of the ssh client.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.errors import TargetError
from compress.measuring.transport import RemoteTransport
from compress.profile.schema import TargetSpec
from compress.runtimes import runner
from compress.targets.ssh import agent, connection
from compress.targets.ssh.device import SshDevice
from compress.targets.ssh.target import target_from_facts

SILENT = 1.5
HELLO = 6.0
"""Seconds: a busy machine takes long to start Python."""
PRELUDE = f"""
import json, os, sys, time
out = sys.stdout.buffer
def say(*lines):
    for line in lines:
        out.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\\n")
    out.flush()
sys.stdin.buffer.read({len(Path(agent.__file__).read_bytes())})
def requests():
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["op"] == "put":
            sys.stdin.buffer.read(request["size"])
            say({{}})
        elif request["op"] == "open":
            say({{"folder": "/tmp/x"}})
        elif request["op"] == "drop":
            say({{}})
        else:
            yield request
"""
GREETING = f'say({{"agent": {agent.PROTOCOL}}})\n'


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called `ssh` that runs the last word of its command here; the script beside it replaces the agent."""
    monkeypatch.setattr(connection, "INACTIVITY_SECONDS", SILENT)
    monkeypatch.setattr(connection, "GREETING_SECONDS", HELLO)
    for name in ("EXIT_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(connection, name, 0.5)
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "agent.py"
    (folder / "ssh").write_text(
        f'#!/bin/sh\n[ -f {script} ] && exec {sys.executable} -u {script}\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return script


DEVICES: list[SshDevice] = []


@pytest.fixture(autouse=True)
def _close(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close them while they still wait as shortly as `client` lets them."""
    yield
    while DEVICES:
        DEVICES.pop().close()


def device() -> SshDevice:
    DEVICES.append(SshDevice(TargetSpec(device="ssh://me@nowhere", python=sys.executable)))
    return DEVICES[-1]


def behaves(script: Path, code: str, hello: bool = True) -> SshDevice:
    script.write_text(PRELUDE + (GREETING if hello else "") + textwrap.dedent(code))
    return device()


def failed(call: Any, limit: float) -> TargetError:
    began = time.monotonic()
    with pytest.raises(TargetError) as raised:
        call()
    assert raised.value.exit_code == 5
    # The machine may be busy with other things.
    assert time.monotonic() - began < limit + 20
    return raised.value


@pytest.fixture
def accuracy(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "m.onnx").write_bytes(b"model")
    feeds = str(tmp_path / "feeds.npz")
    runner.write_batches(feeds, [{"x": np.zeros((2, 3))}, {"x": np.zeros((1, 5))}])
    outputs = str(tmp_path / "outputs.npz")
    return {"kind": "score", "model": str(tmp_path / "m.onnx"), "feeds": feeds, "outputs": outputs}


def test_an_agent_that_is_stopped_ends_the_step(client: Path) -> None:
    """The real agent, stopped in the middle: its end of the connection stands, but nobody is there."""
    one = device()
    one.begin()
    pid = one._session._process.pid
    os.kill(pid, 19)
    error = failed(one.facts, SILENT)
    assert error.code == "device-silent"


def test_an_agent_that_takes_nothing_ends_the_step(client: Path, tmp_path: Path) -> None:
    one = behaves(client, 'sys.stdin.buffer.readline(); say({"folder": "/x"}); time.sleep(60)')
    one.begin()
    large = tmp_path / "large"
    large.write_bytes(bytes(4_000_000))
    assert failed(lambda: one.send([large]), SILENT).code == "device-silent"


def test_an_agent_that_lives_may_take_longer(client: Path) -> None:
    alive = 'for _ in requests():\n    for _ in range(5):\n        time.sleep(0.4); say({"alive": True})\n'
    one = behaves(client, alive + '    say({"results": ["{}"]})')
    one.begin()
    assert one.run({"jobs": [{}], "limit": 60}, "x") == ["{}"]


def test_a_job_that_never_ends_is_not_waited_for(
    client: Path, accuracy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.targets.ssh.device._LATE_SECONDS", 0.5)
    alive = 'for _ in requests():\n    while True:\n        time.sleep(0.1); say({"alive": True})\n'
    one = behaves(client, alive)
    error = failed(lambda: RemoteTransport(one, 1, limit_s=0.3).run([accuracy], ["scoring"]), SILENT)
    assert error.code == "device-silent"
    assert not one._session.is_alive()


def test_a_request_that_is_never_answered_is_not_waited_for(
    client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    alive = 'for _ in requests():\n    while True:\n        time.sleep(0.1); say({"alive": True})\n'
    one = behaves(client, alive)
    one.begin()
    assert failed(one.facts, SILENT).code == "device-silent"


def test_the_real_agent_ends_a_job_that_takes_too_long(
    client: Path, accuracy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = tmp_path / "runner.py"
    hangs.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(runner, "__file__", str(hangs))
    error = failed(lambda: RemoteTransport(device(), 1, limit_s=0.3).run([accuracy], ["scoring"]), 1.0)
    assert error.code == "time-limit"
    assert "scoring did not end within 0.3 s" in str(error)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (False, "time.sleep(60)"),
        (False, "say(b'x' * 10_000_000)"),
        (False, "while True: say(b'welcome')"),
        (False, "sys.exit(3)"),
        (False, 'say({"agent": 999})'),
        (True, "sys.exit(0)"),
        (True, "os.close(0); time.sleep(60)"),
        (True, "say(b'[' * 100_000)"),
        (True, "out.write(b'x' * 70_000_000); out.flush()"),
        (True, "say(b'\\xff\\xfe')"),
        (True, "say(b'9' * 5000)"),
        (True, "say(b'{\"folder\": NaN}')"),
        (True, "say([1])"),
        (True, 'say({"error": {"a": 1}})'),
        (True, 'say({"error": "\\x1b[31mno"})'),
        (True, 'say({"folder": 7})'),
    ],
)
def test_no_work_folder(hello: bool, code: str, client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hello:
        monkeypatch.setattr(connection, "GREETING_SECONDS", HELLO / 3)
    error = failed(behaves(client, code, hello).begin, HELLO)
    assert "\x1b" not in str(error)


def test_an_account_without_a_shell_is_not_called_slow(client: Path) -> None:
    error = failed(behaves(client, 'say(b"This account is not available."); sys.exit(1)', False).begin, HELLO)
    assert str(error).splitlines()[0].endswith("cannot reach nowhere: This account is not available.")
    error = failed(behaves(client, "sys.exit(1)", False).begin, HELLO)
    assert "no answer within" not in str(error)


def test_what_is_said_before_a_silence_is_not_its_reason(
    client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "GREETING_SECONDS", 1.0)
    banner = 'sys.stderr.write("Authorized users only.\\n"); sys.stderr.flush(); time.sleep(60)'
    error = failed(behaves(client, banner, False).begin, 1.0)
    assert "no answer within 1.0 s" in str(error)


def test_a_shell_may_greet_without_ending_its_line(client: Path) -> None:
    one = behaves(client, f'out.write(b"\\x1b]0;board\\x07"); {GREETING}for _ in requests(): pass', False)
    one.begin()
    assert one._folder == "/tmp/x"


FACTS = {
    "python": "3.11", "system": "Linux", "machine": "x", "board": "", "cpuinfo": "", "cores": [0],
    "memory_bytes": 2**30, "libraries": {"numpy": "2", "onnxruntime": "1"}, "fault": None, "tokenizers": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"cores": []}, {"cores": [-1]}, {"cores": [0.5]}, {"cores": "0"}, {"memory_bytes": -1},
        {"memory_bytes": 0}, {"memory_bytes": 2**62},
        {"memory_bytes": 1e9}, {"libraries": []}, {"libraries": {"numpy": 2}}, {"python": None},
        {"libraries": {}}, {"board": "x" * 10**6}, {"cores": list(range(70_000))},
    ],
    ids=lambda change: str(change)[:30],
)  # fmt: skip
def test_facts(change: dict[str, Any], client: Path) -> None:
    answer = json.dumps({**FACTS, **change})
    one = behaves(client, f"for _ in requests(): say({answer.encode()!r})")

    def look() -> None:
        target_from_facts(TargetSpec(device="ssh://me@nowhere"), one.facts(), one)

    failed(look, SILENT)


KEPT = ', "shape": [2], "refused": null}'
GOOD = '{"examples": 3, "seconds": 0.1' + KEPT


@pytest.mark.parametrize(
    "answer",
    [
        {"results": []}, {"results": [GOOD, GOOD]}, {"results": GOOD}, {"results": [{"examples": 3}]}, {},
        {"results": [1]},
        {"failed": True, "code": 1}, {"failed": 0, "code": 10**6}, {"failed": -1, "code": 1}, {"failed": 0},
        {"failed": 0, "code": 1, "output": ["x"]}, {"failed": 0, "code": 1, "output": "\x1b[31m" * 10_000},
        {"failed": 0, "code": -9, "output": ""},
        *[
            {"results": [text]} for text in (
                "", "{", "[" * 5000, "null", '{"examples": 4, "seconds": 0.1' + KEPT,
                '{"examples": 3, "seconds": -1' + KEPT, '{"examples": 3, "seconds": NaN' + KEPT,
                '{"examples": 3, "seconds": 1e400' + KEPT, '{"examples": 3' + KEPT, '{"examples": 3, "seconds": 1}',
                '{"examples": true, "seconds": 1' + KEPT, '{"examples": ' + "9" * 5000 + ', "seconds": 1' + KEPT,
            )
        ],
    ],
    ids=lambda answer: str(answer)[:40],
)  # fmt: skip
def test_results(answer: dict[str, Any], client: Path, accuracy: dict[str, Any]) -> None:
    one = behaves(client, f"for _ in requests(): say({json.dumps(answer).encode()!r})")
    error = failed(lambda: RemoteTransport(one, 1).run([accuracy], ["scoring"]), SILENT)
    assert "\x1b" not in str(error)
    assert not Path(accuracy["outputs"]).exists()


@pytest.mark.parametrize(
    "array",
    [
        "np.full((3, 2), np.nan, np.float32)", "np.full((3, 2), np.inf, np.float32)", "np.zeros((3, 0), np.float32)",
        "np.zeros((2, 2), np.float32)", "np.zeros((3, 2), np.complex64)",
        "np.array([{1}] * 3)",
    ],
)  # fmt: skip
def test_outputs(array: str, client: Path, accuracy: dict[str, Any]) -> None:
    code = f"""
    import io, numpy as np
    for request in requests():
        if request["op"] == "run":
            say({{"results": [{GOOD!r}]}})
        else:
            file = io.BytesIO(); np.savez(file, allow_pickle=True, outputs={array})
            say({{"size": file.tell()}}); out.write(file.getvalue()); out.flush()
    """
    one = behaves(client, code)
    error = failed(lambda: RemoteTransport(one, 1).run([accuracy], ["scoring"]), SILENT)
    assert error.code == "device-answer"
    assert "scoring gave " in str(error)


@pytest.mark.parametrize("size", ["-1", "10**15", "True", "'3'", "None", "1000"])
def test_sizes_of_files(size: str, client: Path, accuracy: dict[str, Any]) -> None:
    code = f"""
    for request in requests():
        say({{"results": [{GOOD!r}]}} if request["op"] == "run" else {{"size": {size}}})
        if request["op"] == "take":
            sys.exit()
    """
    one = behaves(client, code)
    failed(lambda: RemoteTransport(one, 1).run([accuracy], ["scoring"]), SILENT)


def test_the_real_agent_says_that_it_is_there(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(agent.__file__).read_text().replace("HEARTBEAT_SECONDS = 10", "HEARTBEAT_SECONDS = 0.05")
    copy = client.with_name("copied_agent.py")
    copy.write_text(source)
    monkeypatch.setattr(agent, "__file__", str(copy))
    one = device()
    one.begin()
    pipes = one._session._pipes
    assert pipes.read_line(100) == b'{"alive": true}\n'
    for _ in range(3):
        assert one.facts().cores
