"""Keys of `quantize` that nothing would read: each is refused, with the key that does what was meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Idle:
    """Keys that are idle for one reason, what they serve, and the values that ask for what is done anyway."""

    keys: tuple[str, ...]
    why: str
    harmless: Collection[Any] = (None,)


_EIGHT = (
    _Idle(
        ("method", "activation_order"),
        "`bits: 4` only; weights of 8 bits are rounded to the nearest; `bias_correction`, `smooth` or `train` "
        "make that cost less",
    ),
    _Idle(
        ("block_size",),
        "`bits: 4` only; weights of 8 bits have a scale for each output (`per_channel`), and tables blocks of "
        "their own",
    ),
    _Idle(
        ("symmetric",),
        "`bits: 4` only: weights of 8 bits are always around zero; `calibration.symmetric` is of activations",
        (None, True),
    ),
)
_FOUR = (
    _Idle(
        ("scheme",),
        "8 bits only: inputs of 4-bit weights stay in floating point and have no ranges; leave it out, or use "
        "`bits: 8`",
        (None, "auto"),
    ),
    _Idle(
        ("reduce_range",),
        "8 bits only: products of 4-bit weights do not overflow; leave it out",
        (None, "auto", False),
    ),
    _Idle(
        ("per_channel",),
        "8 bits only: 4-bit weights have a scale for each block; `block_size` says how large that is",
        (None, True),
    ),
    _Idle(
        ("calibration.method", "calibration.percentile", "calibration.symmetric"),
        "8 bits only: 4-bit weights have no ranges of activations; `method` and `symmetric` say how they "
        "are made",
    ),
)
_NOT_GPTQ = _Idle(("activation_order",), "`method: gptq` only")
_UNREAD = _Idle(("calibration.examples",), "`method: gptq` and `awq`: the others look at the weights alone")
_DYNAMIC = (
    _Idle(
        ("calibration.method", "calibration.percentile", "calibration.symmetric"),
        "`scheme: static` or `auto`: with `scheme: dynamic` ranges are found at run time",
    ),
)
_UNREAD_BY_DYNAMIC = _Idle(
    ("calibration.examples",),
    "`scheme: static` or `auto`, `smooth` and `bias_correction`: with `scheme: dynamic` ranges are found at run "
    "time",
)


def idle_in_four_bits(given: Mapping[str, Any], method: str) -> str | None:
    """What is idle in ONNX weights of 4 bits, as a fault; None: nothing.

    Args:
        given: the keys that the profile names, those of a section as `section.key`, with their values.
        method: the resolved one.
    """
    rules = [*_FOUR]
    if method != "gptq":
        rules.append(_NOT_GPTQ)
    if method not in ("gptq", "awq"):
        rules.append(_UNREAD)
    return _told(given, rules)


def idle_in_eight_bits(given: Mapping[str, Any], *, dynamic: bool, reads_examples: bool) -> str | None:
    """What is idle in ONNX weights of 8 bits, as a fault; None: nothing.

    Args:
        given: as of `idle_in_four_bits`.
        dynamic: whether ranges are found at run time, whatever is measured.
        reads_examples: whether something besides ranges reads the calibration examples.
    """
    rules = [*_EIGHT]
    if dynamic:
        rules += _DYNAMIC
        if not reads_examples:
            rules.append(_UNREAD_BY_DYNAMIC)
    return _told(given, rules)


def _told(given: Mapping[str, Any], rules: Collection[_Idle]) -> str | None:
    told = []
    for rule in rules:
        named = [key for key in rule.keys if key in given and given[key] not in rule.harmless]
        if named:
            told.append(f"{' and '.join(named)} {'serves' if len(named) == 1 else 'serve'} {rule.why}")
    return "; ".join(told) or None
