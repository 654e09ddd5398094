"""Targets, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from compress.core.errors import TargetError
from compress.core.terminal.progress import Progress
from compress.profile.device import is_ssh
from compress.profile.schema import TargetSpec
from compress.targets import local
from compress.targets.local import ResolvedTarget
from compress.targets.patience import Patience
from compress.targets.ssh import target as ssh


def resolve(spec: TargetSpec) -> ResolvedTarget:
    """Find a target: on this machine, or by asking a device over ssh.

    Raises:
        TargetError: it is not there, or something that it needs is missing.
    """
    return ssh.resolve(spec) if is_ssh(spec.device) else local.resolve(spec)


def resolve_all(specs: Iterable[TargetSpec], patience_s: float) -> tuple[ResolvedTarget, ...]:
    """The targets of a run, which share the time that its timings may wait for a quiet machine.

    Raises:
        TargetError: one is not there.
    """
    patience = Patience(patience_s)
    return tuple(replace(resolve(spec), patience=patience) for spec in specs)


def close_all(targets: Iterable[ResolvedTarget], progress: Progress) -> None:
    """End the connections to devices, and say what stays on them where that was asked for."""
    for note in [target.close() for target in targets]:
        if note is not None:
            progress.say(note)


@dataclass(frozen=True)
class Surveyed:
    """A target that a profile names: what it is, or what is wrong with it."""

    spec: TargetSpec
    found: ResolvedTarget | None
    fault: TargetError | None

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "target": self.spec.label,
            "device": self.spec.device,
            "runtime": self.spec.runtime,
            "found": None if self.found is None else self.found.description,
            "fingerprint": None if self.found is None else self.found.fingerprint,
            "fault": None if self.fault is None else self.fault.message,
            "hint": None if self.fault is None else self.fault.hint,
        }


def survey(specs: Iterable[TargetSpec]) -> list[Surveyed]:
    """Find every target, also where one of them fails."""
    surveyed = []
    for spec in specs:
        try:
            surveyed.append(Surveyed(spec, resolve(spec), None))
        except TargetError as error:
            surveyed.append(Surveyed(spec, None, error))
    return surveyed
