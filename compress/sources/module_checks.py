"""Checks of a user's module before training: it must be deterministic in forward, construction and export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.core.errors import ModelError
from compress.lowering.export import export_graph, signature_of
from compress.models.io.outputs import classifier_outputs
from compress.models.io.plain import UserModule, make_module
from compress.models.teacher.code import call_function

RANDOM = "module-random"
_OTHER_SEED = 0x5EED
_TOLERANCE = 1e-5
_BATCH_TOLERANCE = 1e-3
"""Larger than `_TOLERANCE`, because kernels differ by batch size; both are relative to the largest absolute output."""

Shape = tuple[int, int, int]


def check_module(model: UserModule, shape: Shape, *, trained: bool) -> None:
    """Reject a module that would behave differently in training, after loading or in its bundle.

    Args:
        model: the module, in eval mode.
        shape: channels, height and width of its input images.
        trained: whether it will be trained here; then its forward in train mode and its export are tried as well.

    Raises:
        ModelError: with one of the codes `module-unregistered`, `module-autocast`, `module-random`, `module-stateful`,
            `module-batch`, `module-outputs`, `module-export`.
    """
    where = model.origin.source
    _check_registered(model.module, where)
    probe_images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    outputs = _check_forward(model, probe_images, where)
    _check_rebuilt(model, probe_images, outputs, where)
    if trained:
        _check_train_mode(model, probe_images, outputs, where)
        # Export before training, so that a module that cannot be exported is found early.
        task = {
            "input_names": ["pixel_values"],
            "output_names": ["logits"],
            "image": {"channels": shape[0], "size": list(shape[1:])},
        }
        export_graph(model, signature_of(task))


def is_randomly_initialized(model: nn.Module, source: str, base: Path, shape: Shape) -> bool:
    """Whether a function builds a different model with a different seed, that is, an untrained one."""
    built = call_function(source, base, _OTHER_SEED, allow_code=True)  # it was called before
    reinitialized = built[0] if isinstance(built, tuple) else built
    module = model.module if isinstance(model, UserModule) else model
    probe_images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (
            classifier_outputs(candidate.float().cpu().eval()(probe_images))
            for candidate in (module, reinitialized)
        )
    return not _allclose(first, second, _TOLERANCE)


def _check_registered(module: nn.Module, where: str) -> None:
    """Check that no layer or parameter is unregistered, which would be neither trained nor saved."""
    for name, value in _unregistered(module):
        if isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.requires_grad):
            what = "a layer" if isinstance(value, nn.Module) else "a parameter"
            raise ModelError(
                f"`{name}` holds {what} that torch does not register: it would be neither trained nor saved",
                where=where,
                hint="Keep layers in nn.ModuleList or nn.ModuleDict, and parameters as nn.Parameter in attributes or "
                "nn.ParameterList.",
                code="module-unregistered",
            )


def _check_forward(model: UserModule, probe_images: Tensor, where: str) -> Tensor:
    """Check that forward uses no autocast, is deterministic, leaves the state unchanged and treats the examples of a
    batch independently; return its outputs."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    watch = _AutocastWatch()
    with torch.no_grad():
        with watch:
            outputs = _run(model, probe_images, where)
        if watch.triggered:
            raise ModelError(
                "its forward enables autocast: its exported file would compute differently",
                where=where,
                hint="Leave `torch.autocast` out of the module; `finetune.precision` chooses how it is trained.",
                code="module-autocast",
            )
        repeated = [_run(model, probe_images, where) for _ in range(2)]
        if not all(_allclose(outputs, repeat, _TOLERANCE) for repeat in repeated):
            raise ModelError(
                "it gives different outputs for the same images each time, even in eval mode",
                where=where,
                hint="Draw no random numbers in forward, and give F.dropout `training=self.training` (or use "
                "nn.Dropout).",
                code=RANDOM,
            )
        changed = [
            name for name, tensor in model.state_dict().items() if not _allclose(before[name], tensor, 0.0)
        ]
        if changed:
            raise ModelError(
                f"its forward changes {changed[0].removeprefix('module.')!r} in eval mode: its outputs depend on "
                "earlier inputs",
                where=where,
                hint="Change buffers only where `self.training` is true.",
                code="module-stateful",
            )
        if not _allclose(outputs, _run_one_by_one(model, probe_images, where), _BATCH_TOLERANCE):
            raise ModelError(
                "its output for an image depends on the other images in the batch, even in eval mode",
                where=where,
                hint="A BatchNorm without running statistics does this, and so does F.batch_norm with `training=True`.",
                code="module-batch",
            )
    return outputs


