"""Profile checks: combinations that quantization does not support."""

from __future__ import annotations

from collections.abc import Iterator

from compress.models.anatomy.table.families import CONVOLUTIONAL
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.spec import OnnxSpec
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.combination_checks import KeyFault, input_kind
from compress.profile.pass_checks import PassCheck
from compress.tasks.table import task_kind


def faults(check: PassCheck) -> Iterator[KeyFault]:
    """Yield quantization options that the task or model does not support, as keys below the pass and messages."""
    spec, family = check.spec, check.family
    if isinstance(spec, Int8Spec) and spec.equalize and input_kind(check.profile) == "texts":
        yield (
            ("equalize",),
            "only convolutions can be equalised, and text models have none; use `smooth` for their outliers",
        )
    if isinstance(spec, Int8Spec) and spec.train is not None and task_kind(check.profile.task).generates:
        yield (
            ("train",),
            "activation rounding in a decoder cannot be simulated; with `scheme: weight_only` or `bits: 4` the scales "
            "of the weights are trained",
        )
    if isinstance(spec, Int8Spec) and spec.mixed is not None and task_kind(check.profile.task).generates:
        yield (
            ("mixed",),
            "a language model's outputs are too large to be stored and compared for each layer; `bits: 4` with `mixed: "
            "{size_mb: ...}` keeps the weights that lose most in 8 bits, `scheme: weight_only` keeps all",
        )
    if isinstance(spec, WeightOnlySpec) and not task_kind(check.profile.task).generates:
        if spec.cache is not None:
            yield ("cache",), "only language models have a key-value cache; leave it out"
        if spec.rotate:
            yield ("rotate",), "only language models can be rotated; leave it out"
    # Other families pass without a check: some have convolutions beside their attention.
    if isinstance(spec, OnnxSpec) and family in CONVOLUTIONAL:
        yield from _convolution_faults(spec, family)


def _convolution_faults(spec: OnnxSpec, family: str | None) -> Iterator[KeyFault]:
    if spec.exclude or "convolution" in spec.exclude_kinds:
        return
    alternative = "keep them in floating point with `exclude_kinds: [convolution]`"
    if not isinstance(spec, Int8Spec):
        yield (
            ("bits",),
            f"the model is a {family}, and 4-bit blocks are not supported for convolutions; use 8, or {alternative}",
        )
        return
    if spec.scheme == "dynamic":
        yield (
            ("scheme",),
            f"the model is a {family}, whose convolutions are slower with dynamic ranges than in floating point; use "
            f"`static` or `auto`, or {alternative}",
        )
    if spec.mixed is not None and spec.mixed.latency_ms is not None:
        yield (
            ("mixed", "latency_ms"),
            f"the model is a {family}, and latencies of integer convolutions cannot be predicted; use `max_drop` or "
            "`size_mb`",
        )
