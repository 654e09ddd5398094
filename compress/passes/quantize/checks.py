"""What of a profile quantizing cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from compress.models.anatomy.table.families import CONVOLUTIONAL
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.spec import OnnxSpec
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.combination_checks import Found, takes
from compress.profile.pass_checks import PassCheck
from compress.tasks.table import task_kind


def faults(check: PassCheck) -> Iterator[Found]:
    """What the task or the model has not, below the pass."""
    spec, family = check.spec, check.family
    if isinstance(spec, Int8Spec) and spec.equalize and takes(check.profile) == "texts":
        yield (
            ("equalize",),
            "only convolutions are equalised, and models of texts have none; `smooth` is for their outliers",
        )
    if isinstance(spec, Int8Spec) and spec.train is not None and task_kind(check.profile.task).writes:
        yield (
            ("train",),
            "the rounding of what a decoder's layers read cannot be simulated; with `scheme: weight_only` or `bits: 4` "
            "the scales of the weights are trained",
        )
    if isinstance(spec, Int8Spec) and spec.mixed is not None and task_kind(check.profile.task).writes:
        yield (
            ("mixed",),
            "a language model's outputs are too large to be kept and compared for each layer; `bits: 4` with `mixed: "
            "{size_mb: ...}` gives 8 bits to the weights that lose most, `scheme: weight_only` to all",
        )
    if isinstance(spec, WeightOnlySpec) and not task_kind(check.profile.task).writes:
        if spec.cache is not None:
            yield ("cache",), "only language models keep keys and values; leave it out"
        if spec.rotate:
            yield ("rotate",), "only language models are rotated; leave it out"
    # Of other families nothing is said: some have convolutions beside their attention.
    if isinstance(spec, OnnxSpec) and family in CONVOLUTIONAL:
        yield from _of_convolutions(spec, family)


def _of_convolutions(spec: OnnxSpec, family: str | None) -> Iterator[Found]:
    if spec.exclude or "convolution" in spec.exclude_kinds:
        return
    without = "`exclude_kinds: [convolution]` leaves them floating"
    if not isinstance(spec, Int8Spec):
        yield (
            ("bits",),
            f"the model is a {family}, and convolutions have no 4-bit blocks; use 8, or {without}",
        )
        return
    if spec.scheme == "dynamic":
        yield (
            ("scheme",),
            f"the model is a {family}, whose convolutions are slower with ranges found at run time than in floating "
            f"point; use `static` or `auto`, or {without}",
        )
    if spec.mixed is not None and spec.mixed.latency_ms is not None:
        yield (
            ("mixed", "latency_ms"),
            f"the model is a {family}, and latencies of convolutions in integers cannot be predicted; name `max_drop` "
            "or `size_mb`",
        )
