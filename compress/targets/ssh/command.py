"""Command line of the system's ssh client, and hints for its error messages."""

from __future__ import annotations

import shlex

from compress.profile.device import SshAddress

CONNECT_SECONDS = 20
KEEPALIVE_SECONDS = 15
"""Interval of the client's keep-alive messages."""
MAX_MISSED_KEEPALIVES = 3
"""Number of unanswered keep-alive messages after which the client gives up."""

OPTIONS = {
    # Reject unknown or changed host keys, whatever the user's config says.
    "StrictHostKeyChecking": "yes",
    # Never prompt for a password or a confirmation.
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_SECONDS),
    "ServerAliveInterval": str(KEEPALIVE_SECONDS),
    "ServerAliveCountMax": str(MAX_MISSED_KEEPALIVES),
    # A separate connection, whose host key was checked as above, without forwarding.
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "INFO",
}

# Executes the given number of bytes read from standard input.
_BOOTSTRAP = (
    'import sys; sys.version_info >= (3, 9) or sys.exit("Python 3.9 or newer is needed, and this is " '
    '+ sys.version.split()[0]); exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "agent.py", "exec"))'
)


def ssh_command(client: str, address: SshAddress, python: str, source_bytes: int) -> list[str]:
    """Return the command that connects to a device and executes the Python source that is then written to its stdin.

    Args:
        client: the ssh program.
        address: address of the device; what it leaves open comes from the client's config.
        python: the device's Python; a leading `~/` is its home folder, where the command starts.
        source_bytes: length of the source in bytes.
    """
    options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
    login_options = [*_user_options(address), *_port_options(address)]
    return [client, *options, *login_options, "--", address.host, remote_command(python, source_bytes)]


def remote_command(python: str, source_bytes: int) -> str:
    """Return the command line for the device's shell, fully quoted."""
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
        # The client lists the attempted methods in parentheses; a shell that may not run a program does not.
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


def hint_for(message: str, address: SshAddress) -> str:
    """Return a hint for an error message of the client or of the device's shell."""
    by_hand = shlex.join(["ssh", *_port_options(address), *_user_options(address), address.host])
    login = address.host if address.user is None else f"{address.user}@{address.host}"
    copy_key = shlex.join(["ssh-copy-id", *_port_options(address), login])
    for pattern, hint in HINTS:
        if pattern in message.lower():
            return hint.format(by_hand=by_hand, copy_key=copy_key)
    return f"Check that `{by_hand}` connects without asking anything."


def _user_options(address: SshAddress) -> list[str]:
    return [] if address.user is None else ["-l", address.user]


def _port_options(address: SshAddress) -> list[str]:
    return [] if address.port is None else ["-p", str(address.port)]
