"""Agent on the measured device: receives files, runs jobs, returns results and removes everything at the end.

A single file that needs only Python 3.9 and its standard library. It is sent over the connection and executed there, so
it imports nothing from this package. A request is one line of JSON on standard input, its answer one line on standard
output:

    {"op": "open", "folder": null, "keep": false}           -> {"folder": PATH}
    {"op": "probe"}                                         -> description of the machine
    {"op": "put", "name": "GROUP/FILE", "size": 12}, bytes  -> {}
    {"op": "drop", "groups": ["GROUP"]}                     -> {}
    {"op": "run", "runner": FILE, "jobs": [{...}], "scrub": [PREFIX], "set": {NAME: VALUE}, "follow": CODE,
     "limit": SECONDS}
            -> {"results": [TEXT]}, or {"failed": NUMBER OF THE JOB, "code": 1, "output": TEXT, "late": BOOL}
    {"op": "take", "name": FILE}                            -> {"size": 12}, bytes; then the file is removed

A request that fails is answered by {"error": TEXT}. Between answers a heartbeat {"alive": true} is sent every few
seconds, so that silence means that the agent is gone. Jobs that take longer than their limit are killed. However the
connection ends, running jobs are killed and the work folder is removed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

PROTOCOL = 2
HEARTBEAT_SECONDS = 10
"""Interval of the heartbeat."""
CHUNK_BYTES = 2**20
LIBRARY_SECONDS = 120
"""Timeout for importing the libraries."""
TAIL_BYTES = 8192
"""Maximum bytes of a failed job's output that are sent back."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_LIBRARIES_PROBE = """
import json, numpy, onnxruntime
print(json.dumps({"numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}))
"""
_TOKENIZERS_PROBE = "import tokenizers; print(tokenizers.__version__)"


class Agent:
    """The work folder, the jobs that run in it, and the connection."""

    def __init__(self, requests: Any, answers: Any) -> None:
        self._requests = requests
        self._answers = answers
        self._folder: str | None = None
        self._keep = False
        self._children: list[subprocess.Popen[bytes]] = []
        self._write_lock = threading.Lock()

    def serve(self) -> None:
        """Answer requests until the connection ends."""
        self._send_answer({"agent": PROTOCOL})
        threading.Thread(target=self._send_heartbeats, daemon=True).start()
        for line in iter(self._requests.readline, b""):
            request = json.loads(line)
            try:
                answer = getattr(self, "do_" + request["op"])(request)
            except (OSError, ValueError) as error:
                answer = {"error": str(error)}
            if answer is not None:
                self._send_answer(answer)

    def end(self) -> None:
        """Kill running jobs and remove the work folder, unless it is to be kept."""
        _kill(self._children)
        if self._folder is not None and not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def do_open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Create the work folder, readable only by this user."""
        parent = request["folder"]
        folder = tempfile.mkdtemp(prefix="compress-", dir=parent and os.path.expanduser(parent))
        # Before Python 3.12 mkdtemp returns a relative path for a relative parent, but jobs run in another folder.
        self._folder = os.path.abspath(folder)
        self._keep = request["keep"]
        return {"folder": self._folder}

    def do_probe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Describe this machine and the libraries that its Python can import."""
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        libraries, fault = self._run_python(_LIBRARIES_PROBE)
        tokenizers, _ = self._run_python(_TOKENIZERS_PROBE)
        return {
            "python": platform.python_version(),
            "system": platform.system(),
            "machine": platform.machine(),
            "board": _read_text("/proc/device-tree/model").rstrip("\0"),
            "cpuinfo": _read_text("/proc/cpuinfo"),
            "cores": sorted(cores),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "libraries": json.loads(libraries) if libraries else {},
            "fault": fault,
            "tokenizers": tokenizers or None,
        }

    def do_put(self, request: dict[str, Any]) -> dict[str, Any]:
        """Receive a file; on errors the payload is still read to its end, since the next request follows it."""
        payload = self._read_payload(request["size"])
        try:
            path = self._path_in_folder(request["name"])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                with open(path, "wb") as stream:
                    for chunk in payload:
                        stream.write(chunk)
            except OSError:
                if os.path.exists(path):
                    os.unlink(path)
                raise
        finally:
            for _ in payload:
                pass
        return {}

    def do_drop(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remove groups of files."""
        for group in request["groups"]:
            shutil.rmtree(self._path_in_folder(group), ignore_errors=True)
        return {}

    def do_run(self, request: dict[str, Any]) -> None:
        """Start jobs, each in its own process; a thread answers when they are done."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(tuple(request["scrub"]))
        }
        environment.update(request["set"])
        wrapper = [sys.executable, "-I", "-S", "-c", request["follow"], str(os.getpid())]
        started: list[tuple[subprocess.Popen[bytes], Any, str]] = []
        try:
            for number, body in enumerate(request["jobs"]):
                job, result = (
                    self._path_in_folder(f"job{number}.json"),
                    self._path_in_folder(f"job{number}.result"),
                )
                with open(job, "w", encoding="utf-8") as stream:
                    json.dump(body, stream)
                argv = [sys.executable, self._path_in_folder(request["runner"]), job, result]
                output = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with its job)
                child = subprocess.Popen(
                    [*wrapper, *argv] if sys.platform == "linux" else argv,
                    cwd=self._folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
                self._children.append(child)
                started.append((child, output, result))
        except OSError:
            _kill(self._children)
            raise
        threading.Thread(target=self._finish, args=(started, request["limit"]), daemon=True).start()

    def do_take(self, request: dict[str, Any]) -> None:
        """Send a file and remove it."""
        path = self._path_in_folder(request["name"])
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            with self._write_lock:
                self._write_message({"size": size})
                shutil.copyfileobj(stream, self._answers, CHUNK_BYTES)
                self._answers.flush()
        os.unlink(path)

    def _finish(self, started: list[tuple[subprocess.Popen[bytes], Any, str]], limit: float) -> None:
        """Wait until all jobs are done, one fails or `limit` seconds are over, and answer."""
        answer: dict[str, Any] = {"results": []}
        late = threading.Event()

        def end_all() -> None:
            late.set()
            for child, _, _ in started:
                child.kill()

        # A timer, since a wait with a timeout polls, which disturbs what the jobs time.
        timer = threading.Timer(limit, end_all)
        timer.daemon = True
        timer.start()
        try:
            for number, (child, output, result) in enumerate(started):
                code = child.wait()
                if code != 0:
                    answer = {"failed": number, "code": code, "output": _tail(output), "late": late.is_set()}
                    break
                with open(result, encoding="utf-8", errors="replace") as stream:
                    answer["results"].append(stream.read())
                os.unlink(result)
        except OSError as error:
            answer = {"error": str(error)}
        timer.cancel()
        _kill(self._children)
        for _, output, _ in started:
            output.close()
        self._children.clear()
        self._send_answer(answer)

    def _run_python(self, code: str) -> tuple[str, str | None]:
        """Run a piece of Python; return its output, or an empty text and the last line of its error."""
        try:
            child = subprocess.run(
                [sys.executable, "-c", code],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=LIBRARY_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return "", f"importing them took longer than {LIBRARY_SECONDS} s"
        if child.returncode == 0:
            return child.stdout.strip(), None
        lines = child.stderr.strip().splitlines()
        return "", lines[-1] if lines else f"ended with exit code {child.returncode}"

    def _read_payload(self, size: int) -> Iterator[bytes]:
        """Yield the bytes that follow a request."""
        while size:
            chunk = self._requests.read(min(size, CHUNK_BYTES))
            if not chunk:
                raise EOFError
            size -= len(chunk)
            yield chunk

    def _path_in_folder(self, name: str) -> str:
        if self._folder is None or not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise ValueError(f"no place for {name!r}")
        return os.path.join(self._folder, name)

    def _send_heartbeats(self) -> None:
        """Send the heartbeat."""
        try:
            while True:
                time.sleep(HEARTBEAT_SECONDS)
                self._send_answer({"alive": True})
        except (OSError, ValueError):
            # The connection is gone; the main loop, which reads the requests, ends the agent.
            return

    def _send_answer(self, body: dict[str, Any]) -> None:
        with self._write_lock:
            self._write_message(body)

    def _write_message(self, body: dict[str, Any]) -> None:
        self._answers.write(json.dumps(body).encode() + b"\n")
        self._answers.flush()


def _kill(children: list[subprocess.Popen[bytes]]) -> None:
    for child in list(children):
        if child.poll() is None:
            child.kill()
        child.wait()


def _tail(output: Any) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL_BYTES))
    return str(output.read().decode(errors="replace"))


def _read_text(path: str) -> str:
    """Return the beginning of a small file; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(2**14)
    except OSError:
        return ""


def _stop(number: int, frame: Any) -> None:
    raise SystemExit(0)


def main() -> None:
    """Serve the connection on standard input and output."""
    # The jobs import onnxruntime, which would send telemetry to its vendor.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _stop)
    agent = Agent(sys.stdin.buffer, sys.stdout.buffer)
    try:
        agent.serve()
    except (EOFError, BrokenPipeError):
        # The other end is gone, so there is no one to report an error to.
        return
    except Exception:  # noqa: BLE001 (printed here, since os._exit below prints no traceback)
        traceback.print_exc()
    finally:
        agent.end()
        # The thread of a job may still be blocked.
        os._exit(0)


if __name__ == "__main__":
    main()
