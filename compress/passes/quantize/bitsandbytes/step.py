"""Quantize the linear layers to 4 or 8 bits with bitsandbytes; only torch can run the result."""

from __future__ import annotations

from compress.core.artifacts import (
    MODEL_CONFIG,
    MODULE,
    POOLING,
    STRUCTURE,
    TORCH_WEIGHTS,
    copy_interface,
)
from compress.core.disk.files import copy_file
from compress.core.errors import ModelError
from compress.core.forms import NumberFormat
from compress.models.io.checkpoints import bare_model, load_model
from compress.models.io.low_bit import LowBit, linear_layers, pack_layers, write_low_bit
from compress.models.io.weights import read_weights, write_weights
from compress.passes.patterns import matching_names
from compress.passes.quantize.bitsandbytes.spec import BitsandbytesSpec
from compress.passes.quantize.size_check import check_smaller
from compress.step import StepContext, StepResult

_DESCRIPTION_FILES = (MODEL_CONFIG, STRUCTURE, POOLING, MODULE)


def run(ctx: StepContext) -> StepResult:
    """Pack the weights of the linear layers; embeddings, norms and convolutions stay unchanged.

    Raises:
        ModelError: a pattern in `exclude` matches no layer, or the model is an ensemble average.
        PassError: the file did not shrink.
    """
    spec, source = ctx.spec_as(BitsandbytesSpec), ctx.inputs["model"]
    model = bare_model(load_model(source.path, allow_code=ctx.allow_code))
    if model is None:
        raise ModelError(
            "bitsandbytes packs one file of weights, but an ensemble of several models has one for each",
            where="quantize.library",
            hint="Leave `library` out, or distil with `keep: last` or `keep: best`.",
        )
    weights = read_weights(source.path)
    layers = linear_layers(model, weights)
    low_bit = LowBit(spec.stored_as, spec.double_quantization, tuple(_included_layers(layers, spec.exclude)))
    write_weights(pack_layers(weights, low_bit), ctx.out / TORCH_WEIGHTS)
    write_low_bit(low_bit, ctx.out)
    for name in _DESCRIPTION_FILES:
        if (source.path / name).is_file():
            copy_file(source.path / name, ctx.out / name)
    copy_interface(source.path, ctx.out)
    before, after = ((folder / TORCH_WEIGHTS).stat().st_size for folder in (source.path, ctx.out))
    sizes = check_smaller(
        before,
        after,
        "packed",
        "The linear layers of this model are too few or too small to be worth packing.",
    )
    facts = {
        **source.facts,
        "bits": spec.bits,
        "scheme": f"bitsandbytes {low_bit.numbers}",
        "packed_layers": len(low_bit.layers),
        "float_layers": len(layers) - len(low_bit.layers),
        **sizes,
    }
    return StepResult(source.form.with_fields(numbers=NumberFormat.BITSANDBYTES), facts)


def _included_layers(layers: list[str], exclude: tuple[str, ...]) -> list[str]:
    """Return the layers that no `exclude` pattern matches.

    Raises:
        ModelError: a pattern matches no layer, or no layer is left.
    """
    excluded = matching_names(layers, exclude, what="linear layer", where="quantize.exclude")
    kept = [name for name in layers if name not in excluded]
    if not kept:
        raise ModelError(
            "no linear layer is left to pack", where="quantize.exclude" if exclude else "quantize"
        )
    return kept
