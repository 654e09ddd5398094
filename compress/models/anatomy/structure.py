"""Structures that a config cannot describe: layers whose shapes differ after pruning, and factored layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compress.core.errors import ModelError
from compress.models.anatomy.factors import apply_factors, describe_factors

SIZE_ATTRIBUTES = (
    "num_attention_heads",
    "num_heads",
    "n_heads",
    "attention_head_size",
    "all_head_size",
    "dim",
    "in_channels",
    "out_channels",
    "groups",
    "num_features",
    "num_channels",
)
"""Integer sizes that attention modules, convolutions and norms store beside their weights."""

_MAX_ELEMENTS = 2**32
"""Elements of one tensor; larger shapes are refused before memory is allocated."""

Structure = dict[str, Any]


def describe_structure(model: nn.Module, regular: nn.Module) -> Structure | None:
    """Return how `model` differs from `regular`, the model built from its config alone; None if it does not.

    Args:
        regular: factored in place like `model`.

    Returns:
        `shapes`: parameter or buffer -> shape; `attributes`: module -> attribute of `SIZE_ATTRIBUTES` -> value; and
        `factors`
            as returned by `describe_factors` if any layer is factored.
    """
    factors = describe_factors(model)
    apply_factors(regular, factors, "structure")
    regular_shapes = {name: tuple(tensor.shape) for name, tensor in regular.state_dict().items()}
    shapes = {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name in regular_shapes and tuple(tensor.shape) != regular_shapes[name]
    }
    attributes = {}
    for name, module in regular.named_modules():
        actual, expected = _attributes(model.get_submodule(name)), _attributes(module)
        if actual != expected:
            attributes[name] = actual
    if not (shapes or attributes or factors):
        return None
    structure = {"shapes": shapes, "attributes": attributes}
    return {**structure, "factors": factors} if factors else structure


def apply_structure(model: nn.Module, structure: Structure, where: str) -> None:
    """Resize the layers of a regular model in place to a described structure; the resized weights are uninitialised.

    Raises:
        ModelError: the description does not fit the model.
    """
    if isinstance(structure, dict) and "factors" in structure:
        apply_factors(model, structure["factors"], where)
    # Under all their names: a factor that several layers share is described under each.
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name, shape in _mapping(structure, "shapes", where).items():
        if name not in tensors or not _is_shape(shape, tensors[name].dim()):
            raise ModelError(f"no parameter {name!r} that fits the shape {shape}", where=where)
        module_name, _, tensor_name = name.rpartition(".")
        _resize(model.get_submodule(module_name), tensor_name, tuple(shape))
    modules = dict(model.named_modules())
    for name, values in _mapping(structure, "attributes", where).items():
        attributes = _attributes(modules[name]) if name in modules else {}
        for attribute, value in values.items():
            if attribute not in attributes or not _is_shape([value], 1):
                raise ModelError(f"{name!r} has no {attribute!r} that fits the value {value!r}", where=where)
            setattr(modules[name], attribute, value)


def _attributes(module: nn.Module) -> dict[str, int]:
    values = {name: getattr(module, name, None) for name in SIZE_ATTRIBUTES}
    return {name: value for name, value in values.items() if isinstance(value, int)}


def _mapping(structure: Structure, key: str, where: str) -> Mapping[str, Any]:
    value = structure.get(key) if isinstance(structure, dict) else None
    if not isinstance(value, dict):
        raise ModelError(f"expected a mapping {key!r}", where=where)
    return value


def _is_shape(value: object, dims: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == dims
        and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value)
        and math.prod(value) <= _MAX_ELEMENTS
    )


def _resize(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Resize a parameter or buffer; sizes that convolutions and norms store are set by `attributes`."""
    old = getattr(module, name)
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, name, new)
    if isinstance(module, nn.Linear):
        module.out_features = shape[0]
        if name == "weight":
            module.in_features = shape[1]
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = shape
