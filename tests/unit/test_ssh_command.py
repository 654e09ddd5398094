"""The command line of the ssh client: what it is told, and how what the device's shell gets is quoted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compress.profile.device import SshAddress
from compress.targets.ssh.command import hint_for, remote_command, ssh_command
from compress.targets.ssh.connection import printable_line


def test_host_keys_are_checked_and_nothing_asks() -> None:
    command = ssh_command("/usr/bin/ssh", SshAddress("board", "pi", 2222), "python3", 10)
    assert command[0] == "/usr/bin/ssh"
    assert "StrictHostKeyChecking=yes" in command
    assert "BatchMode=yes" in command
    assert "ConnectTimeout=20" in command
    assert {"ControlPath=none", "ForwardAgent=no", "ClearAllForwardings=yes"} <= set(command)
    assert command[-7:-1] == ["-l", "pi", "-p", "2222", "--", "board"]


def test_user_and_port_are_the_clients_own_where_the_profile_names_none() -> None:
    command = ssh_command("ssh", SshAddress("board"), "python3", 10)
    assert not {"-l", "-p"} & set(command)


def in_a_shell(python: str, home: Path, source: bytes) -> subprocess.CompletedProcess[bytes]:
    """What a device's shell makes of the line, in the home folder, where ssh starts it."""
    line = remote_command(python, len(source))
    return subprocess.run(["sh", "-c", line], input=source, cwd=home, capture_output=True, check=False)


@pytest.mark.parametrize("name", ["python", "a name", "it's", "$(touch x)", "`touch x`", "a;touch x", '"'])
def test_the_name_of_the_python_is_only_a_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    for python in (str(folder / "python"), f"~/{name}/python", f"{name}/python"):
        result = in_a_shell(python, tmp_path, b"print(6 * 7)")
        assert result.stdout == b"42\n", result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_only_the_source_is_read_as_source(tmp_path: Path) -> None:
    line = remote_command(sys.executable, 35)
    given = b"print(sys.stdin.buffer.read())".ljust(35, b"\n") + b"the first request"
    result = subprocess.run(["sh", "-c", line], input=given, capture_output=True, check=True, cwd=tmp_path)
    assert result.stdout == b"b'the first request'\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("Host key verification failed.", "`ssh -p 2222 -l pi board`"),
        ("pi@board: Permission denied (publickey).", "`ssh-copy-id -p 2222 pi@board`"),
        ("bash: line 1: exec: python3: not found", "`python`"),
        ("sh: 1: exec: ./env/bin: Permission denied", "`python`"),
        ("bash: line 1: ./python: cannot execute binary file: Exec format error", "`python`"),
        ("Python 3.9 or newer is needed, and this is 3.7.3", "`python`"),
        ("ssh: Could not resolve hostname board: Name or service not known", "not in DNS"),
        ("ssh: connect to host board port 2222: Connection refused", "No ssh server answers"),
        ("ssh: connect to host board port 2222: Connection timed out", "switched on"),
        ("", "without asking anything"),
    ],
)
def test_what_to_do_about_it(words: str, hint: str) -> None:
    assert hint in hint_for(words, SshAddress("board", "pi", 2222))


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert printable_line("bad\x1b[2J\x07\r\nworse\u202e") == "bad [2J   worse"
