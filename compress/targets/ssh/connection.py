"""Connection to the agent on a device through the system's ssh client: requests, answers and files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from compress.core.disk.exhaustion import DEVICE_FULL_HINT, reports_disk_full
from compress.core.disk.reading import parse_json
from compress.core.errors import TargetError
from compress.core.units import KIB, MIB
from compress.profile.device import SshAddress
from compress.targets.ssh import agent
from compress.targets.ssh.command import CONNECT_SECONDS, hint_for, ssh_command
from compress.targets.ssh.pipes import InactivityTimeout, Pipes

GREETING_SECONDS = CONNECT_SECONDS + 40
"""Timeout from starting the client to the greeting of the agent."""
EXIT_SECONDS = 5
"""Timeout for a failed client to exit, so that its error output is complete."""
CLOSE_SECONDS = 20
"""Timeout for the agent to remove its work folder."""
INACTIVITY_SECONDS = 45.0
"""Time without a heartbeat, or without accepting any of the sent data, after which the agent is considered gone."""
ANSWER_SECONDS = 600.0
"""Time until the answer to a request, heartbeats or not; jobs have their own limit."""
ANSWER_BYTES = 64 * MIB
"""Maximum bytes of an answer."""
GREETING_BYTES = 64 * KIB
"""Maximum bytes that a login shell may print before the agent's greeting."""
ERROR_BYTES = 64 * KIB
"""Maximum bytes that are read from the end of the client's error output."""
FILE_BYTES = 4096 * MIB
"""Maximum bytes of a file that is fetched from a device."""
TAIL_LINES = 8
_HEARTBEAT = json.dumps({"alive": True}).encode() + b"\n"


