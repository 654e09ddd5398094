"""A remote device that measures: sends each file once per session and runs jobs."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compress.core.disk.files import sha256_file
from compress.core.errors import TargetError
from compress.core.units import megabytes
from compress.profile.device import parse_ssh
from compress.profile.schema import TargetSpec
from compress.targets.ssh.connection import Connection, printable_line

_CODES = {*range(256), *(-number for number in signal.Signals)}
"""Valid exit codes: 0 to 255, or the negative number of a signal."""
_OUTPUT_LINES = 200
_LATE_SECONDS = 60.0
"""Time for the agent to end jobs that took too long, and to say so."""


Text = Annotated[str, Field(max_length=2**14)]


class DeviceFacts(BaseModel):
    """The device's description of itself, validated because it is untrusted."""

    model_config = ConfigDict(strict=True)

    python: Text
    system: Text
    machine: Text
    board: Text
    cpuinfo: Annotated[str, Field(max_length=2**16)]
    cores: Annotated[list[Annotated[int, Field(ge=0, lt=2**16)]], Field(min_length=1, max_length=2**16)]
    memory_bytes: Annotated[int, Field(gt=0, lt=2**50)]
    libraries: Annotated[dict[Text, Text], Field(max_length=16)]
    fault: Text | None
    tokenizers: Text | None


@dataclass(frozen=True)
class FailedJob:
    """A job that failed: its index among the jobs started together, its exit code, the end of its output, and whether
    it was ended because it took too long."""

    index: int
    code: int
    output: str
    timed_out: bool


class SshDevice:
    """The device of a target, connected to on first use.

    A session lasts until `close` or a lost connection. Files are sent once per session, in groups that are named by a
    hash of their names and contents.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self._spec = spec
        self._connection: Connection | None = None
        self._folder = ""
        self._sent: set[str] = set()
        self._used: set[str] = set()
        self._digests: dict[tuple[str, int, int], str] = {}

    @property
    def label(self) -> str:
        """The target's name."""
        return self._spec.label

    def facts(self) -> DeviceFacts:
        """Return the device's description of itself.

        Raises:
            TargetError: it cannot be reached, or its answer is malformed.
        """
        connection, operation = self._connect(), "probing the device"
        answer = connection.request({"op": "probe"}, operation)
        try:
            return DeviceFacts.model_validate(answer)
        except ValidationError as error:
            raise connection.malformed_answer(operation) from error

    def begin(self) -> None:
        """Begin a measurement: connect if there is no live connection, and drop files that the last one did not use.

        Raises:
            TargetError: the device cannot be reached.
        """
        connection = self._connect()
        unused = sorted(self._sent - self._used)
        if unused:
            connection.request({"op": "drop", "groups": unused}, "removing files of earlier steps")
        self._sent &= self._used
        self._used = set()

    def send(self, files: Sequence[Path]) -> str:
        """Send the files of one folder, unless they were sent already; return the folder's name on the device.

        Raises:
            TargetError: the connection is lost, or the device cannot store them.
        """
        connection = self._session
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.name}\0{self._digest(file)}\n".encode())
        group = digest.hexdigest()[:32]
        if group not in self._sent:
            for file in files:
                size = f"{megabytes(file.stat().st_size):.1f} MB"
                connection.put(file, f"{group}/{file.name}", f"sending {file.name} ({size})")
            self._sent.add(group)
        self._used.add(group)
        return group

    def run(self, request: Mapping[str, Any], operation: str) -> list[str] | FailedJob:
        """Run jobs in parallel; return the texts of their results, or the first that failed or exceeded `limit`.

        Raises:
            TargetError: the connection is lost.
        """
        connection, jobs = self._session, len(request["jobs"])
        answer = connection.request({"op": "run", **request}, operation, request["limit"] + _LATE_SECONDS)
        if "failed" in answer:
            failed, code = answer["failed"], answer.get("code")
            output, late = answer.get("output", ""), answer.get("late", False)
            if not (type(failed) is int and type(code) is int and isinstance(output, str)):
                raise connection.malformed_answer(operation)
            if failed not in range(jobs) or code not in _CODES:
                raise connection.malformed_answer(operation)
            lines = [printable_line(line) for line in output.splitlines()[-_OUTPUT_LINES:]]
            return FailedJob(failed, code, "\n".join(lines), late is True)
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != jobs or {type(one) for one in results} - {str}:
            raise connection.malformed_answer(operation)
        return results

    def fetch_file(self, name: str, destination: Path, operation: str, max_bytes: int) -> None:
        """Fetch a file of at most `max_bytes` bytes that a job wrote.

        Raises:
            TargetError: the connection is lost, or there is no such file.
        """
        self._session.fetch_file(name, destination, operation, max_bytes)

    def malformed_answer(self, operation: str) -> TargetError:
        """Return the error for a malformed result."""
        return self._session.malformed_answer(operation)

    def close(self) -> str | None:
        """Close the session, if any; return a note on files kept on the device, if the target asks for it."""
        if self._connection is None:
            return None
        connection, self._connection = self._connection, None
        connection.close()
        self._sent, self._used = set(), set()
        return (
            f"{self.label}: the work is kept in {printable_line(self._folder)}" if self._spec.keep else None
        )

    @property
    def _session(self) -> Connection:
        # A new connection would lack the files that this measurement has sent, so only `begin` opens one.
        assert self._connection is not None, "begin comes first"
        return self._connection

    def _connect(self) -> Connection:
        if self._connection is not None and not self._connection.is_alive():
            self.close()
        if self._connection is None:
            spec = self._spec
            self._connection = Connection(parse_ssh(spec.device), spec.python, spec.label)
            request = {"op": "open", "folder": spec.folder, "keep": spec.keep}
            folder = self._connection.request(request, "making a work folder").get("folder")
            if not isinstance(folder, str):
                raise self._connection.malformed_answer("making a work folder")
            self._folder = folder
        return self._connection

    def _digest(self, file: Path) -> str:
        """Return the sha256 of a file, cached while its modification time and size do not change."""
        state = file.stat()
        key = (str(file), state.st_mtime_ns, state.st_size)
        if key not in self._digests:
            self._digests[key] = sha256_file(file)
        return self._digests[key]
