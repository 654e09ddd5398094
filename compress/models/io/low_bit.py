"""bitsandbytes linear layers: packed from a model's weights, and read back from a file.

LLM.int8() (Dettmers et al. 2022) stores a weight as 8-bit integers with one scale per output, and multiplies input
columns with large values in 16 bits. NF4 and FP4 (Dettmers et al., "QLoRA", 2023) store it as 4-bit codes with one
scale per 64 of them; with double quantization the scales are 8-bit codes themselves.

On a CPU with AVX512-BF16 the first forward pass of a 4-bit layer repacks its weight in place, and what is saved
after that can be wrong. So files are only written from weights that no forward pass has used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from compress.core.artifacts import BITSANDBYTES, TORCH_WEIGHTS
from compress.core.disk.files import write_json
from compress.core.errors import ModelError
from compress.models.io.offline import offline
from compress.models.io.weights import read_model_json

Tensors: TypeAlias = dict[str, torch.Tensor]

OUTLIER_THRESHOLD = 6.0
"""LLM.int8() multiplies input columns with a value above this in 16 bits."""
BLOCK_SIZE = 64
"""Weights per scale in 4-bit formats."""
_FAST_SHAPE = (32, 64)
"""The AVX512-BF16 kernel of 4-bit layers needs multiples of these output and input sizes."""


@dataclass(frozen=True)
class LowBit:
    """How the linear layers named in `layers` are stored."""

    numbers: Literal["int8", "nf4", "fp4"]
    double_quantization: bool
    layers: tuple[str, ...]


def linear_layers(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the linear layers whose weight is in the file; of tied weights only the first name is."""
    return [
        name
        for name, module in model.named_modules()
        # Subclasses may access their weight directly, which does not work with a packed one.
        if type(module) is nn.Linear and f"{name}.weight" in weights
    ]


def pack_layers(weights: Tensors, low_bit: LowBit) -> Tensors:
    """Replace the tensors of the named layers by those that bitsandbytes stores.

    Args:
        weights: float tensors by name; a layer's weight is (outputs, inputs).
    """
    packed = dict(weights)
    for name in low_bit.layers:
        weight = packed.pop(f"{name}.weight")
        layer = _empty_layer(weight.shape[1], weight.shape[0], low_bit, bias=False)
        layer.weight.data = weight.clone()
        packed.update({f"{name}.{key}": tensor for key, tensor in layer.to("cpu").state_dict().items()})
    return packed


def write_low_bit(low_bit: LowBit, out: Path) -> None:
    """Write `bitsandbytes.json`, from which `read_low_bit` rebuilds the layers."""
    settings = {"outlier_threshold": OUTLIER_THRESHOLD, "block_size": BLOCK_SIZE}
    write_json(out / BITSANDBYTES, {**asdict(low_bit), **settings})


def read_low_bit(path: Path) -> LowBit:
    """Read what `write_low_bit` wrote.

    Raises:
        ModelError: the file is damaged, or has settings that this version does not support.
    """
    values = read_model_json(path / BITSANDBYTES)
    try:
        found = LowBit(values["numbers"], bool(values["double_quantization"]), tuple(values["layers"]))
        settings = (values["outlier_threshold"], values["block_size"])
    except (TypeError, KeyError) as error:
        raise ModelError(f"this file is damaged: {error}", where=str(path / BITSANDBYTES)) from error
    if found.numbers not in ("int8", "nf4", "fp4") or settings != (OUTLIER_THRESHOLD, BLOCK_SIZE):
        raise ModelError(
            f"weights stored as {found.numbers} with {settings} are not supported",
            where=str(path / BITSANDBYTES),
        )
    return found


def unpack_layers(model: nn.Module, weights: Tensors, path: Path) -> dict[str, nn.Module]:
    """Remove the tensors of the packed layers from `weights` and return the layers built from them, by name.

    Raises:
        ModelError: a layer's tensors are missing or do not fit.
    """
    low_bit, layers = read_low_bit(path), {}
    for name in low_bit.layers:
        try:
            linear = model.get_submodule(name)
        except AttributeError as error:
            raise ModelError(f"the model has no layer {name!r}", where=str(path / BITSANDBYTES)) from error
        prefix = f"{name}."
        tensors = {key[len(prefix) :]: weights.pop(key) for key in list(weights) if key.startswith(prefix)}
        try:
            assert isinstance(linear, nn.Linear)
            layers[name] = _filled_layer(linear, tensors, low_bit)
        except (AssertionError, KeyError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"the layer {name!r} cannot be rebuilt: {error}", where=str(path / TORCH_WEIGHTS)
            ) from error
    return layers


def to_device(model: nn.Module, device: str) -> nn.Module:
    """Move the model to a device, in place.

    `Module.to` replaces the data of a parameter but not its other attributes, so the weights and scales that 8-bit
    layers multiply with are moved here.
    """
    model.to(device)
    for weight in model.parameters():
        scales = getattr(weight, "SCB", None)
        if scales is not None:
            eight_bit: Any = weight
            eight_bit.CB, eight_bit.SCB = weight.data, scales.to(device)
    return model


def replace_layers(model: nn.Module, layers: Mapping[str, nn.Module] | Sequence[str]) -> None:
    """Replace the layers of these names wherever the model uses them; given names only, remove their weights."""
    paths_by_module: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths_by_module.setdefault(module, []).append(path)
    old_layers = {name: model.get_submodule(name) for name in layers}
    for name, old in old_layers.items():
        new = layers[name] if isinstance(layers, Mapping) else nn.Identity()
        for module_path in paths_by_module[old]:
            model.set_submodule(module_path, new)


def _filled_layer(linear: nn.Linear, tensors: Tensors, low_bit: LowBit) -> nn.Module:
    layer: Any = _empty_layer(linear.in_features, linear.out_features, low_bit, bias=linear.bias is not None)
    import bitsandbytes as bnb

    result: nn.Module = layer
    weight = tensors.pop("weight")
    if linear.bias is not None:
        layer.bias.data.copy_(tensors.pop("bias"))
    if low_bit.numbers == "int8":
        if weight.shape != (linear.out_features, linear.in_features):
            raise ValueError(f"its weight has the shape {list(weight.shape)}")
        layer.weight = bnb.nn.Int8Params(
            weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=tensors["SCB"]
        )
        return result
    stats = {key.removeprefix("weight."): tensor for key, tensor in tensors.items()}
    layer.weight = bnb.nn.Params4bit.from_prequantized(weight, stats, device="cpu", module=layer)
    shape = tuple(layer.weight.quant_state.shape)
    if shape != (linear.out_features, linear.in_features):
        raise ValueError(f"its weight has the shape {list(shape)}")
    return result


def _empty_layer(inputs: int, outputs: int, low_bit: LowBit, bias: bool) -> Any:
    """Create a layer whose weight is not set yet."""
    # bitsandbytes looks for optional kernels, on the hub too, and logs those that are not installed, as well as
    # every cast to 16 bits.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with offline():
        import bitsandbytes as bnb

    if low_bit.numbers == "int8":
        return bnb.nn.Linear8bitLt(
            inputs, outputs, bias, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD
        ).eval()
    layer = bnb.nn.Linear4bit(
        inputs,
        outputs,
        bias,
        compress_statistics=low_bit.double_quantization,
        quant_type=low_bit.numbers,
    ).eval()
    if outputs % _FAST_SHAPE[0] or inputs % _FAST_SHAPE[1]:
        layer.support_avx512bf16_for_cpu = False
    return layer
