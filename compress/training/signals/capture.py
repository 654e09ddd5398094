"""Intermediate values of a model, captured by forward hooks without editing the model.

A signal has a name and is one tensor:

| name | shape | what |
| --- | --- | --- |
| `outputs` | (n, outputs) | result of `outputs_of` |
| `outputs.labels`, `outputs.teacher` | (n, outputs) | a DeiT's class head and distillation head; else the outputs |
| `embedding` | (n, t, d) | input of the first layer: embeddings after their norm and projection |
| `hidden.L` | (n, t, d) | output of layer L, counted from 0 at the bottom |
| `query.L`, `key.L`, `value.L` | (n, t, heads * head size) | projections of layer L, not split into heads |
| `turned_query.L`, `turned_key.L` | the same | of decoders, after rotary position embedding and scaling |
| `feature.NAME` | (n, c, h, w) | output of the submodule NAME |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from compress.core.errors import PassError
from compress.encoding.inputs import model_inputs
from compress.models.anatomy.blocks import Block, attentions_of, heads_of, is_causal, layers_of
from compress.models.anatomy.observing import evaluating, removing_hooks
from compress.models.io.outputs import outputs_of
from compress.training.signals.positions import Hooks, rotated_signal, window_of

Signals = dict[str, Tensor]

_HEAD_ATTRIBUTES = {"outputs.labels": "cls_logits", "outputs.teacher": "distillation_logits"}
OUTPUTS = frozenset({"outputs", *_HEAD_ATTRIBUTES})
"""The signals that are model outputs."""


@dataclass(frozen=True)
class Feature:
    """A convolutional feature map: name of the submodule that outputs it, and its shape for the probe batch."""

    name: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model that can be compared.

    `hidden_size`, `embedding_size`: widths, None without layers. `head_counts`: number of each layer; empty, and
    `head_size` None, if queries and keys cannot be captured. `features`: the last map at each resolution above 1 x 1,
    in the order of computation; none for a model with attention, whose patches are tokens. `by_token`: outputs are
    per token, not per example. `extra_tokens`: class and distillation tokens before the patches, 0 for texts;
    `num_patches`: None for texts. `causal`: tokens attend only to earlier ones; then `attention_windows` is the
    attention window of each layer, None: unlimited, and `score_cap` the soft cap of the scores, None: none.
    """

    num_outputs: int
    num_layers: int = 0
    hidden_size: int | None = None
    head_counts: tuple[int, ...] = ()
    head_size: int | None = None
    embedding_size: int | None = None
    features: tuple[Feature, ...] = ()
    extra_tokens: int = 0
    num_patches: int | None = None
    by_token: bool = False
    causal: bool = False
    attention_windows: tuple[int | None, ...] = ()
    score_cap: float | None = None


class Recorder:
    """Context manager that captures the named signals of a model; hooks are removed on exit.

        with Recorder(model, {"outputs", "hidden.3"}) as recorder:
            model(**batch)
            signals = recorder.take()

    It can be entered any number of times; of several forward passes before a `take()` the last one counts. It
    works under autocast, in inference mode and inside `DistributedDataParallel`: signals keep the dtype and the
    gradient that the model gave them.

    Raises:
        PassError: the model does not have one of the signals.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._names = frozenset(names)
        self._captured: Signals = {}
        self._handles: list[RemovableHandle | Hooks] = []
        layers = layers_of(self._model) if self._names - OUTPUTS else ()
        self._registrations = [self._hook_registration(name, layers) for name in sorted(self._names)]

    def __enter__(self) -> Recorder:
        self._handles = [register() for register in self._registrations]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._captured.clear()

    def take(self) -> Signals:
        """Return and release the signals of the last forward pass.

        Raises:
            PassError: a signal was not computed since the last `take()`.
        """
        missing = self._names - self._captured.keys()
        if missing:
            raise PassError(f"the model ran without computing {', '.join(sorted(missing))}")
        signals = dict(self._captured)
        self._captured.clear()
        return signals

    def _hook_registration(
        self, name: str, layers: tuple[Block, ...]
    ) -> Callable[[], RemovableHandle | Hooks]:
        """Return a function that registers the hook of one signal."""
        captured = self._captured
        kind, _, suffix = name.partition(".")

        def keep(module: nn.Module, args: Any, result: Any) -> None:
            captured[name] = _first_tensor(result)

        def keep_outputs(module: nn.Module, args: Any, result: Any) -> None:
            head = getattr(result, _HEAD_ATTRIBUTES.get(name, ""), None)
            captured[name] = outputs_of(result) if head is None else head

        def keep_input(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            captured[name] = args[0] if args else kwargs["hidden_states"]

        if name in OUTPUTS:
            return lambda: self._model.register_forward_hook(keep_outputs)
        if name == "embedding" and layers:
            return lambda: layers[0].module.register_forward_pre_hook(keep_input, with_kwargs=True)
        if kind in ("turned_query", "turned_key") and _layer_module(
            layers, kind.removeprefix("turned_"), suffix
        ):
            return lambda: rotated_signal(layers[int(suffix)], kind.removeprefix("turned_"), captured, name)
        if kind == "feature":
            module = dict(self._model.named_modules()).get(suffix or ".")
        else:
            module = _layer_module(layers, kind, suffix)
        if module is None:
            raise PassError(f"the model cannot give {name!r}: {_available_signals(layers)}")
        return lambda: module.register_forward_hook(keep)


def capture(model: nn.Module, batch: dict[str, Tensor], names: Iterable[str]) -> Signals:
    """Return the named signals of one forward pass.

    Raises:
        PassError: the model does not have one of them.
    """
    with Recorder(model, names) as recorder:
        model(**model_inputs(batch))
        return recorder.take()


def anatomy_of(model: nn.Module, batch: dict[str, Tensor]) -> Anatomy:
    """Determine a model's anatomy by running it on a batch in eval mode, without gradients."""
    root = model.module if isinstance(model, DistributedDataParallel) else model
    calls = _trace_calls(root, batch)
    outputs, by_token = calls[-1].shape[-1], len(calls[-1].shape) == 3
    layers = layers_of(root)
    shapes = [call.shape for layer in layers for call in calls if call.module is layer.module]
    patches = _patches(calls, layers)
    # Layers that share a module cannot be distinguished; stages of decreasing resolution have no common positions.
    uniform = len(shapes) == len(layers) and len(set(shapes)) == 1 and len(shapes[0]) == 3
    if not uniform or (patches or 0) > shapes[0][1]:
        features = () if attentions_of(root) else _feature_maps(root, calls)
        return Anatomy(num_outputs=outputs, features=features, by_token=by_token)
    _, tokens, hidden = shapes[0]
    heads, head_size = heads_of(layers)
    causal = is_causal(root)
    with evaluating(root), torch.no_grad():
        embedded = capture(root, batch, {"embedding"})["embedding"]
    return Anatomy(
        num_outputs=outputs,
        num_layers=len(layers),
        hidden_size=hidden,
        head_counts=heads,
        head_size=head_size,
        embedding_size=embedded.shape[-1],
        extra_tokens=0 if patches is None else tokens - patches,
        num_patches=patches,
        by_token=by_token,
        causal=causal,
        attention_windows=tuple(window_of(layer.attention) for layer in layers) if causal else (),
        score_cap=getattr(layers[0].attention, "attn_logit_softcapping", None),
    )


