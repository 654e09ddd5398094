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

from compress.core.disk.exhaustion import DEVICE_FULL, says_full
from compress.core.disk.reading import parse_json
from compress.core.errors import TargetError
from compress.core.units import KIB, MIB
from compress.profile.device import SshAddress
from compress.targets.ssh import agent
from compress.targets.ssh.command import CONNECT_SECONDS, hint_for, ssh_command
from compress.targets.ssh.pipes import InactivityTimeout, Pipes

HELLO_SECONDS = CONNECT_SECONDS + 40
"""Timeout from starting the client to the greeting of the agent."""
LAST_WORDS_SECONDS = 5
"""Timeout for a failed client to exit, so that its error output is complete."""
CLOSE_SECONDS = 20
"""Timeout for the agent to remove its work folder."""
SILENT_SECONDS = 45.0
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
_ALIVE = json.dumps({"alive": True}).encode() + b"\n"


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
        self._pipes = Pipes(self._process.stdin, self._process.stdout, SILENT_SECONDS)
        try:
            self._greet(source)
        except BaseException:
            self.close()
            raise

    @property
    def host(self) -> str:
        """The device's name, for messages."""
        return self._address.host

    def ask(self, request: dict[str, Any], doing: str, within_s: float | None = None) -> dict[str, Any]:
        """Send a request and return its answer.

        Args:
            request: the request.
            doing: description of the operation, for errors.
            within_s: seconds until the answer must have come; by default `ANSWER_SECONDS`.

        Raises:
            TargetError: the request failed on the device, or the connection is lost.
        """
        with self._lost_while(doing):
            self._pipes.write(json.dumps(request).encode() + b"\n")
            return self._answer(doing, ANSWER_SECONDS if within_s is None else within_s)

    def put(self, file: Path, name: str, doing: str) -> None:
        """Send a file.

        Raises:
            TargetError: the device cannot store it, or the connection is lost.
        """
        with file.open("rb") as stream, self._lost_while(doing):
            size = file.stat().st_size
            self._pipes.write(json.dumps({"op": "put", "name": name, "size": size}).encode() + b"\n")
            while chunk := stream.read(MIB):
                self._pipes.write(chunk)
            self._answer(doing, ANSWER_SECONDS)

    def take(self, name: str, to: Path, doing: str, largest: int = FILE_BYTES) -> None:
        """Fetch a file of at most `largest` bytes and remove it there; the local path is the caller's choice.

        Raises:
            TargetError: the device does not provide it, or the connection is lost.
        """
        left = self.ask({"op": "take", "name": name}, doing).get("size")
        if type(left) is not int or not 0 <= left <= min(FILE_BYTES, largest):
            raise self.nonsense(doing)
        with to.open("wb") as stream, self._lost_while(doing):
            while left:
                chunk = self._pipes.read(min(left, MIB))
                stream.write(chunk)
                left -= len(chunk)

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

    def nonsense(self, doing: str) -> TargetError:
        """Return the error for a malformed answer."""
        return TargetError(
            f"{self.host} gave an answer that was not understood while {doing}",
            where=self._where,
            code="device-answer",
        )

    def _greet(self, source: bytes) -> None:
        """Send the agent's source and read up to its greeting, skipping what a login shell prints before it."""
        deadline = time.monotonic() + HELLO_SECONDS
        heard = ""
        try:
            self._pipes.write(source)
            hello = json.dumps({"agent": agent.PROTOCOL}).encode() + b"\n"
            read = 0
            # The greeting may follow shell output on the same line.
            while not (line := self._pipes.line(GREETING_BYTES, deadline - time.monotonic())).endswith(hello):
                heard = plain(line.decode(errors="replace")) or heard
                read += len(line)
                if read > GREETING_BYTES:
                    raise EOFError
        except (OSError, EOFError, InactivityTimeout) as error:
            silent = isinstance(error, InactivityTimeout)
            if silent:
                self._process.kill()
            words = self._last_words() or [heard] * bool(heard)
            # On a timeout, earlier output does not explain the failure.
            said = (
                f"no answer within {HELLO_SECONDS} s"
                if silent
                else (words or ["it ended without a word"])[-1]
            )
            raise TargetError(
                f"cannot reach {self.host}: {said}",
                where=self._where,
                hint=hint_for("\n".join(words), self._address),
            ) from error

    def _answer(self, doing: str, within_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while (line := self._pipes.line(ANSWER_BYTES)) == _ALIVE:
            if time.monotonic() > deadline:
                raise InactivityTimeout(within_s)
        try:
            answer = parse_json(line, self._where, error=TargetError)
        except TargetError as error:
            raise self.nonsense(doing) from error
        if not isinstance(answer, dict):
            raise self.nonsense(doing)
        if "error" in answer:
            if not isinstance(answer["error"], str):
                raise self.nonsense(doing)
            said = plain(answer["error"])
            hint = DEVICE_FULL if says_full(said) else None
            raise TargetError(f"{self.host} failed while {doing}: {said}", where=self._where, hint=hint)
        return answer

    @contextmanager
    def _lost_while(self, doing: str) -> Iterator[None]:
        try:
            yield
        except InactivityTimeout as error:
            # The agent may not react to the end of its input either: do not wait for it.
            self._process.kill()
            self._process.wait()
            raise TargetError(
                f"{self.host} stopped responding while {doing}: no answer for {error.seconds:.0f} s",
                where=self._where,
                hint="Once it answers again, run the same command: it resumes from here.",
                code="device-silent",
            ) from error
        except (BrokenPipeError, ConnectionError, EOFError) as error:
            words = self._last_words()
            said = f": {words[-1]}" if words else ""
            raise TargetError(
                f"the connection to {self.host} was lost while {doing}{said}",
                where=self._where,
                hint="Once it can be reached again, run the same command: it resumes from here.",
            ) from error

    def _last_words(self) -> list[str]:
        """Wait for the client to exit, and return the last lines of its error output and the device's shell's."""
        try:
            self._process.wait(LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - ERROR_BYTES))
        lines = self._errors.read(ERROR_BYTES).decode(errors="replace").splitlines()
        return [plain(line) for line in lines if line.strip()][-TAIL_LINES:]


def plain(text: str) -> str:
    """Return a text from a device as one line without unprintable characters, at most 500 long."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:500]
