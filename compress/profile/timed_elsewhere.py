"""What a pass times on another processor than that of the first target, which the budget is of."""

from __future__ import annotations

from compress.passes.prune.spec import PruneSpec
from compress.profile.schema import Profile
from compress.profile.timed_on import timed_on


def timed_elsewhere_warnings(profile: Profile) -> list[str]:
    """One sentence for each latency that is not reached on the first target.

    Only pruning comes to that: what is quantized with onnxruntime has no target that runs torch.
    """
    target, timed = profile.targets[0], timed_on(profile.targets)
    if target.device == timed.device:
        return []
    named = timed.label if timed in profile.targets else "this machine's CPU"
    return [
        f"passes.{place}.prune.target.{key}: this is reached on {named}, not on {target.label} ({target.device}), "
        "which does not run onnxruntime; `size_mb` and `ratio` are the same everywhere, and the report measures it"
        for place, spec in enumerate(profile.specs)
        if isinstance(spec, PruneSpec) and spec.target is not None
        for key in ("latency_ms", "speedup")
        if getattr(spec.target, key) is not None
    ]
