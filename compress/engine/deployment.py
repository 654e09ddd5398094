"""What a profile leaves to the processor is decided by the processors that will run the model."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.numerics import bytes_overflow
from compress.profile.device import is_ssh
from compress.profile.pass_specs import PASSES, PassEntry, QuantizeSpec
from compress.profile.schema import Profile
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import survey


def decided(profile: Profile, targets: Sequence[ResolvedTarget]) -> Profile:
    """The profile with `reduce_range: auto` decided, where a target is a device: one that needs it is enough.

    Where all targets are this machine it stays `auto`, for the step that quantizes looks at the same processor.

    Args:
        targets: all of the profile's.
    """
    if all(target.device is None for target in targets):
        return profile
    processors = [(target.description["cpu"]["flags"], target.description["arch"]) for target in targets]
    needed = any(bytes_overflow(*processor) for processor in processors)
    return profile.model_copy(update={"passes": tuple(_decided(entry, needed) for entry in profile.passes)})


def decided_where_known(profile: Profile) -> Profile:
    """The same without a run: devices are asked only if something is left to them, and it stays `auto` where one cannot
    be reached."""
    if not any(is_ssh(target.device) for target in profile.targets) or not any(map(_is_open, profile.passes)):
        return profile
    found = [one.found for one in survey(profile.targets)]
    known = [one for one in found if one is not None]
    return decided(profile, known) if len(known) == len(found) else profile


def _is_open(entry: PassEntry) -> bool:
    spec = entry.body
    return (
        isinstance(spec, QuantizeSpec)
        and spec.library == "onnxruntime"
        and spec.bits == 8
        and spec.reduce_range == "auto"
    )


def _decided(entry: PassEntry, needed: bool) -> PassEntry:
    if not _is_open(entry):
        return entry
    return PASSES.entry(entry.body.model_copy(update={"reduce_range": needed}))
