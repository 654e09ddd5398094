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
class Product:
    """A quantization variant: its spec, its name in messages, how a profile selects it, and hints for foreign keys."""

    spec: type[QuantizeSpec]
    serves: str
    asked: str
    instead: Mapping[str, str]


_INT8_INSTEAD = {
    "method": "8-bit weights are rounded to nearest; `bias_correction`, `smooth` or `train` reduce the loss, and "
    "`scheme: weight_only` offers methods",
    "block_size": "8-bit weights have a scale per output (`per_channel`), and embedding tables have their own blocks; "
    "with `scheme: weight_only` all weights have blocks",
    "symmetric": "8-bit weights are always symmetric; `calibration.symmetric` is for activations, and `scheme: "
    "weight_only` has zero points",
}
_INT8_INSTEAD["activation_order"] = _INT8_INSTEAD["method"]
_WEIGHT_ONLY_INSTEAD = {
    "reduce_range": "products of 4-bit weights do not overflow; leave it out",
    "per_channel": "4-bit weights have a scale per block; `block_size` sets its size",
}


PRODUCTS = (
    Product(WeightOnlySpec, "4 bits", "`bits: 4`", _WEIGHT_ONLY_INSTEAD),
    Product(Int8Spec, "8 bits", "`bits: 8`", _INT8_INSTEAD),
    Product(HalfSpec, "16 bits", "`bits: 16`", {}),
    Product(BitsandbytesSpec, "`library: bitsandbytes`", "`library: bitsandbytes`", {}),
)


def product_of(body: Any) -> str | None:
    """Return the name of the spec that a body selects; None if there is no such variant."""
    if isinstance(body, QuantizeSpec):
        return type(body).__name__
    asked = body if isinstance(body, Mapping) else {}
    library, bits = asked.get("library", "onnxruntime"), asked.get("bits", 8)
    if library == "bitsandbytes":
        return BitsandbytesSpec.__name__
    if library == "onnxruntime" and asked.get("scheme") == "weight_only" and asked.get("bits") in (4, 8):
        return WeightOnlySpec.__name__
    for spec in (Int8Spec, WeightOnlySpec, HalfSpec):
        if library == "onnxruntime" and type(bits) is int and bits == spec.model_fields["bits"].default:
            return spec.__name__
    return None


def reject_foreign_keys(given: Any) -> Any:
    """Reject keys that only other variants have.

    Raises:
        ValueError: with the keys, the variants they belong to, and the selected one.
    """
    this = next((one for one in PRODUCTS if one.spec.__name__ == product_of(given)), None)
    if this is None or not isinstance(given, Mapping):
        return given
    told: dict[tuple[str, str], list[str]] = {}
    for key in given:
        others = [one for one in PRODUCTS if key in one.spec.model_fields]
        if others and this not in others:
            serves = "ONNX" if this.asked.startswith("`library") else _together(others)
            instead = this.instead.get(key, "")
            told.setdefault((serves, instead), []).append(key)
    if told:
        raise ValueError("; ".join(_sentence(keys, *about, this) for about, keys in told.items()))
    return given


def _together(products: list[Product]) -> str:
    """Join names for a message: `4 and 8 bits`, `16 bits and `library: bitsandbytes``."""
    bits = [one.serves.removesuffix(" bits") for one in products if one.serves.endswith(" bits")]
    rest = [one.serves for one in products if not one.serves.endswith(" bits")]
    return " and ".join([*([f"{' and '.join(bits)} bits"] if bits else []), *rest])


def _sentence(keys: list[str], serves: str, instead: str, this: Product) -> str:
    verb = "serves" if len(keys) == 1 else "serve"
    end = f": {instead}" if instead else f"; this is {this.asked}"
    return f"{' and '.join(keys)} {verb} {serves} only{end}"


QuantizeBody = Annotated[
    Annotated[Int8Spec, Tag("Int8Spec")]
    | Annotated[WeightOnlySpec, Tag("WeightOnlySpec")]
    | Annotated[HalfSpec, Tag("HalfSpec")]
    | Annotated[BitsandbytesSpec, Tag("BitsandbytesSpec")],
    Discriminator(
        product_of,
        custom_error_type="quantize_product",
        custom_error_message="`bits` must be 4, 8 or 16, and `library` onnxruntime or bitsandbytes",
    ),
    BeforeValidator(reject_foreign_keys),
    Field(description=QuantizeSpec.__doc__),
]


def roughly(body: Mapping[str, Any]) -> PassSpec:
    """Make an unvalidated spec of an invalid body, with `bits` and `train`, which determine its place in the order."""
    spec = next((one.spec for one in PRODUCTS if one.spec.__name__ == product_of(body)), Int8Spec)
    return spec.model_construct(**{key: body[key] for key in ("bits", "train") if key in body})
