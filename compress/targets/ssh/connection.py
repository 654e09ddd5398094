"""A connection to the agent on a device: requests, answers and files, through the system's ssh client."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from compress.errors import TargetError
from compress.exhaustion import DEVICE_FULL, says_full
from compress.profile.device import SshAddress
from compress.targets.ssh import agent
from compress.targets.ssh.command import CONNECT_SECONDS, hint_for, ssh_command
from compress.units import KIB, MIB

HELLO_SECONDS = CONNECT_SECONDS + 40
"""How long the device may take from the call to the first word of its Python."""
CLOSE_SECONDS = 20
"""How long it may take to remove its work folder."""
ANSWER_BYTES = 64 * MIB
"""A longer answer is none."""
GREETING_BYTES = 64 * KIB
"""What a login shell may print before the agent speaks."""
FILE_BYTES = 4096 * MIB
"""A larger file is not taken from a device."""
TAIL_LINES = 8


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
                hint="Install OpenSSH's (Debian: apt install openssh-client).",
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
        )
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
            self._write(json.dumps(request).encode() + b"\n")
            return self._answer(doing)

    def put(self, file: Path, name: str, doing: str) -> None:
        """Send a file.

        Raises:
            TargetError: the device cannot keep it, or the connection is lost.
        """
        with file.open("rb") as stream, self._lost_while(doing):
            size = file.stat().st_size
            self._write(json.dumps({"op": "put", "name": name, "size": size}).encode() + b"\n")
            while chunk := stream.read(MIB):
                self._write(chunk)
            self._answer(doing)

    def take(self, name: str, to: Path, doing: str) -> None:
        """Fetch a file, and remove it there; the path here is the caller's, never the device's.

        Raises:
            TargetError: the device does not give it, or the connection is lost.
        """
        left = self.ask({"op": "take", "name": name}, doing).get("size")
        if not isinstance(left, int) or not 0 <= left <= FILE_BYTES:
            raise self.nonsense(doing)
        with to.open("wb") as stream, self._lost_while(doing):
            while left:
                chunk = self._stdout.read(min(left, MIB))
                if not chunk:
                    raise EOFError
                stream.write(chunk)
                left -= len(chunk)

    def is_alive(self) -> bool:
        """Whether the client still runs; it ends when the device does not answer any more."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the connection: the agent removes its work folder, unless it is asked to keep it."""
        try:
            self._stdin.close()
        except OSError:
            self._process.kill()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._errors.close()

    def nonsense(self, doing: str) -> TargetError:
        """The error of an answer that no agent of ours gives."""
        return TargetError(
            f"{self.host} answered in a way that was not understood while {doing}", where=self._where
        )

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _write(self, data: bytes) -> None:
        self._stdin.write(data)
        self._stdin.flush()

    def _greet(self, source: bytes) -> None:
        """Send the agent, and read up to its first words; what a login shell prints before them is skipped."""
        timer = threading.Timer(HELLO_SECONDS, self._process.kill)
        timer.start()
        try:
            self._write(source)
            hello = json.dumps({"agent": agent.PROTOCOL}).encode() + b"\n"
            read = 0
            while (line := self._stdout.readline(GREETING_BYTES)) != hello:
                read += len(line)
                if not line or read > GREETING_BYTES:
                    raise EOFError
        except (OSError, EOFError) as error:
            words = self._last_words()
            said = words[-1] if words else f"no answer within {HELLO_SECONDS} s"
            raise TargetError(
                f"cannot reach {self.host}: {said}",
                where=self._where,
                hint=hint_for("\n".join(words), self._address),
            ) from error
        finally:
            timer.cancel()

    def _answer(self, doing: str) -> dict[str, Any]:
        line = self._stdout.readline(ANSWER_BYTES)
        if not line:
            raise EOFError
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise self.nonsense(doing) from error
        if not isinstance(answer, dict):
            raise self.nonsense(doing)
        if "error" in answer:
            said = plain(str(answer["error"]))
            hint = DEVICE_FULL if says_full(said) else None
            raise TargetError(
                f"{self.host} could not go on while {doing}: {said}", where=self._where, hint=hint
            )
        return answer

    @contextmanager
    def _lost_while(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (BrokenPipeError, ConnectionError, EOFError) as error:
            words = self._last_words()
            said = f": {words[-1]}" if words else ""
            raise TargetError(
                f"the connection to {self.host} was lost while {doing}{said}",
                where=self._where,
                hint="Once it can be reached again, start the same command: it goes on from here.",
            ) from error

    def _last_words(self) -> list[str]:
        """The last lines of what the client and the device's shell wrote as errors, once the client has ended."""
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return [plain(line) for line in lines if line.strip()][-TAIL_LINES:]


def plain(text: str) -> str:
    """One line of text from a device, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:500]
