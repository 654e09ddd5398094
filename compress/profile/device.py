"""Device of a target: a processor of this machine, or another machine over ssh."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from compress.core.spelling import nearest

SSH = "ssh://"
LOCAL_DEVICES = ("cpu", "cuda")

# ssh would read a name that begins with a hyphen as an option.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_ADDRESS = re.compile(
    r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:/@\[\]]*)(?::(?P<port>[^/]*))?(?P<path>/.*)?"
)


@dataclass(frozen=True)
class SshAddress:
    """Address of a machine for the ssh client; it chooses `user` and `port` itself where they are None."""

    host: str
    user: str | None = None
    port: int | None = None


def is_ssh(device: str) -> bool:
    """Whether a device is another machine, reached over ssh."""
    return device.startswith(SSH)


def parse_ssh(device: str) -> SshAddress:
    """Parse `ssh://user@host:port`; user and port are optional, and an IPv6 address is written in brackets.

    Raises:
        ValueError: it is not such an address; the message says why.
    """
    match = _ADDRESS.fullmatch(device.removeprefix(SSH))
    if match is None or not is_ssh(device):
        raise ValueError(f"{device!r} is not of the form ssh://user@host[:port]")
    user, host, port, path = match["user"], match["host"], match["port"], match["path"]
    if path not in (None, "/"):
        raise ValueError(f"{device!r} contains a path: give the work folder on the device as `folder`")
    if user is not None and ":" in user:
        raise ValueError("a profile cannot contain a password: ssh uses a key of its agent or config")
    if user is not None and not _USER.fullmatch(user):
        raise ValueError(f"{user!r} is not a user name")
    if host.startswith("["):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise ValueError(f"{host!r} is not an IPv6 address")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name" if host else f"{device!r} has no host")
    if port is not None and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"{port!r} is not a port: expected 1 to 65535")
    return SshAddress(host, user, None if port is None else int(port))


def checked_device(device: str) -> str:
    """Return `device` if a profile may name it.

    Raises:
        ValueError: the device is unknown; the message lists the known ones.
    """
    if is_ssh(device):
        parse_ssh(device)
    elif device not in LOCAL_DEVICES:
        raise ValueError(
            f"{device!r} is not one of {', '.join(LOCAL_DEVICES)}, "
            f"ssh://user@host[:port]{nearest(device, LOCAL_DEVICES)}"
        )
    return device


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