class Connection:
    """One session of the agent, through an ssh client process; `where` names the target in errors.

    Raises:
        TargetError: the device cannot be reached, its host key is unknown, or it has no Python to run the agent.
    """

    def __init__(self, address: SshAddress, python: str, where: str) -> None:
        self._address = address
        self._where = where
        client = shutil.which("ssh")
        if client is None:
            raise TargetError(
                "there is no ssh client on this machine",
                where=where,
                hint="Install OpenSSH (Debian: apt install openssh-client).",
            )
        source = Path(agent.__file__).read_bytes()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the connection)
        # A separate session, so that Ctrl-C reaches only this process, which then closes the connection cleanly.
        self._process = subprocess.Popen(
            ssh_command(client, address, python, len(source)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = Pipes(self._process.stdin, self._process.stdout, INACTIVITY_SECONDS)
        try:
            self._read_greeting(source)
        except BaseException:
            self.close()
            raise

    @property
    def host(self) -> str:
        """The device's name, for messages."""
        return self._address.host

    def request(self, body: dict[str, Any], operation: str, within_s: float | None = None) -> dict[str, Any]:
        """Send a request and return its answer.

        Args:
            body: the request.
            operation: description of the operation, for errors.
            within_s: seconds until the answer must have come; by default `ANSWER_SECONDS`.

        Raises:
            TargetError: the request failed on the device, or the connection is lost.
        """
        with self._translate_errors(operation):
            self._pipes.write(json.dumps(body).encode() + b"\n")
            return self._read_answer(operation, ANSWER_SECONDS if within_s is None else within_s)

    def put(self, file: Path, name: str, operation: str) -> None:
        """Send a file.

        Raises:
            TargetError: the device cannot store it, or the connection is lost.
        """
        with file.open("rb") as stream, self._translate_errors(operation):
            size = file.stat().st_size
            self._pipes.write(json.dumps({"op": "put", "name": name, "size": size}).encode() + b"\n")
            while chunk := stream.read(MIB):
                self._pipes.write(chunk)
            self._read_answer(operation, ANSWER_SECONDS)

    def fetch_file(self, name: str, destination: Path, operation: str, max_bytes: int = FILE_BYTES) -> None:
        """Fetch a file of at most `max_bytes` bytes and remove it there; the local path is the caller's choice.

        Raises:
            TargetError: the device does not provide it, or the connection is lost.
        """
        remaining = self.request({"op": "take", "name": name}, operation).get("size")
        if type(remaining) is not int or not 0 <= remaining <= min(FILE_BYTES, max_bytes):
            raise self.malformed_answer(operation)
        with destination.open("wb") as stream, self._translate_errors(operation):
            while remaining:
                chunk = self._pipes.read(min(remaining, MIB))
                stream.write(chunk)
                remaining -= len(chunk)

    def is_alive(self) -> bool:
        """Whether the client is still running; it exits if the device stops answering."""
        return self._process.poll() is None

    def close(self) -> None:
        """Close the connection; the agent then removes its work folder, unless it is to be kept."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            self._process.kill()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipes.close()
        self._errors.close()

    def malformed_answer(self, doing: str) -> TargetError:
        """Return the error for a malformed answer."""
        return TargetError(
            f"{self.host} gave an answer that was not understood while {doing}",
            where=self._where,
            code="device-answer",
        )

    def _read_greeting(self, source: bytes) -> None:
        """Send the agent's source and read up to its greeting, skipping what a login shell prints before it."""
        deadline = time.monotonic() + GREETING_SECONDS
        shell_output = ""
        try:
            self._pipes.write(source)
            greeting = json.dumps({"agent": agent.PROTOCOL}).encode() + b"\n"
            bytes_read = 0
            # The greeting may follow shell output on the same line.
            while not (line := self._pipes.read_line(GREETING_BYTES, deadline - time.monotonic())).endswith(
                greeting
            ):
                shell_output = printable_line(line.decode(errors="replace")) or shell_output
                bytes_read += len(line)
                if bytes_read > GREETING_BYTES:
                    raise EOFError
        except (OSError, EOFError, InactivityTimeout) as error:
            timed_out = isinstance(error, InactivityTimeout)
            if timed_out:
                self._process.kill()
            lines = self._read_errors() or [shell_output] * bool(shell_output)
            # On a timeout, earlier output does not explain the failure.
            reason = (
                f"no answer within {GREETING_SECONDS} s"
                if timed_out
                else (lines or ["it ended without a word"])[-1]
            )
            raise TargetError(
                f"cannot reach {self.host}: {reason}",
                where=self._where,
                hint=hint_for("\n".join(lines), self._address),
            ) from error

    def _read_answer(self, operation: str, within_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while (line := self._pipes.read_line(ANSWER_BYTES)) == _HEARTBEAT:
            if time.monotonic() > deadline:
                raise InactivityTimeout(within_s)
        try:
            answer = parse_json(line, self._where, error=TargetError)
        except TargetError as error:
            raise self.malformed_answer(operation) from error
        if not isinstance(answer, dict):
            raise self.malformed_answer(operation)
        if "error" in answer:
            if not isinstance(answer["error"], str):
                raise self.malformed_answer(operation)
            message = printable_line(answer["error"])
            hint = DEVICE_FULL_HINT if reports_disk_full(message) else None
            raise TargetError(
                f"{self.host} failed while {operation}: {message}", where=self._where, hint=hint
            )
        return answer

    @contextmanager
    def _translate_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except InactivityTimeout as error:
            # The agent may not react to the end of its input either: do not wait for it.
            self._process.kill()
            self._process.wait()
            raise TargetError(
                f"{self.host} stopped responding while {operation}: no answer for {error.seconds:.0f} s",
                where=self._where,
                hint="Once it answers again, run the same command: it resumes from here.",
                code="device-silent",
            ) from error
        except (BrokenPipeError, ConnectionError, EOFError) as error:
            lines = self._read_errors()
            detail = f": {lines[-1]}" if lines else ""
            raise TargetError(
                f"the connection to {self.host} was lost while {operation}{detail}",
                where=self._where,
                hint="Once it can be reached again, run the same command: it resumes from here.",
            ) from error

    def _read_errors(self) -> list[str]:
        """Wait for the client to exit, and return the last lines of its error output and the device's shell's."""
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - ERROR_BYTES))
        lines = self._errors.read(ERROR_BYTES).decode(errors="replace").splitlines()
        return [printable_line(line) for line in lines if line.strip()][-TAIL_LINES:]


def printable_line(text: str) -> str:
    """Return a text from a device as one line without unprintable characters, at most 500 long."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:500]
