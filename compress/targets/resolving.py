"""Resolution of local and remote targets."""

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
    """Resolve a target on this machine or on a device over ssh.

    Raises:
        TargetError: it is not available, or one of its requirements is missing.
    """
    return ssh.resolve(spec) if is_ssh(spec.device) else local.resolve(spec)


def resolve_all(specs: Iterable[TargetSpec], patience_s: float) -> tuple[ResolvedTarget, ...]:
    """Resolve the targets of a run, which share the time that timings may wait for a quiet machine.

    Raises:
        TargetError: one is not available.
    """
    patience = Patience(patience_s)
    return tuple(replace(resolve(spec), patience=patience) for spec in specs)


def close_all(targets: Iterable[ResolvedTarget], progress: Progress) -> None:
    """Close the connections to devices, and report files that are kept on them on request."""
    for note in [target.close() for target in targets]:
        if note is not None:
            progress.say(note)


@dataclass(frozen=True)
class TargetSurvey:
    """A target of a profile, either resolved or with the error of resolving it."""

    spec: TargetSpec
    resolved: ResolvedTarget | None
    error: TargetError | None

    def as_dict(self) -> dict[str, object]:
        """Return the target as JSON values."""
        return {
            "target": self.spec.label,
            "device": self.spec.device,
            "runtime": self.spec.runtime,
            "found": None if self.resolved is None else self.resolved.description,
            "fingerprint": None if self.resolved is None else self.resolved.fingerprint,
            "fault": None if self.error is None else self.error.message,
            "hint": None if self.error is None else self.error.hint,
        }


def survey(specs: Iterable[TargetSpec]) -> list[TargetSurvey]:
    """Resolve every target, continuing after failures."""
    surveyed = []
    for spec in specs:
        try:
            surveyed.append(TargetSurvey(spec, resolve(spec), None))
        except TargetError as error:
            surveyed.append(TargetSurvey(spec, None, error))
    return surveyed
