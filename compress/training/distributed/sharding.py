"""Weights, gradients and optimizer states sharded over processes by torch's fully sharded data parallelism.

Rajbhandari et al.: ZeRO, 2020 (arXiv:1910.02054); Zhao et al.: PyTorch FSDP, 2023 (arXiv:2304.11277). Between
steps a process holds its shard of every weight; a layer is gathered while it runs and freed afterwards, and the
weights outside the layers are freed after the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, device: str) -> None:
    """Shard the weights of a module over the processes, in place; afterwards only its own forward may be called.

    Layers are gathered one by one: the modules that the model lists in `_no_split_modules`.
    """
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    layer_classes = {
        name for submodule in module.modules() for name in getattr(submodule, "_no_split_modules", None) or ()
    }
    for stack in [submodule for submodule in module.modules() if isinstance(submodule, nn.ModuleList)]:
        for layer in stack:
            if type(layer).__name__ in layer_classes:
                fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Hold all weights outside the layers in every process inside the context.

    The layers are gathered as they run. Submodules may then be called directly, by all processes together.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def gathered_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor; for a sharded one this is a collective that all processes must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return this process's shard of a full tensor, which is equal in all processes, placed as `reference` is."""
    if not isinstance(reference, DTensor):
        return tensor
    return distribute_tensor(tensor, reference.device_mesh, reference.placements)


def unshard(model: nn.Module) -> None:
    """Replace all sharded weights of a model by full ones, permanently; tied weights stay tied."""
    full_parameters: dict[int, nn.Parameter] = {}
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if isinstance(parameter.data, DTensor):
                    if id(parameter) not in full_parameters:
                        full_parameters[id(parameter)] = nn.Parameter(
                            gathered_tensor(parameter.detach()), parameter.requires_grad
                        )
                    setattr(module, name, full_parameters[id(parameter)])
