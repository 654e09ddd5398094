"""Child processes for measurements: killed with their parent, in a clean environment, with errors reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from compress.core.disk.exhaustion import (
    DEVICE_FULL_HINT,
    RESUME_HINT,
    disk_full_error,
    gpu_memory_error,
    reports_disk_full,
    reports_gpu_memory_full,
)
from compress.core.errors import TargetError
from compress.core.telemetry import TELEMETRY_OFF
from compress.profile.schema import DEFAULT_TIME_LIMIT_S

TAIL_LINES = 12
"""Number of lines of a failed child's output that the error shows."""
KILLED_HINT = (
    "The system does this when memory runs out: close other programs, or use smaller `batch_sizes`. "
    + RESUME_HINT
)

# Requests SIGKILL from the kernel when the parent ends, checks that it has not ended before, and executes the command.
# A `preexec_fn` would do the same between fork and exec, where a parent with threads may deadlock.
FOLLOW_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SCRUBBED_PREFIXES = (
    "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "ORT_", "TORCH_", "PYTORCH_", "MALLOC_",
    "GLIBC_TUNABLES", "LD_PRELOAD", "PYTHONMALLOC", "PYTHONPROFILE", "PYTHONDEVMODE", "PYTHONTRACEMALLOC",
)  # fmt: skip


ALLOW_CODE = "--allow-code"
"""Flag of the torch worker that allows the code of a model to run."""


@dataclass(frozen=True)
class Command:
    """A command with its environment and its purpose ('timing student'), for errors."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    purpose: str


def clean_environment(threads: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without variables that silently change speed, memory or results, and with thread counts
    set to `threads`."""
    kept = {
        name: value
        for name, value in (os.environ if base is None else base).items()
        if not name.startswith(SCRUBBED_PREFIXES)
    }
    kept.update(child_variables(threads))
    return kept


def child_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that are set for every child."""
    return {
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        **TELEMETRY_OFF,
    }


def follow_parent(argv: Sequence[str]) -> list[str]:
    """Return a command that runs `argv` and is killed when the thread that starts it ends, in any way (Linux only)."""
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", FOLLOW_PARENT, str(os.getpid()), *argv]


def run_all(commands: Sequence[Command], where: str, limit_s: float = DEFAULT_TIME_LIMIT_S) -> None:
    """Run commands in parallel and wait for all of them.

    If this ends early (a failed child, Ctrl-C, the limit), children that are still running are killed.

    Args:
        commands: the commands to run.
        where: the target's name, for errors.
        limit_s: seconds that they may take.

    Raises:
        TargetError: a command failed, and its last lines of output are the hint; or it took longer than `limit_s`.
        ResourceError: a command ran out of disk space or GPU memory.
    """
    children: list[tuple[Command, subprocess.Popen[bytes], IO[bytes]]] = []
    too_late = threading.Event()

    def end_all() -> None:
        too_late.set()
        for _, child, _ in children:
            child.kill()

    # A timer, since a wait with a timeout polls, which disturbs what the children time.
    timer = threading.Timer(limit_s, end_all)
    timer.daemon = True
    try:
        for command in commands:
            output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed below, with its child)
            try:
                child = subprocess.Popen(
                    follow_parent(command.argv),
                    env=dict(command.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            except OSError as error:
                output.close()
                raise TargetError(f"cannot start {command.argv[0]}: {error}", where=where) from error
            children.append((command, child, output))
        timer.start()
        for command, child, output in children:
            if child.wait() != 0:
                if too_late.is_set():
                    raise hung(command.purpose, where, limit_s)
                output.seek(0)
                output_text = output.read().decode(errors="replace")
                if reports_disk_full(output_text):
                    # Children write to temporary folders only.
                    raise disk_full_error(Path(tempfile.gettempdir()))
                if reports_gpu_memory_full(output_text):
                    raise gpu_memory_error(command.purpose, where)
                raise failure(command.purpose, child.returncode, output_text, where)
    finally:
        timer.cancel()
        for _, child, output in children:
            if child.poll() is None:
                child.kill()
            child.wait()
            output.close()


def hung(purpose: str, where: str, limit_s: float) -> TargetError:
    """Return the error for a child that was ended because it took longer than `limit_s` seconds."""
    return TargetError(
        f"{purpose} did not end within {limit_s:g} s, and was ended",
        where=where,
        hint="If the model needs longer there, raise the target's `time_limit_s`; the same command resumes from here.",
        code="time-limit",
    )


def failure(purpose: str, code: int, output: str, where: str) -> TargetError:
    """Return the error for a failed child, from its exit code and the end of its output; the full output is a note."""
    lines = without_tracebacks([line for line in output.splitlines() if line.strip()])
    if code < 0:
        name = signal.Signals(-code).name
        killed = name == "SIGKILL"
        reason = f"was killed by {name}" + (" (out of memory?)" if killed else "")
        hint_lines = [*lines[-TAIL_LINES:], *([KILLED_HINT] if killed else [])]
    else:
        reason = lines[-1].strip() if lines else f"ended with exit code {code} and no message"
        hint_lines = lines[-TAIL_LINES:-1]
    if reports_disk_full(reason):
        hint_lines.append(DEVICE_FULL_HINT)
    error = TargetError(f"{purpose} failed: {reason}", where=where, hint="\n  ".join(hint_lines) or None)
    if output.strip():
        error.add_note(output)
    return error


def without_tracebacks(lines: Sequence[str]) -> list[str]:
    """Remove the stack frames of Python tracebacks from lines of output; the error messages stay."""
    kept = []
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not (inside and line.startswith(" ")):
            inside = False
            kept.append(line)
    return kept


def runtime_command(
    runtime: str, job: Path, result: Path, threads: int, purpose: str, *, allow_code: bool = False
) -> Command:
    """Return the command that runs a job of `runner.py` with a runtime, `onnxruntime` or `torch`.

    `allow_code` applies to torch only: whether the code of a model may run.
    """
    environment = clean_environment(threads)
    package = Path(__file__).resolve().parents[1]
    if runtime == "onnxruntime":
        program = [str(package / "runtimes" / "runner.py")]
    else:
        program = ["-m", "compress.runtimes.torch_worker"]
        search_paths = [str(package.parent), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(search_paths)
        environment["HF_HUB_OFFLINE"] = "1"
    flags = [ALLOW_CODE] if allow_code and runtime == "torch" else []
    argv = (sys.executable, "-P", *program, *flags, str(job), str(result))
    return Command(argv, environment, purpose)
