"""What a pass times on the machine that runs `compress`, where the model will run on another processor."""

from __future__ import annotations

from collections.abc import Iterator

from compress.profile.pass_specs import PassSpec, QuantizeSpec
from compress.profile.prune_spec import PruneSpec
from compress.profile.schema import Profile


def host_time_warnings(profile: Profile) -> list[str]:
    """One sentence for each key whose number or choice is not the first target's, but this machine's CPU's."""
    target = profile.targets[0]
    if target.device == "cpu":
        return []
    other = f"this machine's CPU, not on {target.label} ({target.device})"
    images = profile.task == "image-classification"
    return [
        f"passes.{place}.{spec.kind}.{key}: {what} {other}; {instead}"
        for place, spec in enumerate(profile.specs)
        for key, what, instead in _timed(spec, images=images)
    ]


def _timed(spec: PassSpec, *, images: bool) -> Iterator[tuple[str, str, str]]:
    """Keys of a pass that depend on measured times: the key, what is done there, and what to do about it."""
    if isinstance(spec, PruneSpec) and spec.target is not None:
        for key in ("latency_ms", "speedup"):
            if getattr(spec.target, key) is not None:
                yield (
                    f"target.{key}",
                    "this is reached on",
                    "`size_mb` and `ratio` are the same everywhere, and the report measures the target",
                )
    if isinstance(spec, QuantizeSpec):
        # Calibrated ranges are the only ones of `qdq`, and 4 and 16 bits have no scheme: there nothing is timed.
        if (spec.scheme, spec.bits, spec.format, spec.library) == ("auto", 8, "operator", "onnxruntime"):
            convolutions = " (of a model without convolutions)" if images else ""
            yield (
                "scheme",
                f"`auto`{convolutions} takes what is faster on",
                "name the scheme, `dynamic` or `static`, where the two differ",
            )
        if spec.mixed is not None and spec.mixed.latency_ms is not None:
            yield (
                "mixed.latency_ms",
                "this is reached on",
                "`max_drop` and `size_mb` are the same everywhere, and the report measures the target",
            )
