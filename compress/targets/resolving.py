"""Targets, wherever they are."""

from __future__ import annotations

from compress.profile.device import is_ssh
from compress.profile.schema import TargetSpec
from compress.targets import local
from compress.targets.local import ResolvedTarget
from compress.targets.ssh import target as ssh


def resolve(spec: TargetSpec) -> ResolvedTarget:
    """Find a target: on this machine, or by asking a device over ssh.

    Raises:
        TargetError: it is not there, or something that it needs is missing.
    """
    return ssh.resolve(spec) if is_ssh(spec.device) else local.resolve(spec)
