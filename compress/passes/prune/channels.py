"""Removing channels from the convolutions of any model, with whatever is coupled to them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.errors import PassError
from compress.models.outputs import outputs_of
from compress.passes.prune.budget import ParameterLimit
from compress.passes.prune.counting import CONVOLUTIONS, remaining
from compress.passes.prune.importance import least_important
from compress.passes.prune.prediction import kept_channels
from compress.profile.prune_spec import PruneTargetSpec

PARTS = 1000
"""Fractions that are tried for a target."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only go together: those of `root` and of all layers that are added to or follow it.

    `width` channels; `repeats` > 1 where a grouped convolution wants the same channels of each of its groups removed.
    """

    root: nn.Module
    name: str
    width: int
    repeats: int

    def channels(self, places: Sequence[int]) -> list[int]:
        """The channels at places within a repeat, in all of them."""
        period = self.width // self.repeats
        return [repeat * period + place for repeat in range(self.repeats) for place in places]


@dataclass(frozen=True)
class Cut:
    """Channels of a group to remove."""

    group: ChannelGroup
    channels: tuple[int, ...]


class ChannelSurgeon:
    """The dependency graph of a model with convolutions.

    DepGraph: Fang et al., Towards Any Structural Pruning, 2023 (arXiv:2301.12900), by torch-pruning: sums of branches,
    concatenations, depthwise and grouped convolutions, norms, and the columns of a linear map after flattening.
    """

    def __init__(self, model: nn.Module, example: Mapping[str, Tensor]) -> None:
        """Trace the model on an example batch."""
        self.model = model
        self.graph = tp.DependencyGraph().build_dependency(
            model, example_inputs=dict(example), output_transform=outputs_of, verbose=False
        )
        names = {module: name for name, module in model.named_modules()}
        self.groups = tuple(
            ChannelGroup(root, names[root], len(group[0].idxs), repeats)
            for group in self.graph.get_all_groups(root_module_types=CONVOLUTIONS)
            if (repeats := self._repeats(group)) is not None
            for root in [group[0].dep.target.module]
        )

    def scores(self, importance: Any) -> list[Tensor]:
        """The scores that an importance of torch-pruning gives the channels of each group, float (width,) each."""
        return [importance(self._group(group, range(group.width))) for group in self.groups]

    def remaining(self, cuts: Sequence[Cut]) -> int:
        """The parameters that the model will have after the cuts, counted from shapes; nothing is changed."""
        return remaining(self.model, self.graph, (self._group(cut.group, cut.channels) for cut in cuts))

    def remove(self, cuts: Sequence[Cut]) -> None:
        """Remove channels in place, with what is coupled to them."""
        for cut in cuts:
            self._group(cut.group, cut.channels).prune()

    def _group(self, group: ChannelGroup, channels: Sequence[int]) -> Any:
        return self.graph.get_pruning_group(group.root, tp.prune_conv_out_channels, idxs=list(channels))

    def _repeats(self, group: Any) -> int | None:
        """How often the pattern of removed channels must repeat in a group; None where it must stay whole.

        It stays where it reaches the model's outputs, where nothing but the model's input makes its channels (a
        depthwise convolution of the image), and where groups of channels do not line up.
        """
        width, made = len(group[0].idxs), False
        grouped = set()
        for dependency, channels in group:
            node, module = dependency.target, dependency.target.module
            out = self.graph.is_out_channel_pruning_fn(dependency.handler)
            if out and not node.outputs:
                return None
            if not isinstance(module, CONVOLUTIONS):
                made = made or (out and isinstance(module, nn.Linear))
                continue
            depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
            made = made or (out and not depthwise)
            if module.groups > 1 and not depthwise:
                if len(set(channels)) != width:
                    return None
                grouped.add(module.groups)
        repeats = max(grouped, default=1)
        return repeats if made and all(repeats % count == 0 for count in grouped) else None


def kept_widths(groups: Sequence[ChannelGroup], fraction: float, round_to: int) -> list[int]:
    """How many channels of each group stay when `fraction` of them goes; one too narrow to lose any stays as it is.

    Raises:
        PassError: no group would lose anything.
    """
    kept = [kept_channels(group.width, fraction, multiple_of(group, round_to)) for group in groups]
    if not any(left < group.width for group, left in zip(groups, kept, strict=True)):
        widths = ", ".join(str(width) for width in sorted({group.width for group in groups}))
        raise PassError(
            f"{fraction:g} of the channels of convolutions with {widths or 'no removable'} channels, the rest rounded "
            f"to a multiple of {round_to}: nothing would be removed",
            where="prune.remove.channels",
            hint="Raise the fraction, or lower `round_to`.",
        )
    return kept


def widths_within(surgeon: ChannelSurgeon, target: PruneTargetSpec, round_to: int) -> list[int]:
    """How many channels of each group stay when the smallest fraction of all that reaches a size or a ratio goes.

    Raises:
        PassError: the target is not reached with the fewest channels, or nothing has to be removed for it.
    """
    whole, groups = surgeon.remaining([]), surgeon.groups
    asked = ParameterLimit.of(target, whole, whole)

    def kept(part: int) -> list[int]:
        return [kept_channels(group.width, part / PARTS, multiple_of(group, round_to)) for group in groups]

    def parameters(part: int) -> int:
        # Which channels go changes nothing of how many parameters stay.
        zeros = [torch.zeros(group.width) for group in groups]
        return surgeon.remaining(choose_cuts(groups, zeros, kept(part)))

    if whole <= asked.limit:
        raise PassError(
            f"{asked.what}: the model has no more than that already, nothing would be removed",
            where=asked.where,
        )
    part = bisect_left(range(PARTS), True, key=lambda part: parameters(part) <= asked.limit)
    if part == PARTS and (least := parameters(PARTS)) > asked.limit:
        raise PassError(
            f"{asked.what} cannot be reached: with the fewest channels {least:,} of {whole:,} parameters stay",
            where=asked.where,
            hint="Ask for less, or lower `round_to`.",
        )
    return kept(part)


def multiple_of(group: ChannelGroup, round_to: int) -> int:
    """What the width of a group is rounded to: all its repeats stay equally wide."""
    return math.lcm(round_to, group.repeats)


def choose_cuts(groups: Sequence[ChannelGroup], scores: Sequence[Tensor], kept: Sequence[int]) -> list[Cut]:
    """The least important channels of each group that is wider than what stays of it.

    Args:
        scores: float (width,), for each group.
        kept: how many channels stay, for each group.
    """
    cuts = []
    for group, importance, left in zip(groups, scores, kept, strict=True):
        if left < group.width:
            period = importance.reshape(group.repeats, -1).mean(dim=0)
            places = least_important(period, (group.width - left) // group.repeats)
            cuts.append(Cut(group, tuple(group.channels(places))))
    return cuts
