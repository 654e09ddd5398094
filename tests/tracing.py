"""What a command and its children ask the system for, by strace: addresses, and files that are opened for writing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STRACE = shutil.which("strace")

_CALLS = (
    "trace=connect,sendto,sendmsg,sendmmsg,bind,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2"
)
_CALL = re.compile(r"^\d+\s+(?:<\.\.\. )?(\w+)")
_ADDRESS = re.compile(
    r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")'
)
_WRITES = re.compile(r"O_CREAT|O_WRONLY|O_RDWR")
_LOOPBACK = ("127.", "::1", "0.0.0.0", "::")
_DONE = re.compile(r"= (-?\d+)")


@dataclass(frozen=True)
class Traced:
    """`addresses`: every one beyond this machine that something was sent to, as `host:port`; `written`: every file or
    folder that was opened for writing or made."""

    addresses: frozenset[str]
    written: frozenset[str]
    result: subprocess.CompletedProcess[str]

    def written_in(self, folder: Path) -> set[str]:
        """What was written below a folder."""
        return {name for name in self.written if Path(name).is_relative_to(folder)}


def traced(argv: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str], trace: Path) -> Traced:
    """Run a command under strace; `trace` is the file that its calls go to."""
    command = [
        STRACE or "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-s",
        "4096",
        "-e",
        _CALLS,
        "-o",
        str(trace),
        *map(str, argv),
    ]
    result = subprocess.run(
        command, cwd=cwd, env=dict(environment), capture_output=True, text=True, check=False
    )
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    return Traced(frozenset(_addresses(lines)), frozenset(_written(lines)), result)


def _addresses(lines: Sequence[str]) -> set[str]:
    """Asking for a connection counts, whether it succeeds or not; a socket of this machine's own does not."""
    found = set()
    for line in lines:
        if (address := _ADDRESS.search(line)) is not None and "bind(" not in line:
            host = address.group(2) or address.group(3)
            if not host.startswith(_LOOPBACK[:2]) and host not in _LOOPBACK:
                found.add(f"{host}:{address.group(1)}")
    return found


def _written(lines: Sequence[str]) -> set[str]:
    found = set()
    for line in lines:
        call = _CALL.match(line)
        done = _DONE.findall(line)
        if call is None or not done or int(done[-1]) < 0:
            continue
        if call.group(1).startswith("open") and not _WRITES.search(line):
            continue
        if call.group(1).startswith(("open", "creat", "mkdir", "rename")):
            found |= set(re.findall(r'"([^"]+)"', line))
    return found
