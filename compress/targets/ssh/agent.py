"""Runs on the device while it is measured: takes files, runs jobs, gives results back, and leaves nothing behind.

One file that needs Python 3.9 and its standard library. It is sent over the connection and run from there, so it
imports nothing of the package it lies in. A request is one line of JSON on the standard input, and its answer one on
the standard output:

    {"op": "open", "folder": null, "keep": false}           -> {"folder": PATH}
    {"op": "probe"}                                         -> what this machine is
    {"op": "put", "name": "GROUP/FILE", "size": 12}, bytes  -> {}
    {"op": "drop", "groups": ["GROUP"]}                     -> {}
    {"op": "run", "runner": FILE, "jobs": [{...}], "scrub": [PREFIX], "set": {NAME: VALUE}, "follow": CODE}
            -> {"results": [TEXT]}, or {"failed": NUMBER OF THE JOB, "code": 1, "output": TEXT}
    {"op": "take", "name": FILE}                            -> {"size": 12}, bytes; the file is gone then

What cannot be done is answered by {"error": TEXT}. Between answers {"alive": true} is said every few seconds, so that
silence means that nobody is there. However the connection ends, the jobs that still run are killed
and the work folder is removed.
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
ALIVE_SECONDS = 10
"""How often it is said that somebody is there."""
CHUNK = 2**20
TAIL = 8192
"""Bytes of a failed job's output that are sent back."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_IMPORTS = """
import json, numpy, onnxruntime
print(json.dumps({"numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}))
"""
_TOKENIZERS = "import tokenizers; print(tokenizers.__version__)"


class Agent:
    """The work folder, the jobs that run in it, and the connection."""

    def __init__(self, requests: Any, answers: Any) -> None:
        self._requests = requests
        self._answers = answers
        self._folder: str | None = None
        self._keep = False
        self._children: list[subprocess.Popen[bytes]] = []
        self._speaking = threading.Lock()

    def serve(self) -> None:
        """Answer requests until the connection ends."""
        self._answer({"agent": PROTOCOL})
        threading.Thread(target=self._live, daemon=True).start()
        for line in iter(self._requests.readline, b""):
            request = json.loads(line)
            try:
                answer = getattr(self, "do_" + request["op"])(request)
            except (OSError, ValueError) as error:
                answer = {"error": str(error)}
            if answer is not None:
                self._answer(answer)

    def end(self) -> None:
        """Kill what runs and remove the work folder."""
        _kill(self._children)
        if self._folder is not None and not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def do_open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the work folder, which nobody else may read."""
        parent = request["folder"]
        made = tempfile.mkdtemp(prefix="compress-", dir=parent and os.path.expanduser(parent))
        # Before Python 3.12 it is as relative as its parent, and jobs run in another folder than this.
        self._folder = os.path.abspath(made)
        self._keep = request["keep"]
        return {"folder": self._folder}

    def do_probe(self, request: dict[str, Any]) -> dict[str, Any]:
        """What this machine is, and whether its Python has what runs a model."""
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        libraries, fault = self._said_by(_IMPORTS)
        tokenizers, _ = self._said_by(_TOKENIZERS)
        return {
            "python": platform.python_version(),
            "system": platform.system(),
            "machine": platform.machine(),
            "board": _text_of("/proc/device-tree/model").rstrip("\0"),
            "cpuinfo": _text_of("/proc/cpuinfo"),
            "cores": sorted(cores),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "libraries": json.loads(libraries) if libraries else {},
            "fault": fault,
            "tokenizers": tokenizers or None,
        }

    def do_put(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a file; what cannot be written is read to its end all the same, for the next request follows it."""
        payload = self._payload(request["size"])
        try:
            path = self._inside(request["name"])
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
            shutil.rmtree(self._inside(group), ignore_errors=True)
        return {}

    def do_run(self, request: dict[str, Any]) -> None:
        """Start jobs, each in a process of its own; a thread answers when they are done."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(tuple(request["scrub"]))
        }
        environment.update(request["set"])
        follow = [sys.executable, "-I", "-S", "-c", request["follow"], str(os.getpid())]
        started: list[tuple[subprocess.Popen[bytes], Any, str]] = []
        try:
            for number, body in enumerate(request["jobs"]):
                job, result = self._inside(f"job{number}.json"), self._inside(f"job{number}.result")
                with open(job, "w", encoding="utf-8") as stream:
                    json.dump(body, stream)
                argv = [sys.executable, self._inside(request["runner"]), job, result]
                output = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with its job)
                child = subprocess.Popen(
                    [*follow, *argv] if sys.platform == "linux" else argv,
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
        threading.Thread(target=self._finish, args=(started,), daemon=True).start()

    def do_take(self, request: dict[str, Any]) -> None:
        """Give a file, and remove it."""
        path = self._inside(request["name"])
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            with self._speaking:
                self._say({"size": size})
                shutil.copyfileobj(stream, self._answers, CHUNK)
                self._answers.flush()
        os.unlink(path)

    def _finish(self, started: list[tuple[subprocess.Popen[bytes], Any, str]]) -> None:
        """Wait for jobs, as long as none fails, and answer."""
        answer: dict[str, Any] = {"results": []}
        try:
            for number, (child, output, result) in enumerate(started):
                code = child.wait()
                if code != 0:
                    answer = {"failed": number, "code": code, "output": _tail(output)}
                    break
                with open(result, encoding="utf-8", errors="replace") as stream:
                    answer["results"].append(stream.read())
                os.unlink(result)
        except OSError as error:
            answer = {"error": str(error)}
        _kill(self._children)
        for _, output, _ in started:
            output.close()
        self._children.clear()
        self._answer(answer)

    def _said_by(self, code: str) -> tuple[str, str | None]:
        """What a piece of Python prints, and the last line of its error."""
        child = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if child.returncode == 0:
            return child.stdout.strip(), None
        lines = child.stderr.strip().splitlines()
        return "", lines[-1] if lines else f"ended with exit code {child.returncode}"

    def _payload(self, size: int) -> Iterator[bytes]:
        """The bytes that follow a request."""
        while size:
            chunk = self._requests.read(min(size, CHUNK))
            if not chunk:
                raise EOFError
            size -= len(chunk)
            yield chunk

    def _inside(self, name: str) -> str:
        if self._folder is None or not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise ValueError(f"no place for {name!r}")
        return os.path.join(self._folder, name)

    def _live(self) -> None:
        """Say every few seconds that somebody is there."""
        try:
            while True:
                time.sleep(ALIVE_SECONDS)
                self._answer({"alive": True})
        except (OSError, ValueError):
            # The connection is gone: whoever reads the requests ends the agent.
            return

    def _answer(self, body: dict[str, Any]) -> None:
        with self._speaking:
            self._say(body)

    def _say(self, body: dict[str, Any]) -> None:
        self._answers.write(json.dumps(body).encode() + b"\n")
        self._answers.flush()


def _kill(children: list[subprocess.Popen[bytes]]) -> None:
    for child in list(children):
        if child.poll() is None:
            child.kill()
        child.wait()


def _tail(output: Any) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL))
    return str(output.read().decode(errors="replace"))


def _text_of(path: str) -> str:
    """The beginning of a small file; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(2**14)
    except OSError:
        return ""


def _stop(number: int, frame: Any) -> None:
    raise SystemExit(0)


def main() -> None:
    """Serve the connection on the standard input and output."""
    # Whatever is started here imports onnxruntime, which else calls its maker's collector.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _stop)
    agent = Agent(sys.stdin.buffer, sys.stdout.buffer)
    try:
        agent.serve()
    except (EOFError, BrokenPipeError):
        # The other end is gone, and so is whoever would read of it.
        return
    except Exception:  # noqa: BLE001 (told here, for the process ends below without another word)
        traceback.print_exc()
    finally:
        agent.end()
        # The thread of a job may still wait to answer nobody.
        os._exit(0)


if __name__ == "__main__":
    main()
