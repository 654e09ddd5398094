"""Choose and run the pruner of a model: parts of an encoder or decoder, or channels of convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.decoder import decoder_of
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.factors import Factored
from compress.models.io.checkpoints import count_parameters
from compress.passes.prune.choosing.budget import Budget
from compress.passes.prune.choosing.counting import CONVOLUTIONS
from compress.passes.prune.choosing.prediction import kept_channels
from compress.passes.prune.choosing.saliency import (
    ImportanceData,
    saliency_as_weights,
    sum_over_group,
    weight_saliency,
)
from compress.passes.prune.choosing.selection import remaining_count
from compress.passes.prune.removing.channels import (
    ChannelSurgeon,
    Cut,
    choose_cuts,
    kept_widths,
    multiple_of,
    widths_within,
)
from compress.passes.prune.removing.cut_check import safe_cuts
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.passes.prune.removing.encoders import EncoderPruner, plain_scores
from compress.passes.prune.spec import PruneSpec

TRIAL_FRACTION = 0.5
"""Fraction of every group that is tried if a target determines how much is removed."""


def check_request(model: nn.Module, spec: PruneSpec) -> None:
    """Check that a model has what is to be removed; for decoders, their pruner checks.

    Raises:
        ModelError: the model has no convolutions for `channels`, is not an encoder of a known family for encoder parts,
            or has factored maps and a latency target.
    """
    if decoder_of(model) is not None:
        return
    reason = _no_encoder(model)
    remove, target = spec.remove, spec.target
    convolutions = any(isinstance(module, CONVOLUTIONS) for module in model.modules())
    if target is not None:
        if reason is not None and (target.depends_on_timing or not convolutions):
            chosen = "for a latency" if target.depends_on_timing else "for a target"
            raise ModelError(
                f"heads and feed-forward widths are chosen {chosen}, but this model has none: {reason.message}",
                where="prune.target",
                hint="For convolutions use `ratio` or `size_mb`, or remove `channels`.",
            )
        if target.depends_on_timing and any(isinstance(module, Factored) for module in model.modules()):
            raise ModelError(
                "latencies cannot be predicted for factored maps, and this model has them",
                where="prune.target",
                hint="Prune before `low_rank`, or use `ratio` or `size_mb`.",
            )
    if remove is None:
        return
    if remove.channels:
        if reason is None:
            raise ModelError(
                "this model is a transformer: it has no convolutions to remove channels from",
                where="prune.remove.channels",
                hint="Remove `heads` and `feed_forward` instead.",
            )
        if not convolutions:
            raise ModelError("this model has no convolutions", where="prune.remove.channels")
    for key in ("heads", "feed_forward", "layers", "hidden"):
        if getattr(remove, key) and reason is not None:
            raise ModelError(
                f"this model has no removable {key.replace('_', '-')}: {reason.message}",
                where=f"prune.remove.{key}",
                hint="From a model with convolutions remove `channels`.",
            )


def takes_channels(model: nn.Module, spec: PruneSpec) -> bool:
    """Whether the spec removes channels of convolutions from this model, which has passed `check_request`."""
    if spec.remove is not None:
        return spec.remove.channels > 0
    return decoder_of(model) is None and _no_encoder(model) is not None


def _no_encoder(model: nn.Module) -> ModelError | None:
    """Return the error why a model is not an encoder of a known family; None if it is one."""
    try:
        encoder_of(model)
    except ModelError as error:
        return error
    return None


class ChannelPruner:
    """Prunes the convolutions of a model to the requested widths; see `EncoderPruner`.

    `unprunable`: channel groups that cannot be pruned, by the name of their first convolution, with the reason.
    """

    def __init__(self, model: nn.Module, data: ImportanceData) -> None:
        """Compute the target widths from the current model, after a trial of a cut of that size.

        Raises:
            ModelError: nothing could or would be removed.
            PassError: the target cannot be reached.
        """
        self.model = model
        self.data = data
        spec, example = data.spec, data.example_batch()
        surgeon = ChannelSurgeon(model, example)
        self.parameters = count_parameters(model)
        fraction = TRIAL_FRACTION if spec.remove is None else spec.remove.channels
        where = "prune.target" if spec.remove is None else "prune.remove.channels"
        trial = safe_cuts(model, example, self._blind_cuts(surgeon, fraction))
        self.unprunable = {**surgeon.unprunable, **trial.unprunable}
        if not trial.cuts and self.unprunable:
            raise nothing_to_prune_error(self.unprunable, where)
        surgeon = ChannelSurgeon(model, example, self.unprunable)
        self.original_widths = {group.name: group.width for group in surgeon.groups}
        self.widths = dict(self.original_widths)
        if spec.remove is not None:
            kept = kept_widths(surgeon.groups, spec.remove.channels, spec.round_to)
        else:
            assert spec.target is not None
            kept = widths_within(surgeon, spec.target, spec.round_to)
        self._goals = {
            group.name: (final, multiple_of(group, spec.round_to))
            for group, final in zip(surgeon.groups, kept, strict=True)
        }

    def advance(self, share: float) -> None:
        """Prune until `share` of the total removal is done; 1: all of it.

        Widths are rounded, so a step before the last may find nothing to remove and leave the model unchanged.
        """
        widths = {
            name: remaining_count(self.original_widths[name], final, share, multiple)
            for name, (final, multiple) in self._goals.items()
        }
        if widths == self.widths:
            return
        example = self.data.example_batch()
        surgeon = ChannelSurgeon(self.model, example, self.unprunable)
        kept = [widths[group.name] for group in surgeon.groups]
        cuts = choose_cuts(surgeon.groups, self._scores(surgeon), kept)
        trial = safe_cuts(self.model, example, cuts)
        self.unprunable |= trial.unprunable
        surgeon.remove(trial.cuts)
        self.parameters = trial.parameters
        cut = {each.group.name for each in trial.cuts}
        self.widths = {name: widths[name] if name in cut else width for name, width in self.widths.items()}

    def describe_layers(self) -> list[dict[str, Any]]:
        """Describe each group of coupled convolutions that lost channels: `name`, `channels` and `channels_removed`."""
        return [
            {"name": name, "channels": self.widths[name], "channels_removed": original - self.widths[name]}
            for name, original in self.original_widths.items()
            if self.widths[name] < original
        ]

    def unpruned_groups(self) -> dict[str, str]:
        """Return the groups that lost nothing, by name, with the reason."""
        too_narrow = {
            name: f"{width} channels are too few to remove a multiple of {self._goals[name][1]}"
            for name, width in self.widths.items()
            if width == self.original_widths[name] and name not in self.unprunable
        }
        return {**self.unprunable, **too_narrow}

    def _blind_cuts(self, surgeon: ChannelSurgeon, fraction: float) -> list[Cut]:
        """Return cuts of a fraction of each group that is wide enough, with channels drawn at random."""
        spec, random = self.data.spec, torch.Generator().manual_seed(self.data.seed)
        kept = [
            kept_channels(group.width, fraction, multiple_of(group, spec.round_to))
            for group in surgeon.groups
        ]
        drawn = [torch.rand(group.width, generator=random) for group in surgeon.groups]
        return choose_cuts(surgeon.groups, drawn, kept)

    def _scores(self, surgeon: ChannelSurgeon) -> Sequence[Tensor]:
        if self.data.spec.importance in ("hessian", "activation"):
            with saliency_as_weights(weight_saliency(self.model, self.data)):
                return surgeon.scores(sum_over_group())
        return plain_scores(surgeon, self.model, self.data)


def nothing_to_prune_error(unprunable: Mapping[str, str], where: str) -> ModelError:
    """Return the error for a model in which no group can lose a channel."""
    return ModelError(
        f"no channels of this model can be removed: {describe_unprunable(unprunable)}",
        where=where,
        hint="Leave `prune` out, or rewrite what blocks it so that it follows the widths of its inputs.",
        code="nothing-to-prune",
    )


def describe_unprunable(unprunable: Mapping[str, str], max_groups: int = 5) -> str:
    """Describe the groups that stay whole, with reasons, as part of a sentence."""
    descriptions = [f"{name} ({why})" for name, why in [*unprunable.items()][:max_groups]]
    return "; ".join(descriptions) + (
        "" if len(unprunable) <= max_groups else f"; and {len(unprunable) - max_groups} more"
    )


Pruner = EncoderPruner | DecoderPruner | ChannelPruner


def pruner_of(model: nn.Module, data: ImportanceData, budget: Budget | None = None) -> Pruner:
    """Return the pruner of a model for a spec.

    Raises:
        PassError: a fraction removes nothing or everything.
        ModelError: the model does not have what is to be removed, or cannot lose it.
    """
    check_request(model, data.spec)
    if takes_channels(model, data.spec):
        return ChannelPruner(model, data)
    if decoder_of(model) is not None:
        assert isinstance(model, PreTrainedModel)
        return DecoderPruner(model, data)
    return EncoderPruner(model, data, budget)
