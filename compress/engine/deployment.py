"""What a profile leaves to the processor is decided by the processors that will run the model."""

from __future__ import annotations

from collections.abc import Sequence

from compress.profile.device import is_ssh
from compress.profile.pass_entries import PASS_ENTRIES
from compress.profile.schema import Profile
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import survey


def decided(profile: Profile, targets: Sequence[ResolvedTarget]) -> Profile:
    """The profile with what its passes leave to the processor decided, where a target is a device.

    Where all targets are this machine it stays open, for the steps look at the same processor.

    Args:
        targets: all of the profile's.
    """
    if all(target.device is None for target in targets):
        return profile
    processors = [(target.description["cpu"]["flags"], target.description["arch"]) for target in targets]
    specs = [spec.decided_for(processors) for spec in profile.specs]
    return profile.model_copy(update={"passes": tuple(map(PASS_ENTRIES.entry, specs))})


def decided_where_known(profile: Profile) -> Profile:
    """The same without a run: devices are asked only if something is left to them, and it stays `auto` where one cannot
    be reached."""
    if not any(is_ssh(target.device) for target in profile.targets) or not any(
        spec.asks_processors for spec in profile.specs
    ):
        return profile
    found = [one.found for one in survey(profile.targets)]
    known = [one for one in found if one is not None]
    return decided(profile, known) if len(known) == len(found) else profile
