"""Transports that run jobs in child processes on this machine or on a device, and return their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import write_json
from compress.core.disk.reading import parse_json, read_mapping
from compress.core.errors import TargetError
from compress.measuring.results import MAX_OUTPUT_WIDTH, count_examples, output_fault, result_fault
from compress.profile.schema import DEFAULT_TIME_LIMIT_S
from compress.runtimes import runner
from compress.runtimes.launching import (
    FOLLOW_PARENT,
    SCRUBBED_PREFIXES,
    child_variables,
    failure,
    hung,
    run_all,
    runtime_command,
)
from compress.targets.ssh.connection import printable_line
from compress.targets.ssh.device import FailedJob, SshDevice


class Transport(Protocol):
    """Runs jobs in parallel, each in its own process."""

    def run(self, bodies: Sequence[dict[str, Any]], purposes: Sequence[str]) -> list[dict[str, Any]]:
        """Run jobs whose files are on this machine; return their results in order.

        Raises:
            TargetError: a job failed.
        """


class LocalTransport:
    """Runs jobs in child processes; job and result files are in `folder`.

    `allow_code` lets torch models run code; `limit_s` is the time in seconds that jobs may take.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str,
        threads: int,
        where: str,
        *,
        allow_code: bool = False,
        limit_s: float = DEFAULT_TIME_LIMIT_S,
    ) -> None:
        self._folder = folder
        self._allow_code = allow_code
        self._runtime = runtime
        self._threads = threads
        self._where = where
        self._limit_s = limit_s

    def run(self, bodies: Sequence[dict[str, Any]], purposes: Sequence[str]) -> list[dict[str, Any]]:
        """Write the jobs, run them and read their results."""
        result_paths, commands = [], []
        for body, purpose in zip(bodies, purposes, strict=True):
            stem = f"job{len(list(self._folder.glob('job*.json')))}"
            file, result = self._folder / f"{stem}.json", self._folder / f"{stem}.result"
            write_json(file, body)
            commands.append(
                runtime_command(
                    self._runtime, file, result, self._threads, purpose, allow_code=self._allow_code
                )
            )
            result_paths.append(result)
        run_all(commands, self._where, self._limit_s)
        return [self._read_result(*each) for each in zip(bodies, result_paths, purposes, strict=True)]

    def _read_result(self, body: Mapping[str, Any], file: Path, purpose: str) -> dict[str, Any]:
        """Read and validate the result of a job."""
        try:
            result = read_mapping(file, error=TargetError)
        except FileNotFoundError:
            raise TargetError(f"{purpose} left no result", where=self._where, code="job-result") from None
        fault = result_fault(body, result) or (output_fault(body, result) if "outputs" in body else None)
        if fault is not None:
            raise TargetError(f"{purpose} gave {fault}", where=self._where, code="job-result")
        return result


class RemoteTransport:
    """Runs jobs in child processes on a device, in the same environment; input files are sent once per session.

    `limit_s` is the time in seconds that jobs may take.

    Raises:
        TargetError: the device cannot be reached.
    """

    def __init__(self, device: SshDevice, threads: int, limit_s: float = DEFAULT_TIME_LIMIT_S) -> None:
        self._device = device
        self._threads = threads
        self._limit_s = limit_s
        device.begin()

    def run(self, bodies: Sequence[dict[str, Any]], purposes: Sequence[str]) -> list[dict[str, Any]]:
        """Send the input files, run the jobs on the device, validate and fetch their results."""
        device, operation = self._device, " and ".join(dict.fromkeys(purposes))
        remote_bodies = [
            with_remote_paths(body, self._send, f"outputs{number}.npy") for number, body in enumerate(bodies)
        ]
        request = {
            "runner": self._send(runner.__file__),
            "jobs": remote_bodies,
            "scrub": list(SCRUBBED_PREFIXES),
            "set": child_variables(self._threads),
            "follow": FOLLOW_PARENT,
            "limit": self._limit_s,
        }
        answer = device.run(request, operation)
        if isinstance(answer, FailedJob):
            if answer.timed_out:
                raise hung(purposes[answer.index], device.label, self._limit_s)
            raise failure(purposes[answer.index], answer.code, answer.output, device.label)
        return [
            self._fetch_result(*each) for each in zip(bodies, remote_bodies, answer, purposes, strict=True)
        ]

    def _send(self, path: str) -> str:
        """Send a file with its external data and `task.json`, or the folder of a tokenizer; return its path on the
        device."""
        local_path = Path(path)
        if local_path.is_dir():
            return self._device.send([local_path / name for name in (TOKENIZER, TASK)])
        data_prefixes = (f"{local_path.name}.data", f"{local_path.name}_data")
        companions = {
            file
            for file in local_path.parent.iterdir()
            if file.name.startswith(data_prefixes) or file.name == TASK
        }
        return f"{self._device.send([local_path, *sorted(companions)])}/{local_path.name}"

    def _fetch_result(
        self, body: Mapping[str, Any], remote_body: Mapping[str, Any], text: str, operation: str
    ) -> dict[str, Any]:
        """Parse and validate the result of a job, and fetch its outputs to the file that the job names."""
        try:
            result = parse_json(text, operation, error=TargetError)
        except TargetError as error:
            raise self._device.malformed_answer(operation) from error
        if result_fault(body, result):
            raise self._device.malformed_answer(operation)
        if "outputs" in body and result.get("refused") is None:
            max_bytes = 1024 + 4 * MAX_OUTPUT_WIDTH * count_examples(body["feeds"])
            self._device.fetch_file(remote_body["outputs"], Path(body["outputs"]), operation, max_bytes)
            fault = output_fault(body, result)
            if fault is not None:
                # Not necessarily a fault of the device: the model may overflow on its processor.
                raise TargetError(
                    f"{operation} gave {printable_line(fault)}",
                    where=self._device.label,
                    code="device-answer",
                )
        found: dict[str, Any] = result
        return found


def with_remote_paths(body: Mapping[str, Any], send: Callable[[str], str], outputs: str) -> dict[str, Any]:
    """Return a job with its paths replaced by those on the device.

    Args:
        body: a job with paths of this machine.
        send: sends an input of the job and returns its path on the device.
        outputs: path of the job's outputs on the device, if it writes any.
    """
    remote_body = dict(body)
    for key in ("model", "feeds", "scorer"):
        if key in body:
            remote_body[key] = send(body[key])
    if "models" in body:
        remote_body["models"] = [send(path) for path in body["models"]]
    if "scenarios" in body:
        remote_body["scenarios"] = [
            {"feeds": [send(path) for path in scenario["feeds"]]} for scenario in body["scenarios"]
        ]
    if body.get("tokenization"):
        remote_body["tokenization"] = {**body["tokenization"], "folder": send(body["tokenization"]["folder"])}
    if "outputs" in body:
        remote_body["outputs"] = outputs
    return remote_body
