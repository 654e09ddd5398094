"""A device that is not the CPU, without one: what runs on it here stays together on a GPU too.

Its tensors hold their numbers on the CPU, and refuse what those of a GPU refuse: to be mixed with the CPU's, or to be
read by numpy. torch calls its device `card`. What a GPU's kernels do differently is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = "card"
_ATEN = torch.ops.aten
_MIXES = {_ATEN.copy_.default, _ATEN._to_copy.default, _ATEN.index_put_.default, _ATEN.index_put.default}
"""A tensor of the card takes what the CPU's holds, and places that the CPU's name."""
_LIBRARY: list[torch.library.Library] = []


class Elsewhere(torch.Tensor):
    """A tensor of the card."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{CARD}:0",
        )
        made.held = held
        return made

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as of a GPU."""
        raise TypeError("can't convert a tensor of the card to numpy")

    def tolist(self) -> Any:
        """As of a GPU: torch copies it first."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what is made on the card from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    away = [one for one in given if isinstance(one, Elsewhere)]
    if away and func not in _MIXES:
        # Of places, those that the CPU's tensor names may be looked up on the card, and not the other way.
        free = func is _ATEN.index.Tensor and isinstance(args[0], Elsewhere)
        if not free and any(not isinstance(one, Elsewhere) and one.dim() > 0 for one in given):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    bare = tree_map(lambda one: one.held if isinstance(one, Elsewhere) else one, kwargs)
    if asked == CARD:
        bare |= {"device": "cpu", "pin_memory": False} if "pin_memory" in bare else {"device": "cpu"}
    result = func(*tree_map(lambda one: one.held if isinstance(one, Elsewhere) else one, args), **bare)
    stays = asked != CARD and not (away and asked is None)
    if func is _ATEN.copy_.default:
        stays = not isinstance(args[0], Elsewhere)
    if stays:
        return result
    known = {id(one.held): one for one in away}

    def wrapped(one: Any) -> Any:
        if not isinstance(one, torch.Tensor) or isinstance(one, Elsewhere):
            return one
        return known[id(one)] if id(one) in known else Elsewhere(one)

    return tree_map(wrapped, result)


def _register() -> None:
    """Make the card known to torch, once a process."""
    if _LIBRARY:
        return
    from torch.utils import backend_registration as registration

    class Module(registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    registration._setup_privateuseone_for_python_backend(CARD, Module())
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *strides: Any, dtype: Any = None, **rest: Any) -> Elsewhere:
        make = torch.empty_strided if strides else torch.empty
        return Elsewhere(make(size, *strides, dtype=dtype, device="cpu"))

    def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        source, held = (one.held if isinstance(one, Elsewhere) else one for one in (source, target))
        held.copy_(source)
        return target

    # The backward pass runs in a thread of its own, which sees no mode.
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    _LIBRARY.append(library)


@contextmanager
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """While it stands open there is a device `card`; its kernels are the plain ones of the CPU."""
    _register()
    clip, begin = torch.nn.utils.clip_grad_norm_, torch.optim.AdamW.__init__

    def plain_clip(*args: Any, **options: Any) -> Any:
        return clip(*args, **{**options, "foreach": None})

    def plain_adamw(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **{**options, "fused": False, "foreach": False})

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", plain_clip)
    monkeypatch.setattr(torch.optim.AdamW, "__init__", plain_adamw)
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad())
    monkeypatch.setattr("compress.training.loop._STEPS_UNREAD", {"cpu": 1, CARD: 20})
    with _Mode():
        yield CARD
