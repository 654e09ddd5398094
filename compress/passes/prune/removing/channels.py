"""Remove channels from the convolutions of any model, along with everything coupled to them."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.core.disk.exhaustion import is_exhaustion
from compress.core.errors import CompressError, ModelError, PassError, first_line
from compress.models.io.checkpoints import count_parameters
from compress.models.io.outputs import outputs_of
from compress.passes.prune.choosing.budget import ParameterLimit
from compress.passes.prune.choosing.importance import least_important
from compress.passes.prune.choosing.prediction import kept_channels
from compress.passes.prune.spec import PruneTargetSpec

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Modules that create channels."""
_PRODUCT_NAMES = ("bmm", "dotproduct", "attention")
"""Substrings of the names of operations that multiply two activations."""
FRACTION_STEPS = 1000
"""Resolution of the fractions that are tried for a target."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together: those of `root` and of all layers added to it or following it.

    `width`: number of channels; `repeats`: > 1 if a grouped convolution requires the same channels of each of its
    groups to be removed.
    """

    root: nn.Module
    name: str
    width: int
    repeats: int

    def channels(self, positions: Sequence[int]) -> list[int]:
        """Return the channels at these positions of every repeat."""
        period = self.width // self.repeats
        return [repeat * period + place for repeat in range(self.repeats) for place in positions]


@dataclass(frozen=True)
class Cut:
    """Channels of a group that are to be removed."""

    group: ChannelGroup
    channels: tuple[int, ...]


