"""Verify cuts on a copy of the model before they are applied; groups whose cut breaks the model stay whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.core.disk.exhaustion import is_exhaustion
from compress.models.anatomy.factors import Factored
from compress.models.anatomy.observing import removing_hooks
from compress.models.anatomy.structure import apply_structure, describe_structure
from compress.models.io.checkpoints import count_parameters
from compress.models.io.outputs import outputs_of
from compress.passes.prune.removing.channels import ChannelSurgeon, Cut, copy_model, short_message

Example = Mapping[str, Tensor]

FLOAT64_TOLERANCE, FLOAT32_TOLERANCE = 1e-9, 1e-3
"""Tolerance of outputs relative to the largest one: in float64, and for a model that runs in float32 only."""


@dataclass(frozen=True)
class SafeCuts:
    """Verified cuts, the parameters that remain after them, and the reasons why other groups stay whole."""

    cuts: tuple[Cut, ...]
    parameters: int
    unprunable: Mapping[str, str]


def safe_cuts(model: nn.Module, example: Example, cuts: Sequence[Cut]) -> SafeCuts:
    """Return those of the cuts that work together; the model is not changed.

    All are tried at once first, then halves of those that fail, so that a few bad groups among many cost few trials.
    """
    if not cuts:
        return SafeCuts((), count_parameters(model), {})
    parameters, fault = check_cuts(model, example, cuts)
    if fault is None:
        return SafeCuts(tuple(cuts), parameters, {})
    if len(cuts) == 1:
        return SafeCuts((), count_parameters(model), {cuts[0].group.name: fault})
    middle = len(cuts) // 2
    first, second = safe_cuts(model, example, cuts[:middle]), safe_cuts(model, example, cuts[middle:])
    unprunable = {**first.unprunable, **second.unprunable}
    if not first.cuts or not second.cuts:
        kept = first if first.cuts else second
        return SafeCuts(kept.cuts, kept.parameters, unprunable)
    parameters, fault = check_cuts(model, example, [*first.cuts, *second.cuts])
    if fault is None:
        return SafeCuts((*first.cuts, *second.cuts), parameters, unprunable)
    kept, other = (first, second) if len(first.cuts) >= len(second.cuts) else (second, first)
    reason = f"it cannot be cut together with {kept.cuts[0].group.name}: {fault}"
    return SafeCuts(
        kept.cuts, kept.parameters, {**unprunable, **{cut.group.name: reason for cut in other.cuts}}
    )


def check_cuts(model: nn.Module, example: Example, cuts: Sequence[Cut]) -> tuple[int, str | None]:
    """Cut a copy; return its number of parameters, and a short description of the fault, if any.

    The copy must run forward and backward, in eval and in train mode, with outputs of the same shape; these must equal
    the outputs of the whole model with the removed channels masked; tied weights must stay tied; and the remaining
    widths must suffice to rebuild the model.
    """
    original = copy_model(model).eval()
    pruned = copy_model(model).eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            # torch-pruning warns of tensors that are not parameters, which are detected here.
            warnings.simplefilter("ignore")
            surgeon = ChannelSurgeon(pruned, example)
            cuts = surgeon.map_cuts(cuts)
            fault = _scoring_fault(surgeon, cuts)
            if fault is not None:
                return 0, fault
            consumers = surgeon.consumers(cuts)
            surgeon.remove(cuts)
            fault = (
                _tying_fault(original, pruned)
                or _output_fault(original, pruned, example, consumers)
                or _rebuild_fault(original, pruned, example)
                or _training_fault(original, pruned, example)
            )
        return count_parameters(pruned), fault
    except Exception as error:
        if is_exhaustion(error):
            raise
        return 0, f"it does not run without them: {short_message(error)}"


def _scoring_fault(surgeon: ChannelSurgeon, cuts: Sequence[Cut]) -> str | None:
    """Check that importance can rank the channels of each group."""
    importance = tp.importance.GroupMagnitudeImportance()
    for cut in cuts:
        scores = surgeon.score(cut.group, importance)
        if not isinstance(scores, Tensor) or len(scores) != cut.group.width:
            return "its channels cannot be ranked"
    return None


def _tying_fault(original: nn.Module, pruned: nn.Module) -> str | None:
    return None if _ties(original) == _ties(pruned) else "shared weights would no longer be shared"


def _ties(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(each for each in names.values() if len(each) > 1)


def _training_fault(original: nn.Module, pruned: nn.Module, example: Example) -> str | None:
    """Check that the cut model runs and trains if the whole one does; last, as train mode updates norm statistics."""
    for training in (False, True):
        try:
            expected = _run(original.train(training), example)
        except Exception as error:
            if is_exhaustion(error) or not training:
                raise
            continue  # it cannot be trained on this example at all
        outputs = _run(pruned.train(training), example)
        if outputs.shape != expected.shape:
            return f"its outputs become {tuple(outputs.shape)} instead of {tuple(expected.shape)}"
        if expected.isfinite().all() and not outputs.isfinite().all():
            return "its outputs are no longer finite"
        outputs.float().square().mean().backward()  # type: ignore[no-untyped-call]
        pruned.zero_grad(set_to_none=True)
    return None


def _output_fault(
    original: nn.Module, pruned: nn.Module, example: Example, consumers: Mapping[str, tuple[int, list[int]]]
) -> str | None:
    """Check that the cut model computes the same as the whole one with the removed channels masked.

    The statistics of norms over channels depend on which channels exist, so norms only scale and shift here.
    """
    outputs = []
    for dtype, tolerance in ((torch.float64, FLOAT64_TOLERANCE), (torch.float32, FLOAT32_TOLERANCE)):
        models = [copy_model(each).eval().to(dtype) for each in (original, pruned)]
        inputs = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in example.items()
        }
        try:
            with torch.no_grad(), _AffineNorms():
                with _masked(models[0], consumers):
                    outputs.append(_run(models[0], inputs))
                outputs.append(_run(models[1], inputs))
        except RuntimeError as error:
            if is_exhaustion(error) or dtype is torch.float32:
                raise
            outputs.clear()  # it holds float32 tensors that are neither parameters nor buffers
            continue
        expected, actual = outputs
        if expected.shape != actual.shape:
            return f"its outputs become {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        limit = tolerance * float(expected.abs().max())
        same = torch.allclose(actual, expected, rtol=0, atol=limit, equal_nan=True)
        return None if same else "what remains would compute something different"
    return None


@contextmanager
def _masked(model: nn.Module, consumers: Mapping[str, tuple[int, list[int]]]) -> Iterator[None]:
    """Context manager in which modules read zeros in these channels: name -> (axis, channels)."""

    def mask(axis: int, channels: list[int]) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            places = torch.tensor(channels, device=inputs[0].device)
            return (inputs[0].index_fill(axis, places, 0), *inputs[1:])

        return hook

    hooks = (
        model.get_submodule(name).register_forward_pre_hook(mask(axis, channels))
        for name, (axis, channels) in consumers.items()
    )
    with removing_hooks(hooks):
        yield


class _AffineNorms(TorchFunctionMode):
    """Reduces norms over channels to scale and shift."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _NORMS:
            return func(*args, **kwargs)
        values, _, weight, bias = (*args, *[None] * 4)[:4]
        weight, bias = kwargs.get("weight", weight), kwargs.get("bias", bias)
        if func in _GROUP_NORMS:
            shape = (-1, *[1] * (values.ndim - 2))
            weight, bias = (None if each is None else each.reshape(shape) for each in (weight, bias))
        return _affine(values, weight, bias)


_GROUP_NORMS = frozenset({torch.group_norm, nn.functional.group_norm})
_NORMS = _GROUP_NORMS | {torch.layer_norm, nn.functional.layer_norm}


def _affine(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = values if weight is None else values * weight
    return scaled if bias is None else scaled + bias


def _rebuild_fault(original: nn.Module, pruned: nn.Module, example: Example) -> str | None:
    """Check that the stored structure of the cut model rebuilds it."""
    if any(isinstance(module, Factored) for module in original.modules()):
        return None  # `apply_structure` inserts factored maps, so it cannot be tried on a model that already has them
    structure = describe_structure(pruned, copy_model(original))
    if structure is None:
        return "nothing in its description would change"
    rebuilt = copy_model(original)
    apply_structure(rebuilt, structure, "trial")
    rebuilt.load_state_dict(pruned.state_dict())
    with torch.no_grad():
        wanted, got = _run(pruned.eval(), example), _run(rebuilt.eval(), example)
    return None if torch.equal(wanted, got) else "it cannot be rebuilt from its widths"


def _run(model: nn.Module, example: Example) -> Tensor:
    torch.manual_seed(0)
    return outputs_of(model(**example))
