"""Selection of one of the four quantization specs by `bits` and `library`, and rejection of keys of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from compress.passes.contract import PassSpec
from compress.passes.quantize.bitsandbytes.spec import BitsandbytesSpec
from compress.passes.quantize.half.spec import HalfSpec
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.spec import QuantizeSpec
from compress.passes.quantize.weight_only.spec import WeightOnlySpec


@dataclass(frozen=True)
class QuantizationVariant:
    """A quantization variant: its spec, its name in messages, how a profile selects it, and hints for foreign keys."""

    spec: type[QuantizeSpec]
    label: str
    selector: str
    hints: Mapping[str, str]


_INT8_HINTS = {
    "method": "8-bit weights are rounded to nearest; `bias_correction`, `smooth` or `train` reduce the loss, and "
    "`scheme: weight_only` offers methods",
    "block_size": "8-bit weights have a scale per output (`per_channel`), and embedding tables have their own blocks; "
    "with `scheme: weight_only` all weights have blocks",
    "symmetric": "8-bit weights are always symmetric; `calibration.symmetric` is for activations, and `scheme: "
    "weight_only` has zero points",
}
_INT8_HINTS["activation_order"] = _INT8_HINTS["method"]
_WEIGHT_ONLY_HINTS = {
    "reduce_range": "products of 4-bit weights do not overflow; leave it out",
    "per_channel": "4-bit weights have a scale per block; `block_size` sets its size",
}


VARIANTS = (
    QuantizationVariant(WeightOnlySpec, "4 bits", "`bits: 4`", _WEIGHT_ONLY_HINTS),
    QuantizationVariant(Int8Spec, "8 bits", "`bits: 8`", _INT8_HINTS),
    QuantizationVariant(HalfSpec, "16 bits", "`bits: 16`", {}),
    QuantizationVariant(BitsandbytesSpec, "`library: bitsandbytes`", "`library: bitsandbytes`", {}),
)


def variant_name(body: Any) -> str | None:
    """Return the name of the spec that a body selects; None if there is no such variant."""
    if isinstance(body, QuantizeSpec):
        return type(body).__name__
    fields = body if isinstance(body, Mapping) else {}
    library, bits = fields.get("library", "onnxruntime"), fields.get("bits", 8)
    if library == "bitsandbytes":
        return BitsandbytesSpec.__name__
    if library == "onnxruntime" and fields.get("scheme") == "weight_only" and fields.get("bits") in (4, 8):
        return WeightOnlySpec.__name__
    for spec in (Int8Spec, WeightOnlySpec, HalfSpec):
        if library == "onnxruntime" and type(bits) is int and bits == spec.model_fields["bits"].default:
            return spec.__name__
    return None


def reject_foreign_keys(body: Any) -> Any:
    """Reject keys that only other variants have.

    Raises:
        ValueError: with the keys, the variants they belong to, and the selected one.
    """
    variant = next((one for one in VARIANTS if one.spec.__name__ == variant_name(body)), None)
    if variant is None or not isinstance(body, Mapping):
        return body
    keys_by_hint: dict[tuple[str, str], list[str]] = {}
    for key in body:
        owners = [one for one in VARIANTS if key in one.spec.model_fields]
        if owners and variant not in owners:
            owner_labels = "ONNX" if variant.selector.startswith("`library") else _join_labels(owners)
            instead = variant.hints.get(key, "")
            keys_by_hint.setdefault((owner_labels, instead), []).append(key)
    if keys_by_hint:
        raise ValueError(
            "; ".join(_key_message(keys, *about, variant) for about, keys in keys_by_hint.items())
        )
    return body


def _join_labels(products: list[QuantizationVariant]) -> str:
    """Join names for a message: `4 and 8 bits`, `16 bits and `library: bitsandbytes``."""
    bits = [one.label.removesuffix(" bits") for one in products if one.label.endswith(" bits")]
    rest = [one.label for one in products if not one.label.endswith(" bits")]
    return " and ".join([*([f"{' and '.join(bits)} bits"] if bits else []), *rest])


def _key_message(keys: list[str], owner_labels: str, hint: str, variant: QuantizationVariant) -> str:
    verb = "serves" if len(keys) == 1 else "serve"
    end = f": {hint}" if hint else f"; this is {variant.selector}"
    return f"{' and '.join(keys)} {verb} {owner_labels} only{end}"


QuantizeBody = Annotated[
    Annotated[Int8Spec, Tag("Int8Spec")]
    | Annotated[WeightOnlySpec, Tag("WeightOnlySpec")]
    | Annotated[HalfSpec, Tag("HalfSpec")]
    | Annotated[BitsandbytesSpec, Tag("BitsandbytesSpec")],
    Discriminator(
        variant_name,
        custom_error_type="quantize_product",
        custom_error_message="`bits` must be 4, 8 or 16, and `library` onnxruntime or bitsandbytes",
    ),
    BeforeValidator(reject_foreign_keys),
    Field(description=QuantizeSpec.__doc__),
]


def parse_leniently(body: Mapping[str, Any]) -> PassSpec:
    """Make an unvalidated spec of an invalid body, with `bits` and `train`, which determine its place in the order."""
    spec = next((one.spec for one in VARIANTS if one.spec.__name__ == variant_name(body)), Int8Spec)
    return spec.model_construct(**{key: body[key] for key in ("bits", "train") if key in body})
