"""The command line of the system's ssh client, and what its last words mean."""

from __future__ import annotations

import shlex

from compress.profile.device import SshAddress

CONNECT_SECONDS = 20
ALIVE_SECONDS = 15
"""The client asks the device so often whether it is still there."""
ALIVE_COUNT = 3
"""It gives up after so many questions without an answer."""

OPTIONS = {
    # An unknown or changed host key ends the connection, whatever the user's config says.
    "StrictHostKeyChecking": "yes",
    # Nothing waits for a password or a yes.
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": str(ALIVE_SECONDS),
    "ServerAliveCountMax": str(ALIVE_COUNT),
    # A connection of its own, whose host key was checked as above, and which carries nothing else.
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "INFO",
}

# Runs what comes in on the standard input, so many bytes of it.
_BOOTSTRAP = (
    'import sys; sys.version_info >= (3, 9) or sys.exit("Python 3.9 or newer is needed, and this is " '
    '+ sys.version.split()[0]); exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "agent.py", "exec"))'
)


def ssh_command(client: str, address: SshAddress, python: str, source_bytes: int) -> list[str]:
    """What connects to a device and runs there the Python source of so many bytes that is then written to it.

    Args:
        client: the ssh program.
        address: of the device; what it leaves open is the client's config to say.
        python: the device's Python; a leading `~/` is its home folder, where the command starts.
        source_bytes: length of the source.
    """
    options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
    whose = [*_user(address), *_port(address)]
    return [client, *options, *whose, "--", address.host, remote_command(python, source_bytes)]


def remote_command(python: str, source_bytes: int) -> str:
    """The line that the device's shell is given, every word of it quoted."""
    program = f"./{python[2:]}" if python.startswith("~/") else python
    return "exec " + shlex.join([program, "-c", _BOOTSTRAP, str(source_bytes)])


HINTS = (
    (
        "host key verification failed",
        "Its host key is unknown here, or has changed. Connect once by hand (`{by_hand}`), compare "
        "the key's fingerprint with the device's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there), and "
        "accept it.",
    ),
    (
        # The client lists the ways that were tried; a shell that may not run a program does not.
        "permission denied (",
        "Passwords are not supported. Copy your key to the device once: `{copy_key}`; a key with a passphrase has to "
        "be in the ssh agent.",
    ),
    ("not found", "Set the target's `python` to a Python of the device."),
    ("no such file", "Set the target's `python` to a Python of the device."),
    ("permission denied", "Set the target's `python` to a Python of the device that you may run there."),
    ("exec format error", "Set the target's `python` to a Python that was built for the device's processor."),
    ("python 3.9 or newer", "Set the target's `python` to a newer Python of the device."),
    ("could not resolve", "The name is not in DNS, nor in the hosts file or ssh config of this machine."),
    ("connection refused", "No ssh server answers there: is it running, and is the port right?"),
    ("timed out", "Is the device switched on, and does `{by_hand}` reach it?"),
)


def hint_for(words: str, address: SshAddress) -> str:
    """What to do about what the client or the device's shell said."""
    by_hand = shlex.join(["ssh", *_port(address), *_user(address), address.host])
    login = address.host if address.user is None else f"{address.user}@{address.host}"
    copy_key = shlex.join(["ssh-copy-id", *_port(address), login])
    for sign, hint in HINTS:
        if sign in words.lower():
            return hint.format(by_hand=by_hand, copy_key=copy_key)
    return f"Check that `{by_hand}` connects without asking anything."


def _user(address: SshAddress) -> list[str]:
    return [] if address.user is None else ["-l", address.user]


def _port(address: SshAddress) -> list[str]:
    return [] if address.port is None else ["-p", str(address.port)]
