"""Transports that run jobs in child processes on this machine or on a device, and return their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import write_json
from compress.core.disk.reading import parse_json, read_mapping
from compress.core.errors import TargetError
from compress.measuring.results import LARGEST_WIDTH, examples_in, output_fault, result_fault
from compress.profile.schema import DEFAULT_TIME_LIMIT_S
from compress.runtimes import runner
from compress.runtimes.launching import (
    FOLLOW_PARENT,
    SCRUBBED_PREFIXES,
    failure,
    hung,
    run_all,
    runtime_command,
    set_variables,
)
from compress.targets.ssh.connection import plain
from compress.targets.ssh.device import Failed, SshDevice


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
        made, commands = [], []
        for body, purpose in zip(bodies, purposes, strict=True):
            stem = f"job{len(list(self._folder.glob('job*.json')))}"
            file, result = self._folder / f"{stem}.json", self._folder / f"{stem}.result"
            write_json(file, body)
            commands.append(
                runtime_command(
                    self._runtime, file, result, self._threads, purpose, allow_code=self._allow_code
                )
            )
            made.append(result)
        run_all(commands, self._where, self._limit_s)
        return [self._checked(*each) for each in zip(bodies, made, purposes, strict=True)]

    def _checked(self, body: Mapping[str, Any], file: Path, purpose: str) -> dict[str, Any]:
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
        device, doing = self._device, " and ".join(dict.fromkeys(purposes))
        moved = [relocated(body, self._send, f"outputs{number}.npy") for number, body in enumerate(bodies)]
        request = {
            "runner": self._send(runner.__file__),
            "jobs": moved,
            "scrub": list(SCRUBBED_PREFIXES),
            "set": set_variables(self._threads),
            "follow": FOLLOW_PARENT,
            "limit": self._limit_s,
        }
        answer = device.run(request, doing)
        if isinstance(answer, Failed):
            if answer.late:
                raise hung(purposes[answer.number], device.label, self._limit_s)
            raise failure(purposes[answer.number], answer.code, answer.output, device.label)
        return [self._received(*each) for each in zip(bodies, moved, answer, purposes, strict=True)]

    def _send(self, path: str) -> str:
        """Send a file with its external data and `task.json`, or the folder of a tokenizer; return its path on the
        device."""
        there = Path(path)
        if there.is_dir():
            return self._device.send([there / name for name in (TOKENIZER, TASK)])
        weights = (f"{there.name}.data", f"{there.name}_data")
        beside = {
            file for file in there.parent.iterdir() if file.name.startswith(weights) or file.name == TASK
        }
        return f"{self._device.send([there, *sorted(beside)])}/{there.name}"

    def _received(
        self, body: Mapping[str, Any], moved: Mapping[str, Any], text: str, doing: str
    ) -> dict[str, Any]:
        """Parse and validate the result of a job, and fetch its outputs to the file that the job names."""
        try:
            result = parse_json(text, doing, error=TargetError)
        except TargetError as error:
            raise self._device.nonsense(doing) from error
        if result_fault(body, result):
            raise self._device.nonsense(doing)
        if "outputs" in body and result.get("refused") is None:
            largest = 1024 + 4 * LARGEST_WIDTH * examples_in(body["feeds"])
            self._device.take(moved["outputs"], Path(body["outputs"]), doing, largest)
            fault = output_fault(body, result)
            if fault is not None:
                # Not necessarily a fault of the device: the model may overflow on its processor.
                raise TargetError(
                    f"{doing} gave {plain(fault)}", where=self._device.label, code="device-answer"
                )
        found: dict[str, Any] = result
        return found


def relocated(body: Mapping[str, Any], sent: Callable[[str], str], outputs: str) -> dict[str, Any]:
    """Return a job with its paths replaced by those on the device.

    Args:
        body: a job with paths of this machine.
        sent: sends an input of the job and returns its path on the device.
        outputs: path of the job's outputs on the device, if it writes any.
    """
    moved = dict(body)
    for key in ("model", "feeds", "scorer"):
        if key in body:
            moved[key] = sent(body[key])
    if "models" in body:
        moved["models"] = [sent(path) for path in body["models"]]
    if "scenarios" in body:
        moved["scenarios"] = [{"feeds": [sent(path) for path in one["feeds"]]} for one in body["scenarios"]]
    if body.get("tokenization"):
        moved["tokenization"] = {**body["tokenization"], "folder": sent(body["tokenization"]["folder"])}
    if "outputs" in body:
        moved["outputs"] = outputs
    return moved
