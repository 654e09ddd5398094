"""What pruning and quantizing cannot do to the kind of model that they will get, as far as files tell it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compress.models.anatomy.table.families import CONVOLUTIONAL
from compress.passes.distill.spec import DistillSpec
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize.spec import QuantizeSpec
from compress.profile.combination_checks import Found
from compress.profile.model_checks.files import model_type
from compress.profile.schema import Profile

_OF_ENCODERS = ("heads", "feed_forward", "layers", "hidden")


def known_kind_faults(profile: Profile, base: Path) -> list[Found]:
    """The faults of each pass, by the type of the model that it gets; none where that is not known yet."""
    found: list[Found] = []
    kind = model_type(profile.teacher.model, base)
    for index, spec in enumerate(profile.specs):
        if isinstance(spec, DistillSpec):
            student = spec.student
            if student.architecture is not None:
                kind = student.architecture
            elif student.model is not None:
                kind = model_type(student.model, base)
        elif kind is not None:
            found += [(("passes", index, spec.kind, *keys), why) for keys, why in _faults(spec, kind)]
    return found


def _faults(spec: object, kind: str) -> Iterator[Found]:
    # Of other kinds nothing is said: some have convolutions beside their attention.
    if kind not in CONVOLUTIONAL:
        return
    if isinstance(spec, PruneSpec):
        yield from _of_pruning(spec, kind)
    elif isinstance(spec, QuantizeSpec) and spec.library == "onnxruntime":
        yield from _of_quantizing(spec, kind)


def _of_pruning(spec: PruneSpec, kind: str) -> Iterator[Found]:
    if spec.target is not None and spec.target.timed:
        key = "latency_ms" if spec.target.latency_ms is not None else "speedup"
        yield (
            ("target", key),
            f"latencies are foretold of layers with attention, and a {kind} has none; name `ratio` or `size_mb`",
        )
    for key in _OF_ENCODERS:
        if spec.remove is not None and getattr(spec.remove, key):
            yield ("remove", key), f"the model is a {kind}, whose convolutions lose `channels`"


def _of_quantizing(spec: QuantizeSpec, kind: str) -> Iterator[Found]:
    if spec.exclude or "convolution" in spec.exclude_kinds:
        return
    without = "`exclude_kinds: [convolution]` leaves them floating"
    if spec.bits == 4:
        yield ("bits",), f"the model is a {kind}, and convolutions have no 4-bit blocks; use 8, or {without}"
    elif spec.bits == 8 and spec.scheme == "dynamic":
        yield (
            ("scheme",),
            f"the model is a {kind}, whose convolutions are slower with ranges found at run time than in floating "
            f"point; use `static` or `auto`, or {without}",
        )
    if spec.mixed is not None and spec.mixed.latency_ms is not None:
        yield (
            ("mixed", "latency_ms"),
            f"the model is a {kind}, and latencies of convolutions in integers cannot be foretold; name `max_drop` or "
            "`size_mb`",
        )
