from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from compress.core.errors import ResourceError, TargetError
from compress.engine.distributed import workers_environment
from compress.profile.schema import TrainSpec
from compress.runtimes.launching import Command, clean_environment, run_all, runtime_command

linux = pytest.mark.skipif(sys.platform != "linux", reason="following the parent is Linux's")


def python(code: str, *arguments: str) -> Command:
    return Command((sys.executable, "-c", code, *arguments), clean_environment(1), "trying")


WRITE_PID_AND_SLEEP = (
    "import os, sys, time, pathlib as p; f = p.Path(sys.argv[1]); t = f.with_suffix('.tmp');"
    "t.write_text(str(os.getpid())); t.rename(f); time.sleep(60)"
)


def wait_for(file: Path) -> int:
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(file.read_text())


def ends(pid: int) -> bool:
    """Whether a process is gone within a few seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_commands_run_at_the_same_time(tmp_path: Path) -> None:
    # Each waits for the other's file.
    code = (
        "import sys, time, pathlib as p; p.Path(sys.argv[1]).touch();\n"
        "end = time.monotonic() + 30\n"
        "while not p.Path(sys.argv[2]).exists(): assert time.monotonic() < end; time.sleep(0.01)"
    )
    one, two = str(tmp_path / "1"), str(tmp_path / "2")
    run_all([python(code, one, two), python(code, two, one)], "here")


def test_a_failed_child_is_an_error_with_its_last_words() -> None:
    with pytest.raises(TargetError) as caught:
        run_all([python("import sys; print('loading'); sys.exit('no such model')")], "my target")
    assert caught.value.where == "my target"
    assert caught.value.message == "trying failed: no such model"
    assert "loading" in (caught.value.hint or "")


def test_a_child_that_says_nothing_is_named_by_its_exit_code() -> None:
    with pytest.raises(TargetError, match="exit code 3 and no message"):
        run_all([python("import os; os._exit(3)")], "here")


def test_a_killed_child_is_named_by_its_signal() -> None:
    with pytest.raises(TargetError, match=r"killed by SIGKILL \(out of memory\?\)") as caught:
        run_all([python("import os; os.kill(os.getpid(), 9)")], "here")
    assert caught.value.exit_code == 5
    assert caught.value.hint == (
        "The system does this when memory runs out: close other programs, or use smaller `batch_sizes`. "
        "The same command then resumes from what is finished."
    )


def test_a_traceback_is_kept_for_whoever_debugs() -> None:
    code = "print('loading'); raise ValueError('two\\nlines')"
    with pytest.raises(TargetError) as caught:
        run_all([python(code)], "here")
    assert str(caught.value) == "here: trying failed: lines\n  loading\n  ValueError: two"
    assert "Traceback (most recent call last)" in caught.value.__notes__[0]


def test_a_child_that_finds_the_disk_full(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the disk is full") as caught:
        run_all([python("raise OSError(28, 'No space left on device')")], "here")
    assert caught.value.where == tempfile.gettempdir()


def test_a_missing_program_is_a_target_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.runtimes.launching.follow_parent", list)
    with pytest.raises(TargetError, match="cannot start"):
        run_all([Command(("/no/such/program",), {}, "trying")], "here")


def test_one_failure_ends_the_others(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    fail = (
        "import sys, time, pathlib as p\n"
        "while not p.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
        "sys.exit('broken')"
    )
    with pytest.raises(TargetError, match="broken"):
        run_all([python(fail, str(pid_file)), python(WRITE_PID_AND_SLEEP, str(pid_file))], "here")
    assert ends(int(pid_file.read_text()))


RUN_CHILD = (
    "import sys; from compress.runtimes.launching import *\n"
    f"code = {WRITE_PID_AND_SLEEP!r}\n"
    "command = Command((sys.executable, '-c', code, sys.argv[1]), clean_environment(1), 'trying')\n"
)


@linux
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", RUN_CHILD + "run_all([command], 'here')", str(tmp_path / "pid")]
    )
    child = wait_for(tmp_path / "pid")
    parent.kill()
    parent.wait()
    assert ends(child)


def test_ctrl_c_ends_the_child_and_goes_on_up(tmp_path: Path) -> None:
    # A shell starts its background jobs with SIGINT ignored, and this test may be run by one.
    listening = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = (
        RUN_CHILD + listening + "try: run_all([command], 'here')\nexcept KeyboardInterrupt: sys.exit(130)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")])
    child = wait_for(tmp_path / "pid")
    parent.send_signal(signal.SIGINT)
    assert parent.wait(timeout=30) == 130
    assert ends(child)


def test_the_environment_is_clean() -> None:
    base = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "OMP_NUM_THREADS": "64",
        "OMP_WAIT_POLICY": "active",
        "MALLOC_ARENA_MAX": "1",
        "LD_PRELOAD": "x.so",
        "ORT_FLAGS": "1",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    environment = clean_environment(2, base)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["PATH"] == "/bin"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert not {"OMP_WAIT_POLICY", "MALLOC_ARENA_MAX", "LD_PRELOAD", "ORT_FLAGS"} & set(environment)


def test_the_onnx_runner_is_run_as_a_file_and_the_torch_one_as_a_module() -> None:
    onnx = runtime_command("onnxruntime", Path("j"), Path("r"), 3, "timing")
    assert Path(onnx.argv[2]).name == "runner.py"
    assert onnx.argv[3:] == ("j", "r")
    assert onnx.environment["OMP_NUM_THREADS"] == "3"
    torch = runtime_command("torch", Path("j"), Path("r"), 1, "timing")
    assert torch.argv[2:4] == ("-m", "compress.runtimes.torch_worker")
    root = torch.environment["PYTHONPATH"].split(os.pathsep)[0]
    assert (Path(root) / "compress" / "runtimes" / "torch_worker.py").is_file()


def test_processes_that_train_together_find_what_this_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """This package comes first; libraries may stand wherever the user's PYTHONPATH says."""
    monkeypatch.setenv("PYTHONPATH", "/opt/libraries")
    found = workers_environment(TrainSpec(processes=2), 6)
    package, other = found["PYTHONPATH"].split(os.pathsep)
    assert (Path(package) / "compress" / "__init__.py").is_file()
    assert (other, found["PYTHONSAFEPATH"], found["OMP_NUM_THREADS"]) == ("/opt/libraries", "1", "3")
    monkeypatch.delenv("PYTHONPATH")
    assert workers_environment(TrainSpec(), 1)["PYTHONPATH"] == package


def test_a_command_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(TargetError, match="trying did not end within 2 s") as raised:
        run_all([python(WRITE_PID_AND_SLEEP, str(pid_file))], "here", limit_s=2)
    assert time.monotonic() - began < 30
    assert (raised.value.exit_code, raised.value.code) == (5, "time-limit")
    assert ends(int(pid_file.read_text()))
