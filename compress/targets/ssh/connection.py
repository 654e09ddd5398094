"""A connection to the agent on a device: requests, answers and files, through the system's ssh client."""

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
from compress.targets.ssh.pipes import Pipes, Silent

HELLO_SECONDS = CONNECT_SECONDS + 40
"""How long the device may take from the call to the first word of its Python."""
LAST_WORDS_SECONDS = 5
"""How long a client that failed may take to end, and so to say why."""
CLOSE_SECONDS = 20
"""How long it may take to remove its work folder."""
SILENT_SECONDS = 45.0
"""The agent says every few seconds that it is there; after so long without a word, or while it takes nothing of what it
is sent, nobody is."""
ANSWER_BYTES = 64 * MIB
"""A longer answer is none."""
GREETING_BYTES = 64 * KIB
"""What a login shell may print before the agent speaks."""
ERROR_BYTES = 64 * KIB
"""What is read of the client's last words."""
FILE_BYTES = 4096 * MIB
"""A larger file is not taken from a device."""
TAIL_LINES = 8
_ALIVE = json.dumps({"alive": True}).encode() + b"\n"


class Connection:
    """One run of the agent, in a process of the ssh client; `where` names the target in errors.

    Raises:
        TargetError: the device cannot be reached, its key is not known, or it has no Python to run the agent.
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
        # A session of its own: Ctrl-C is for this process, which then closes the connection in good order.
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

    def ask(self, request: dict[str, Any], doing: str) -> dict[str, Any]:
        """A request and its answer; `doing` says for errors what it is part of.

        Raises:
            TargetError: the device refuses, or the connection is lost.
        """
        with self._lost_while(doing):
            self._pipes.write(json.dumps(request).encode() + b"\n")
            return self._answer(doing)

    def put(self, file: Path, name: str, doing: str) -> None:
        """Send a file.

        Raises:
            TargetError: the device cannot keep it, or the connection is lost.
        """
        with file.open("rb") as stream, self._lost_while(doing):
            size = file.stat().st_size
            self._pipes.write(json.dumps({"op": "put", "name": name, "size": size}).encode() + b"\n")
            while chunk := stream.read(MIB):
                self._pipes.write(chunk)
            self._answer(doing)

    def take(self, name: str, to: Path, doing: str, largest: int = FILE_BYTES) -> None:
        """Fetch a file of at most `largest` bytes, and remove it there; the path here is the caller's, never the
        device's.

        Raises:
            TargetError: the device does not give it, or the connection is lost.
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
        """Whether the client still runs; it ends when the device does not answer any more."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the connection: the agent removes its work folder, unless it is asked to keep it."""
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
        """The error of an answer that no agent of ours gives."""
        return TargetError(
            f"{self.host} gave an answer that was not understood while {doing}",
            where=self._where,
            code="device-answer",
        )

    def _greet(self, source: bytes) -> None:
        """Send the agent, and read up to its first words; what a login shell prints before them is skipped."""
        deadline = time.monotonic() + HELLO_SECONDS
        heard = ""
        try:
            self._pipes.write(source)
            hello = json.dumps({"agent": agent.PROTOCOL}).encode() + b"\n"
            read = 0
            # What a shell prints may lack the end of its line.
            while not (line := self._pipes.line(GREETING_BYTES, deadline - time.monotonic())).endswith(hello):
                heard = plain(line.decode(errors="replace")) or heard
                read += len(line)
                if read > GREETING_BYTES:
                    raise EOFError
        except (OSError, EOFError, Silent) as error:
            silent = isinstance(error, Silent)
            if silent:
                self._process.kill()
            words = self._last_words() or [heard] * bool(heard)
            # Whoever is silent may have said something before, which is not why.
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

    def _answer(self, doing: str) -> dict[str, Any]:
        while (line := self._pipes.line(ANSWER_BYTES)) == _ALIVE:
            continue
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
        except Silent as error:
            # Whoever is there does not listen either: no farewell is waited for.
            self._process.kill()
            raise TargetError(
                f"{self.host} stopped responding while {doing}: nothing for {self._pipes.seconds:.0f} s",
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
        """The last lines of what the client and the device's shell wrote as errors, once the client has ended."""
        try:
            self._process.wait(LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - ERROR_BYTES))
        lines = self._errors.read(ERROR_BYTES).decode(errors="replace").splitlines()
        return [plain(line) for line in lines if line.strip()][-TAIL_LINES:]


def plain(text: str) -> str:
    """One line of text from a device, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:500]
