"""Training checkpoints: safetensors and one JSON file, safe against a kill at any moment.

A checkpoint is `state-<n>.safetensors` (weights, optimizer, random states), `best-<n>.safetensors` (the best
weights so far) and `checkpoint.json`, which names the two with their checksums and is renamed into place last:
files that it names are complete, all others are leftovers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.core.disk.files import (
    DamagedFileError,
    file_entry,
    first_damaged,
    make_folder,
    read_sealed,
    remove,
    replacing,
    write_sealed,
)
from compress.store.checking import CHECKPOINT as INDEX
from compress.training.distributed.sharding import gathered_tensor, local_shard
from compress.training.distributed.world import current_world

EXCLUDED_ATTRIBUTE = "_as_it_is"
"""Attribute that marks a parameter as frozen and excluded from checkpoints."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: plain values, tensors of the training state, best weights (None before a validation)."""

    values: Mapping[str, Any]
    state: Mapping[str, Tensor]
    best: Mapping[str, Tensor] | None


def freeze_parameter(parameter: nn.Parameter) -> None:
    """Freeze a parameter and exclude it from checkpoints: it is restored by loading the model again."""
    parameter.requires_grad_(False)
    setattr(parameter, EXCLUDED_ATTRIBUTE, True)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers that checkpoints store, not copied.

    Tied parameters appear once, under their first name; those marked `EXCLUDED_ATTRIBUTE` are excluded.
    """
    saved = model.state_dict().keys()
    tensors = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if not getattr(parameter, EXCLUDED_ATTRIBUTE, False)
    }
    tensors.update({name: buffer for name, buffer in model.named_buffers() if name in saved})
    return tensors


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of `weights_of(model)` that training does not change."""
    return {name: gathered_tensor(tensor).clone() for name, tensor in weights_of(model).items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite the weights in place, so that an optimizer that references them stays valid."""
    with torch.no_grad():
        for name, tensor in weights_of(model).items():
            tensor.copy_(local_shard(weights[name], tensor))


def training_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return all that the next step depends on as flat tensors: weights, optimizer moments, random states.

    The random states are those of all processes.
    """
    tensors = {f"model/{name}": gathered_tensor(tensor) for name, tensor in weights_of(model).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors.update(
            {f"optimizer/{index}/{name}": gathered_tensor(value) for name, value in moments.items()}
        )
    for rank, state in enumerate(current_world().all_gather(torch.get_rng_state())):
        tensors[f"random/cpu/{rank}"] = state
    if torch.cuda.is_available():
        for rank, state in enumerate(current_world().all_gather(torch.cuda.get_rng_state())):
            tensors[f"random/cuda/{rank}"] = state
    return tensors


def restore_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Restore what `training_state` returned: the next step is bit for bit the one that would have followed."""
    load_weights(
        model, {name.removeprefix("model/"): t for name, t in state.items() if name.startswith("model/")}
    )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name.startswith("optimizer/"):
            _, index, moment = name.split("/")
            reference = tensor if moment == "step" else parameters[int(index)]
            moments.setdefault(int(index), {})[moment] = local_shard(tensor, reference)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    rank = current_world().rank
    torch.set_rng_state(state[f"random/cpu/{rank}"])
    if f"random/cuda/{rank}" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[f"random/cuda/{rank}"])


def save_checkpoint(
    folder: Path,
    values: Mapping[str, Any],
    state: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
    best_step: int | None,
) -> None:
    """Write a checkpoint and remove the previous one; `values` must contain `step`, and `plan` where `best` is given.

    Args:
        state: may be empty once training is over and only `best` is needed.
        best_step: the step of the `best` weights; if the previous checkpoint already has their file, it is not
            written again.
    """
    make_folder(folder)
    state_name, best_name = f"state-{values['step']}.safetensors", None
    files = {state_name: _write(folder / state_name, state)}
    if best is not None:
        best_name = f"best-{best_step}.safetensors"
        previous = _read_index(folder)
        # A file of that name may belong to an earlier training with another plan in the same folder.
        same_plan = previous is not None and previous["values"].get("plan") == values.get("plan")
        entry = previous["files"].get(best_name) if previous is not None and same_plan else None
        files[best_name] = entry or _write(folder / best_name, best)
    write_sealed(
        folder / INDEX, {"values": dict(values), "state": state_name, "best": best_name, "files": files}
    )
    for file in folder.iterdir():
        if file.name != INDEX and file.name not in files:
            remove(file)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Load the last complete checkpoint; None if there is none or one of its files is damaged."""
    index = _read_index(folder)
    if index is None or first_damaged(folder, index["files"]) is not None:
        return None
    best = index["best"]
    return Checkpoint(
        index["values"],
        load_file(folder / index["state"]),
        None if best is None else load_file(folder / best),
    )


def _read_index(folder: Path) -> dict[str, Any] | None:
    """Read the index of a checkpoint; None if there is none or it is damaged."""
    try:
        return read_sealed(folder / INDEX)
    except (FileNotFoundError, DamagedFileError):
        return None


def _write(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write tensors to `path` and return the file's entry for the index."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    return file_entry(path)