class ChannelSurgeon:
    """Dependency graph of a model with convolutions.

    DepGraph: Fang et al., Towards Any Structural Pruning, 2023 (arXiv:2301.12900), by torch-pruning: sums of branches,
    concatenations, depthwise and grouped convolutions, norms, and the columns of a linear map after flattening.
    """

    def __init__(
        self, model: nn.Module, example: Mapping[str, Tensor], excluded: Collection[str] = ()
    ) -> None:
        """Trace the model on an example batch.

        Args:
            excluded: names of groups to exclude from `groups` because they must stay whole.

        Raises:
            ModelError: the model cannot be traced.
        """
        self.model = model
        self.example = example
        try:
            with torch.enable_grad(), _gradients_enabled(model):
                self.graph = tp.DependencyGraph().build_dependency(
                    model, example_inputs=dict(example), output_transform=outputs_of, verbose=False
                )
        except Exception as error:
            if is_exhaustion(error) or isinstance(error, CompressError):
                raise
            raise ModelError(
                f"cannot determine which channels of this model belong together: {short_message(error)}",
                where="prune",
                hint="Leave `prune` out, or make the model run on a batch of two in eval mode.",
                code="untraceable",
            ) from error
        self.names = {module: name for name, module in model.named_modules()}
        self.unprunable: dict[str, str] = {}
        """Groups that cannot be pruned, with the reason."""
        self.groups = tuple(group for group in self._groups() if group.name not in excluded)

    def scores(self, importance: Any) -> list[Tensor]:
        """Score the channels of each group with one of torch-pruning's importances, float (width,) each."""
        return [self.score(group, importance) for group in self.groups]

    def score(self, group: ChannelGroup, importance: Any) -> Any:
        """Score the channels of a group with one of torch-pruning's importances."""
        return importance(self._group(group, range(group.width)))

    def map_cuts(self, cuts: Sequence[Cut]) -> list[Cut]:
        """Map cuts of another copy of the model to this one."""
        groups = {group.name: group for group in self.groups}
        return [Cut(groups[cut.group.name], cut.channels) for cut in cuts]

    def count_remaining(self, cuts: Sequence[Cut]) -> int:
        """Return the number of parameters after the cuts, counted in a copy; nothing is changed."""
        surgeon = ChannelSurgeon(copy_model(self.model), self.example)
        surgeon.remove(surgeon.map_cuts(cuts))
        return count_parameters(surgeon.model)

    def remove(self, cuts: Sequence[Cut]) -> None:
        """Remove channels in place, along with everything coupled to them."""
        for cut in cuts:
            self._group(cut.group, cut.channels).prune()

    def consumers(self, cuts: Sequence[Cut]) -> dict[str, tuple[int, list[int]]]:
        """Return the readers of the removed channels: module name -> input axis, and the channels on it."""
        by_name: dict[str, tuple[int, set[int]]] = {}
        for cut in cuts:
            for dependency, channels in self._group(cut.group, cut.channels):
                module, is_input = (
                    dependency.target.module,
                    self.graph.is_in_channel_pruning_fn(dependency.handler),
                )
                if (
                    is_input
                    and not self.graph.is_out_channel_pruning_fn(dependency.handler)
                    and module in self.names
                ):
                    axis = 1 if isinstance(module, _CONVOLUTIONS) else -1
                    by_name.setdefault(self.names[module], (axis, set()))[1].update(channels)
        return {name: (axis, sorted(channels)) for name, (axis, channels) in by_name.items()}

    def _groups(self) -> Iterator[ChannelGroup]:
        # The widest first: a group wrongly coupled with a narrower one is then reported under its own name.
        roots = sorted(
            (root for root in self.graph.module2node if isinstance(root, _CONVOLUTIONS)),
            key=lambda root: -root.out_channels,
        )
        seen: set[nn.Module] = set()
        for root in roots:
            if root in seen:
                continue
            name, width = self.names[root], root.out_channels
            if any(_multiplies_activations(node.module) for node in self._reachable_nodes(root)):
                # torch-pruning would trace indices for minutes, and end with wrong ones.
                self.unprunable[name] = "attention multiplies its channels with one another"
                continue
            try:
                group = self.graph.get_pruning_group(
                    root, tp.prune_conv_out_channels, idxs=list(range(width))
                )
            except Exception as error:
                if is_exhaustion(error):
                    raise
                self.unprunable[name] = "what it is coupled to cannot be determined"
                continue
            seen.update(
                dependency.target.module
                for dependency, _ in group
                if self.graph.is_out_channel_pruning_fn(dependency.handler)
            )
            if self._must_stay_whole(group):
                continue
            repeats = self._repeats(group)
            if repeats is None:
                self.unprunable[name] = "its groups of channels do not line up"
            else:
                yield ChannelGroup(root, name, width, repeats)

    def _reachable_nodes(self, root: nn.Module) -> Iterator[Any]:
        """Yield the nodes reached by the channels of `root`; a concatenation does not lead back to its other inputs."""
        first = tp.prune_depthwise_conv_out_channels if _depthwise(root) else tp.prune_conv_out_channels
        queue = [(self.graph.module2node[root], first)]
        seen = set(queue)
        while queue:
            node, handler = queue.pop()
            yield node
            for dependency in node.dependencies:
                step = (dependency.target, dependency.handler)
                apart = node.type == tp.ops.OPTYPE.CONCAT and dependency.target in node.inputs
                if dependency.is_triggered_by(handler) and step not in seen and not apart:
                    seen.add(step)
                    queue.append(step)

    def _group(self, group: ChannelGroup, channels: Sequence[int]) -> Any:
        return self.graph.get_pruning_group(group.root, tp.prune_conv_out_channels, idxs=list(channels))

    def _must_stay_whole(self, group: Any) -> bool:
        """Whether a group must stay whole.

        That is if it reaches the model's outputs, or nothing but a depthwise convolution of the model's input makes its
        channels.
        """
        has_producer = False
        for dependency, _ in group:
            node, module = dependency.target, dependency.target.module
            if not self.graph.is_out_channel_pruning_fn(dependency.handler):
                continue
            if not node.outputs:
                return True
            has_producer = (
                has_producer
                or isinstance(module, nn.Linear)
                or (isinstance(module, _CONVOLUTIONS) and not _depthwise(module))
            )
        return not has_producer

    def _repeats(self, group: Any) -> int | None:
        """Return how often the pattern of removed channels must repeat in a group; None if that is impossible.

        Repetition keeps the groups of grouped convolutions and group norms equally wide; it fails if they do not line
        up.
        """
        width, grouped = len(group[0].idxs), set()
        for dependency, channels in group:
            module = dependency.target.module
            if isinstance(module, _CONVOLUTIONS):
                count = 1 if _depthwise(module) else module.groups
            elif isinstance(module, nn.GroupNorm):
                count = 1 if module.num_groups == module.num_channels else module.num_groups
            else:
                continue
            if count > 1:
                if len(set(channels)) != width:
                    return None
                grouped.add(count)
        repeats = max(grouped, default=1)
        return repeats if all(repeats % count == 0 for count in grouped) else None


