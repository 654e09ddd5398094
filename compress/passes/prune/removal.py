"""What goes, by importance: heads and feed-forward width of an encoder, or channels of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.errors import ModelError
from compress.models.families import Encoder, encoder_of, feed_forward_key, transformer_of
from compress.models.outputs import outputs_of
from compress.passes.prune.channels import CONVOLUTIONS, ChannelSurgeon, Cut, choose_cuts
from compress.passes.prune.importance import LayerScores, least_important, sum_of_scores
from compress.passes.prune.prediction import kept_heads, kept_width
from compress.passes.prune.surgery import Surgeon
from compress.profile.pass_specs import PruneSpec, RemoveSpec
from compress.tasks.base import Inputs
from compress.training.batches import shuffled_batches, to_tensors
from compress.training.losses import label_cross_entropy

BATCH_SIZE = 32
"""Examples a batch that `taylor` reads."""

Scores = TypeVar("Scores", LayerScores, Tensor)


def check_request(model: nn.Module, remove: RemoveSpec) -> None:
    """Refuse to remove what a model does not have.

    Raises:
        ModelError: channels of a model without convolutions, or heads and feed-forward width of one that is no
            encoder of a known family.
    """
    try:
        encoder_of(model)
        reason: ModelError | None = None
    except ModelError as error:
        reason = error
    if remove.channels:
        if reason is None:
            raise ModelError(
                "this model is a transformer: it has no convolutions that could lose channels",
                where="prune.remove.channels",
                hint="Remove `heads` and `feed_forward` instead.",
            )
        if not any(isinstance(module, CONVOLUTIONS) for module in model.modules()):
            raise ModelError("this model has no convolutions", where="prune.remove.channels")
    if remove.heads or remove.feed_forward:
        asked = "heads" if remove.heads else "feed_forward"
        if reason is not None:
            raise ModelError(
                f"this model has no {asked.replace('_', '-')} that could be removed: {reason.message}",
                where=f"prune.remove.{asked}",
                hint="Of a model with convolutions remove `channels`.",
            )


def prune(
    model: nn.Module, inputs: Inputs, labels: Tensor | None, spec: PruneSpec, seed: int, device: str
) -> tuple[list[dict[str, Any]], int | None]:
    """Remove the least important parts of every layer, in place.

    Args:
        inputs: the training examples, encoded for the model.
        labels: int64 (n,), theirs; None where the outputs are embeddings.

    Returns:
        For each layer what is left and what was removed: `heads`, `feed_forward`, `heads_removed` (indices) and
        `feed_forward_removed` (how many); or, where channels are removed, for each group of coupled convolutions
        `name`, `channels` and `channels_removed`. And for channels the parameters that the plan of groups foretold.

    Raises:
        PassError: a fraction removes nothing or everything.
        ModelError: the model does not have what is to be removed.
    """
    check_request(model, spec.remove)
    batches = shuffled_batches(inputs.lengths, BATCH_SIZE, seed=seed, epoch=0)
    example = to_tensors(inputs.batch(batches[0][:2]), device)

    def measured(surgeon: Surgeon | ChannelSurgeon) -> list[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if spec.importance == "taylor":
                chosen = batches[: spec.importance_batches]
                return sum_of_scores(_taylor(surgeon.scores, model, inputs, labels, chosen, device))
            magnitude = spec.importance == "magnitude"
            kind = tp.importance.GroupMagnitudeImportance if magnitude else tp.importance.RandomImportance
            return list(surgeon.scores(kind()))

    if spec.remove.channels:
        channels = ChannelSurgeon(model, example)
        cuts = choose_cuts(channels.groups, measured(channels), spec.remove.channels, spec.round_to)
        predicted = channels.remaining(cuts)
        channels.remove(cuts)
        return [_described(cut) for cut in cuts], predicted
    encoder = encoder_of(model)
    surgeon = Surgeon(encoder, example)
    removed = [
        _remove(surgeon, encoder, index, scores, spec) for index, scores in enumerate(measured(surgeon))
    ]
    widths = {layer.feed_forward for layer in encoder.layers}
    if len(widths) == 1:
        # The config can say this, so the model stays as regular as it can be.
        setattr(transformer_of(model).config, feed_forward_key(model), widths.pop())
    return removed, None


def _described(cut: Cut) -> dict[str, Any]:
    return {
        "name": cut.group.name,
        "channels": cut.group.width - len(cut.channels),
        "channels_removed": len(cut.channels),
    }


def _remove(
    surgeon: Surgeon, encoder: Encoder, index: int, scores: LayerScores, spec: PruneSpec
) -> dict[str, Any]:
    layer = encoder.layers[index]
    lost_heads = layer.heads - kept_heads(layer.heads, spec.remove.heads)
    width = kept_width(layer.feed_forward, spec.remove.feed_forward, spec.round_to)
    heads = least_important(scores.heads, lost_heads)
    units = least_important(scores.feed_forward, layer.feed_forward - width)
    surgeon.remove(layer, heads, units)
    return {
        "heads": layer.heads,
        "feed_forward": layer.feed_forward,
        "heads_removed": list(heads),
        "feed_forward_removed": len(units),
    }


def _taylor(
    scores: Callable[[Any], Sequence[Scores]],
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor | None,
    batches: list[Any],
    device: str,
) -> Iterator[Sequence[Scores]]:
    """First-order Taylor scores, a batch at a time: how much the loss on the labels would change.

    Embeddings have no labels: there it is how far the outputs would move, along a random direction of each example.
    """
    importance = tp.importance.GroupTaylorImportance()
    for indices in batches:
        model.zero_grad(set_to_none=True)
        outputs = outputs_of(model(**to_tensors(inputs.batch(indices), device)))
        if labels is None:
            loss = (outputs * torch.randn(outputs.shape).to(outputs.device)).sum()
        else:
            loss = label_cross_entropy(outputs, labels[torch.from_numpy(indices)].to(device))
        torch.autograd.backward(loss)
        yield scores(importance)
    model.zero_grad(set_to_none=True)
