"""The files of a model directory: safetensors and JSON, read and written whole. Never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from compress.core.artifacts import TORCH_WEIGHTS
from compress.core.disk.files import replacing
from compress.core.disk.reading import read_json
from compress.core.errors import ModelError


def write_weights(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write tensors to one safetensors file, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(file) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt"})


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a model directory.

    Raises:
        ModelError: the file is missing or damaged.
    """
    file = path / TORCH_WEIGHTS
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all tensors of a model directory, from the file's header.

    Raises:
        ModelError: the file is missing or damaged.
    """
    file = path / TORCH_WEIGHTS
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def read_model_json(file: Path) -> Any:
    """Return a parsed JSON file of a model directory.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return read_json(file)
    except FileNotFoundError as error:
        raise ModelError(f"no {file.name} here", where=str(file.parent)) from error


def missing_weights(folder: Path) -> ModelError | None:
    """Return why a folder has no weights to load; None if it has a safetensors file."""
    if any(folder.glob("*.safetensors")):
        return None
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles:
        return ModelError(
            f"no safetensors here, only {pickles[0]}, a pickle: it could run arbitrary code and is never loaded",
            where=str(folder),
            hint="Save the model as safetensors first, with `save_pretrained` of transformers.",
        )
    return ModelError(
        f"no {TORCH_WEIGHTS} here",
        where=str(folder),
        hint="Only safetensors are read; if a hub model has only pickles (.bin), name a `revision` with safetensors.",
    )


def _unreadable(file: Path, error: Exception) -> ModelError:
    damaged = ModelError(
        f"this file is damaged: {error}", where=str(file), hint="Download or create it again."
    )
    return damaged if file.is_file() else missing_weights(file.parent) or damaged