def _depthwise(module: Any) -> bool:
    return bool(module.groups == module.in_channels == module.out_channels and module.groups > 1)


def _multiplies_activations(operation: Any) -> bool:
    name = str(getattr(operation, "_grad_fn", "")).lower()
    return any(word in name for word in _PRODUCT_NAMES)


@contextmanager
def _gradients_enabled(model: nn.Module) -> Iterator[None]:
    """Context manager that lets gradients flow through frozen weights too: dependencies are traced along them."""
    frozen = [each for each in model.parameters() if each.is_floating_point() and not each.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def short_message(error: Exception) -> str:
    """Return the first line of a library's error, shortened."""
    first = first_line(error)
    return first if len(first) <= 160 else f"{first[:157]}..."


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model, including weights that a module computes from others and caches (the older weight_norm)."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)


def kept_widths(groups: Sequence[ChannelGroup], fraction: float, round_to: int) -> list[int]:
    """Return how many channels of each group remain when `fraction` is removed; a group too narrow is left whole.

    Raises:
        ModelError: no group would lose anything.
    """
    kept = [kept_channels(group.width, fraction, multiple_of(group, round_to)) for group in groups]
    if not any(left < group.width for group, left in zip(groups, kept, strict=True)):
        widths = ", ".join(str(width) for width in sorted({group.width for group in groups}))
        raise ModelError(
            f"{fraction:g} of the channels of convolutions with {widths or 'no removable'} channels, the rest rounded "
            f"to a multiple of {round_to}: nothing would be removed",
            where="prune.remove.channels",
            hint="Raise the fraction, or lower `round_to`.",
            code="nothing-to-prune",
        )
    return kept


def widths_within(surgeon: ChannelSurgeon, target: PruneTargetSpec, round_to: int) -> list[int]:
    """Return the channels that remain of each group for the smallest common fraction that reaches a size or a ratio.

    Raises:
        PassError: the target is not reached with the fewest channels, or the model is already within it.
    """
    total, groups = surgeon.count_remaining([]), surgeon.groups
    limit = ParameterLimit.of(target, total, total)

    def kept_at(part: int) -> list[int]:
        return [
            kept_channels(group.width, part / FRACTION_STEPS, multiple_of(group, round_to))
            for group in groups
        ]

    def parameters(step: int) -> int:
        # The number of remaining parameters does not depend on which channels are removed.
        zeros = [torch.zeros(group.width) for group in groups]
        return surgeon.count_remaining(choose_cuts(groups, zeros, kept_at(step)))

    if total <= limit.limit:
        raise PassError(
            f"{limit.what}: the model is already within that, so nothing would be removed",
            where=limit.where,
        )
    step = bisect_left(range(FRACTION_STEPS), True, key=lambda part: parameters(part) <= limit.limit)
    if step == FRACTION_STEPS and (minimum := parameters(FRACTION_STEPS)) > limit.limit:
        raise PassError(
            f"{limit.what} cannot be reached: with the fewest channels {minimum:,} of {total:,} parameters remain",
            where=limit.where,
            hint="Ask for less, or lower `round_to`.",
        )
    return kept_at(step)


def multiple_of(group: ChannelGroup, round_to: int) -> int:
    """Return the multiple to which the width of a group is rounded: all its repeats keep equal widths."""
    return math.lcm(round_to, group.repeats)


def choose_cuts(groups: Sequence[ChannelGroup], scores: Sequence[Tensor], kept: Sequence[int]) -> list[Cut]:
    """Select the least important channels of each group that is wider than its target width.

    Args:
        scores: float (width,) for each group.
        kept: number of channels to keep, for each group.
    """
    cuts = []
    for group, importance, num_kept in zip(groups, scores, kept, strict=True):
        if num_kept < group.width:
            period = importance.reshape(group.repeats, -1).mean(dim=0)
            places = least_important(period, (group.width - num_kept) // group.repeats)
            cuts.append(Cut(group, tuple(group.channels(places))))
    return cuts
