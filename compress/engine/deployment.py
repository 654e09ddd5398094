"""Resolution of processor-dependent settings by the processors that will run the model."""

from __future__ import annotations

from collections.abc import Sequence

from compress.profile.device import is_ssh
from compress.profile.pass_entries import PASS_ENTRIES
from compress.profile.schema import Profile
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import survey


def resolve_for_processors(profile: Profile, targets: Sequence[ResolvedTarget]) -> Profile:
    """Resolve the processor-dependent settings of a profile's passes, if a target is a remote device.

    If all targets are this machine, the settings stay `auto`, since the steps run on the same processor.

    Args:
        profile: the profile.
        targets: all targets of the profile.
    """
    if all(target.device is None for target in targets):
        return profile
    processors = [(target.description["cpu"]["flags"], target.description["arch"]) for target in targets]
    specs = [spec.resolved_for(processors) for spec in profile.specs]
    return profile.model_copy(update={"passes": tuple(map(PASS_ENTRIES.entry, specs))})


def resolve_if_reachable(profile: Profile) -> Profile:
    """Resolve as `resolve_for_processors`, before a run.

    Devices are probed only if a setting depends on them; settings stay `auto` if one cannot be reached.
    """
    if not any(is_ssh(target.device) for target in profile.targets) or not any(
        spec.depends_on_processors for spec in profile.specs
    ):
        return profile
    resolved = [one.resolved for one in survey(profile.targets)]
    reachable = [one for one in resolved if one is not None]
    return resolve_for_processors(profile, reachable) if len(reachable) == len(resolved) else profile
