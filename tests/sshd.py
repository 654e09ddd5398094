"""A real ssh server on loopback, for the present user, with keys and a client config of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") or "/usr/sbin/sshd"

SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
# The folder of a test lies below /tmp, where everybody may write.
StrictModes no
"""
CLIENT = """\
Host *
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  # The program must not give in to this.
  StrictHostKeyChecking no
"""


@dataclass
class Sshd:
    """A running server; `bin` holds an `ssh` that is the system's with the config of this folder."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def device(self) -> str:
        """As a target names it."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        """The PATH on which the client is found."""
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def sessions(self) -> list[psutil.Process]:
        """The processes of the server's connections."""
        return psutil.Process(self.process.pid).children()

    def stop(self) -> None:
        """End the server and its connections; twice is once."""
        if self.process.poll() is None:
            self.cut()
            self.process.terminate()
            self.process.wait()

    def restart(self) -> None:
        """Start again, with what its config says now."""
        self.stop()
        self.process = serve(self.folder, self.port)

    def cut(self) -> None:
        """Kill the server's side of every connection, and nothing that runs on the device."""
        for session in self.sessions():
            # One that is ending anyway is as good as killed.
            with suppress(psutil.NoSuchProcess):
                for process in (*session.children(recursive=True), session):
                    if process.name().startswith("sshd"):
                        process.kill()


def start_sshd(folder: Path) -> Sshd:
    """Make keys and configs in `folder`, start the server, and wait until it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        # Debian's service makes it when it starts; no service runs here.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "sshd_config").write_text(SERVER.format(folder=folder, port=port))
    (folder / "ssh_config").write_text(CLIENT.format(folder=folder))
    (folder / "bin").mkdir()
    client = folder / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    client.chmod(0o755)
    return Sshd(folder, port, serve(folder, port))


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the server with the config of `folder`, and wait until it listens."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log
        )
    assert soon(lambda: listens(port) or process.poll() is not None)
    assert process.poll() is None, (folder / "log").read_text()
    return process


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def soon(true: Callable[[], object], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def running_under(place: Path) -> list[int]:
    """Processes that work in a folder of the device."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(place) in os.readlink(entry / "cwd"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
