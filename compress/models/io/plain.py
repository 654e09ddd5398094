"""Any `nn.Module` as a model: built by the user's function, with weights and shapes from our files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from compress.core.artifacts import MODULE, STRUCTURE
from compress.core.errors import ModelError
from compress.models.anatomy.observing import evaluating
from compress.models.anatomy.structure import apply_structure
from compress.models.io.outputs import classifier_outputs, outputs_of
from compress.models.io.weights import read_model_json
from compress.models.teacher.code import call_function
from compress.models.teacher.code_files import code_sha256, module_file


@dataclass(frozen=True)
class Origin:
    """The function that builds a module.

    `source` is `python:module:function`, searched in `base` first; `sha256` is its `code_sha256` when the model was
    made.
    """

    source: str
    base: Path
    sha256: str

    @classmethod
    def of(cls, source: str, base: Path) -> Origin:
        """Return the origin of a function with the current hash of its code.

        Raises:
            ModelError: there is no such module.
        """
        return cls(source, base.resolve(), code_sha256(source, base))


class UserModule(nn.Module):
    """A module built by user code; `order` gives the output index of each label."""

    def __init__(self, module: nn.Module, origin: Origin, order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.module = module
        self.origin = origin
        self.order = None if order is None or list(order) == sorted(order) else tuple(order)

    def forward(self, *inputs: Tensor, **named_inputs: Tensor) -> Tensor:
        """Pass the inputs by position in the task's order, whatever the module calls them; returns (n, ...)."""
        outputs = outputs_of(self.module(*inputs, *named_inputs.values()))
        return outputs if self.order is None else outputs[:, list(self.order)]

    def describe(self) -> dict[str, Any]:
        """The content of `module.json`."""
        described: dict[str, Any] = {
            "source": self.origin.source,
            "base": str(self.origin.base),
            "sha256": self.origin.sha256,
        }
        return described if self.order is None else {**described, "order": list(self.order)}


def make_module(origin: Origin, seed: int, *, allow_code: bool) -> tuple[nn.Module, tuple[str, ...] | None]:
    """Build the module in float32 on the CPU in eval mode; also returns the names of its outputs if it has any.

    Raises:
        UsageError: code is not allowed to run.
        ModelError: the function raised, or returned something else.
    """
    result = call_function(origin.source, origin.base, seed, allow_code=allow_code)
    labels: tuple[str, ...] | None = None
    if isinstance(result, tuple) and len(result) == 2 and not isinstance(result[1], str):
        result, labels = result[0], tuple(map(str, result[1]))
    if not isinstance(result, nn.Module):
        raise ModelError(
            "expected the function to return an nn.Module, or (module, labels); it returned "
            f"a {type(result).__name__}",
            where=origin.source,
        )
    result = getattr(result, "_orig_mod", result)  # Unwrap a module compiled with torch.compile.
    _check_supported(result, origin.source)
    return result.float().cpu().eval(), labels


def _check_supported(module: nn.Module, where: str) -> None:
    """Refuse modules that cannot be taken apart, saved by their weights and rebuilt."""
    for name, submodule in module.named_modules():
        if isinstance(submodule, torch.jit.ScriptModule):
            raise ModelError(
                f"{name or 'it'} is a TorchScript module, which cannot be trained, pruned or exported",
                where=where,
                hint="Make the function build the nn.Module itself and load its weights.",
                code="module-torchscript",
            )
    tensors = (*module.named_parameters(), *module.named_buffers())
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise ModelError(
            f"{lazy[0]!r} is lazy: it gets its shape only when the module first runs",
            where=where,
            hint="Run the module once on a batch in the function, before returning it.",
            code="module-lazy",
        )


def rebuild_module(path: Path, *, allow_code: bool) -> UserModule:
    """Rebuild the module of a model directory with its structure; its weights are not loaded yet.

    Raises:
        UsageError: code is not allowed to run.
        ModelError: `module.json` is damaged, or the function's file is missing or has changed.
    """
    file = path / MODULE
    described = read_model_json(file)
    try:
        origin = Origin(described["source"], Path(described["base"]), described["sha256"])
        order = described.get("order")
        if order is not None and sorted(order) != list(range(len(order))):
            raise ValueError("`order` is not a permutation")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"this file is damaged: {error!r}", where=str(file)) from error
    if (current_sha256 := Origin.of(origin.source, origin.base).sha256) != origin.sha256:
        raise ModelError(
            f"the code of this model was changed: its file has the sha256 {current_sha256[:12]}..., "
            f"expected {origin.sha256[:12]}...",
            where=str(module_file(origin.source, origin.base)),
            hint="Run the profile again: the model is rebuilt from the current code.",
        )
    module, _ = make_module(origin, seed=0, allow_code=allow_code)
    if (path / STRUCTURE).exists():
        apply_structure(module, read_model_json(path / STRUCTURE), str(path / STRUCTURE))
    return UserModule(module, origin, order)


def image_outputs(model: nn.Module, channels: int, size: tuple[int, int], where: str) -> int:
    """Return the number of outputs of an image model, found by running it on blank images.

    Raises:
        ModelError: it does not take images of that size, or its output is not (batch, outputs).
    """
    blank = torch.zeros(2, channels, *size)
    try:
        with evaluating(model), torch.no_grad():
            return int(classifier_outputs(model(pixel_values=blank)).shape[1])
    except ModelError as error:
        raise ModelError(error.message, where=where, hint=error.hint, code=error.code) from error
    except Exception as error:  # the user's own code may raise anything
        shown = f"{channels} x {size[0]} x {size[1]}"
        raise ModelError(
            f"the model does not accept images of {shown}: {error}",
            where=where,
            hint="Set `data.image_size` to the height and width that it accepts.",
        ) from error