def _run_one_by_one(model: UserModule, probe_images: Tensor, where: str) -> Tensor:
    """Return the outputs of batches of one image, or an empty tensor if the module does not accept such batches."""
    try:
        return torch.cat([_run(model, image[None], where) for image in probe_images])
    except ModelError:
        return probe_images.new_zeros(0)


def _check_rebuilt(model: UserModule, probe_images: Tensor, outputs: Tensor, where: str) -> None:
    """Check that a module built with another seed and loaded with the saved weights computes the same outputs."""
    rebuilt, _ = make_module(model.origin, _OTHER_SEED, allow_code=True)  # it was built before
    try:
        rebuilt.load_state_dict(model.module.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"the function builds different parameters each time: {str(error).splitlines()[-1].strip()}",
            where=where,
            hint="Make it build the same module whatever the random state.",
            code=RANDOM,
        ) from error
    with torch.no_grad():
        rebuilt_outputs = _run(UserModule(rebuilt, model.origin, model.order), probe_images, where)
    if not _allclose(outputs, rebuilt_outputs, _TOLERANCE):
        names = _differing_tensors(model.module, rebuilt)
        what = f" (`{names[0]}`)" if names else ""
        raise ModelError(
            f"building it draws random numbers{what} that are not in its saved weights: built again, it is a different "
            "model",
            where=where,
            hint="Store such tensors as nn.Parameter, or with register_buffer.",
            code=RANDOM,
        )


def _check_train_mode(model: UserModule, probe_images: Tensor, outputs: Tensor, where: str) -> None:
    """Check that outputs in train mode have the same shape."""
    training_module, _ = make_module(model.origin, _OTHER_SEED, allow_code=True)
    with torch.no_grad():
        training_outputs = _run(
            UserModule(training_module.train(), model.origin, model.order),
            probe_images,
            f"{where}, in train mode",
        )
    if training_outputs.shape != outputs.shape:
        raise ModelError(
            f"in train mode it gives {list(training_outputs.shape)}, in eval mode {list(outputs.shape)}",
            where=where,
            code="module-outputs",
        )


def _run(model: UserModule, probe_images: Tensor, where: str) -> Tensor:
    try:
        return classifier_outputs(model(probe_images)).float()
    except ModelError as error:
        raise ModelError(error.message, where=where, hint=error.hint, code=error.code) from error
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(
            f"it does not accept {len(probe_images)} images of {' x '.join(map(str, probe_images.shape[1:]))}: {error}",
            where=where,
        ) from error


def _allclose(first: Tensor, second: Tensor, tolerance: float) -> bool:
    if first.shape != second.shape:
        return False
    if not tolerance:
        return torch.equal(first, second)
    largest = float(first.abs().nan_to_num().max()) if first.numel() else 0.0
    return torch.allclose(first, second, rtol=0.0, atol=tolerance * largest, equal_nan=True)


def _unregistered(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attribute values that are not registered parameters, buffers or modules, with their dotted names."""
    registered = {id(submodule) for submodule in (*module.modules(), *module.parameters(), *module.buffers())}
    for prefix, submodule in module.named_modules():
        for name, value in vars(submodule).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            for key, item in _nested_values(value):
                if id(item) not in registered:
                    yield ".".join(filter(None, (prefix, f"{name}{key}"))), item


def _nested_values(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    else:
        yield "", value


def _differing_tensors(first: nn.Module, second: nn.Module) -> list[str]:
    """Return the names of unregistered tensors and buffers that differ between two modules."""
    first_tensors, second_tensors = (
        {**dict(_unregistered(module)), **dict(module.named_buffers())} for module in (first, second)
    )
    return [
        name
        for name, value in first_tensors.items()
        if isinstance(value, Tensor)
        and isinstance(counterpart := second_tensors.get(name), Tensor)
        and not _allclose(value.detach(), counterpart.detach(), 0.0)
    ]


class _AutocastWatch(TorchFunctionMode):
    """Records whether anything was computed under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.triggered = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.triggered = self.triggered or any(
            torch.is_autocast_enabled(device) for device in ("cpu", "cuda")
        )
        return func(*args, **(kwargs or {}))
