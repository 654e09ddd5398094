"""Whether the passes follow one another: each must accept the form that the one before it leaves."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from compress.core.entries import single_key
from compress.core.errors import Fault
from compress.core.forms import TORCH_FLOAT, Framework, Numbers
from compress.passes.contract import PassSpec
from compress.passes.distill.spec import DistillSpec
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.quantize.spec import QuantizeSpec
from compress.profile.pass_entries import PASS_ENTRIES
from compress.profile.yaml_lines import ProfileSource


def chain_faults(source: ProfileSource) -> list[Fault]:
    """The faults in the order of the passes, also where the body of a pass is wrong itself."""
    passes = source.values.get("passes")
    if not isinstance(passes, list):
        return []
    faults: list[Fault] = []
    form, before, bits = TORCH_FLOAT, "the teacher", 0
    averaged: str | None = None
    for index, entry in enumerate(passes):
        kind = single_key(entry)
        if kind is None or kind not in PASS_ENTRIES.table:
            continue
        spec = _spec_or_defaults(kind, entry[kind])
        if not spec.fits(form):
            why = f"needs {_accepted(spec)}, but {before} leaves a model that is {form}"
            faults.append(source.fault(("passes", index, kind), why))
            continue
        if form.numbers is Numbers.BITSANDBYTES:
            why = f"{before} leaves a model that cannot become ONNX: {_in_onnx(bits)}"
            faults.append(source.fault(("passes", index, kind), why))
            continue
        if isinstance(spec, QuantizeSpec) and spec.library == "bitsandbytes":
            bits = spec.bits
            faults += _onnx_targets(source, index, bits)
            if averaged is not None:
                why = (
                    f"bitsandbytes packs one file of weights, and {averaged} leaves an average of several models; "
                    "leave `library` out, or distil with `keep: last` or `keep: best`"
                )
                faults.append(source.fault(("passes", index, kind, "library"), why))
        if isinstance(spec, DistillSpec):
            averaged = f"passes.{index}.{kind}" if spec.keep == "ensemble" else None
        form, before = spec.produces(form), f"passes.{index}.{kind}"
    if form.framework is Framework.ONNX:
        faults += _torch_targets(source)
    return faults


def _accepted(spec: PassSpec) -> str:
    """What a pass can start from, in words."""
    in_torch = isinstance(spec, QuantizeSpec) and spec.starts_in_torch
    return LowRankSpec.accepts if in_torch else spec.accepts


def _in_onnx(bits: int) -> str:
    """Why bitsandbytes stays in torch, and how to get the same bits without it."""
    operator = "MatMulNBits" if bits == 4 else "integer products"
    return (
        "ONNX has no operator for the weights of bitsandbytes, which only its own kernels read; "
        f"for {bits} bits in ONNX use `quantize: {{bits: {bits}}}` ({operator})"
    )


def _onnx_targets(source: ProfileSource, index: int, bits: int) -> list[Fault]:
    """The targets that cannot run a model of bitsandbytes; without any, the default one cannot."""
    targets = source.values.get("targets")
    if not isinstance(targets, list):
        why = f"needs a target with `runtime: torch`: {_in_onnx(bits)}"
        return [source.fault(("passes", index, "quantize", "library"), why)]
    return [
        source.fault(
            ("targets", place, "runtime"),
            f"onnxruntime cannot run what passes.{index}.quantize leaves: {_in_onnx(bits)}",
        )
        for place, target in enumerate(targets)
        if isinstance(target, dict) and target.get("runtime", "onnxruntime") == "onnxruntime"
    ]


def _spec_or_defaults(kind: str, body: Any) -> PassSpec:
    cls = PASS_ENTRIES.table[kind]
    try:
        return cls.model_validate(body)
    except ValidationError:
        # Its own faults are reported elsewhere; its place in the order depends on these keys alone.
        told = body if isinstance(body, dict) else {}
        return cls.model_construct(
            **{key: told[key] for key in ("library", "bits", "train", "keep") if key in told}
        )


def _torch_targets(source: ProfileSource) -> list[Fault]:
    targets = source.values.get("targets")
    if not isinstance(targets, list):
        return []
    return [
        source.fault(
            ("targets", index, "runtime"),
            "torch cannot run the ONNX files that the passes end with; use onnxruntime",
        )
        for index, target in enumerate(targets)
        if isinstance(target, dict) and target.get("runtime") == "torch"
    ]