@dataclass(frozen=True)
class _Call:
    """A module that ran, and the shape of the tensor it returned."""

    module: nn.Module
    shape: tuple[int, ...]


def _trace_calls(model: nn.Module, batch: dict[str, Tensor]) -> list[_Call]:
    """Return every module that returned a tensor, in the order in which they finished; the model itself is last."""
    calls: list[_Call] = []

    def note(module: nn.Module, args: Any, result: Any) -> None:
        value = outputs_of(result) if module is model else _first_tensor(result)
        if isinstance(value, Tensor):
            calls.append(_Call(module, tuple(value.shape)))

    hooks = (module.register_forward_hook(note) for module in model.modules())
    with evaluating(model), torch.no_grad(), removing_hooks(hooks):
        model(**model_inputs(batch))
    return calls


def _layer_module(layers: tuple[Block, ...], kind: str, number: str) -> nn.Module | None:
    """Return the module whose output is the signal `kind.number`; None if there is none."""
    if not number.isdecimal() or int(number) >= len(layers):
        return None
    layer = layers[int(number)]
    if kind == "hidden":
        return layer.module
    projections = layer.projections
    names = ("query", "key", "value")
    return projections[names.index(kind)] if projections is not None and kind in names else None


def _available_signals(layers: tuple[Block, ...]) -> str:
    if not layers:
        return "its layers are not known"
    queries = "" if heads_of(layers)[0] else ", whose queries, keys and values cannot be captured"
    return f"it has {len(layers)} layers{queries}"


def _feature_maps(model: nn.Module, calls: list[_Call]) -> tuple[Feature, ...]:
    """Return the last map at each resolution, in order of computation; 1 x 1 maps have no positions."""
    names = {module: name for name, module in model.named_modules()}
    run_counts = Counter(call.module for call in calls)
    last: dict[tuple[int, ...], Feature] = {}
    for call in calls:
        if len(call.shape) == 4 and run_counts[call.module] == 1 and max(call.shape[2:]) > 1:
            last.pop(call.shape[2:], None)
            last[call.shape[2:]] = Feature(names[call.module], *call.shape[1:])
    return tuple(last.values())


def _patches(calls: list[_Call], layers: tuple[Block, ...]) -> int | None:
    """Return the number of patches of an image: positions of the last map before the first layer; None for texts."""
    inside = set(layers[0].module.modules()) if layers else set()
    maps: list[tuple[int, ...]] = []
    for call in calls:
        if call.module in inside:
            return maps[-1][2] * maps[-1][3] if maps else None
        if len(call.shape) == 4:
            maps.append(call.shape)
    return None


def _first_tensor(result: Any) -> Any:
    """Return the tensor in a module's result: the result itself, or the first of a tuple."""
    return result[0] if isinstance(result, tuple) else result
