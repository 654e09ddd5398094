"""Run a command without a network and with all files read-only: python -I -S confine.py COMMAND [ARGUMENT ...].

By namespaces of Linux (user, mount, network, IPC), which the kernel gives to any user where the system allows it. Ends
with 97 where it does not.
"""

from __future__ import annotations

import ctypes
import os
import sys

NOT_ALLOWED = 97
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x08000000, 0x10000000, 0x40000000
_PRIVATE_TREE = 0x4000 | 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38
_NOBODY = 65534


class _Attributes(ctypes.Structure):
    """What `mount_setattr` sets and clears."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user")]


def confine() -> None:
    """Give this process namespaces of its own, with nothing to write to and nobody to talk to.

    Raises:
        OSError: the system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _check(libc.unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK | _NEW_IPC))
    _write("/proc/self/setgroups", "deny")
    # Root becomes nobody, so that the command has no privileges in the namespaces either: it could undo all this.
    _write("/proc/self/uid_map", f"{user or _NOBODY} {user} 1")
    _write("/proc/self/gid_map", f"{group or _NOBODY} {group} 1")
    _check(libc.mount(None, b"/", None, ctypes.c_ulong(_PRIVATE_TREE), None))
    attributes = _Attributes(set=_READ_ONLY)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _check(libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), size))
    _check(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _check(libc.prctl(_DIE_WITH_PARENT, 9, 0, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)


def main(argv: list[str]) -> int:
    """Become the command, confined."""
    try:
        confine()
    except (OSError, AttributeError) as error:
        print(f"not allowed here: {error}", file=sys.stderr)
        return NOT_ALLOWED
    return os.execv(argv[0], argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
