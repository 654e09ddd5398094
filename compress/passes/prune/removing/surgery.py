"""Remove heads and feed-forward units from an encoder, with the coupled layers that torch-pruning finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import Encoder, Layer
from compress.models.anatomy.factors import input_linear, output_linear
from compress.models.io.outputs import outputs_of
from compress.passes.prune.choosing.importance import LayerScores, channels_of_heads, head_scores


class Surgeon:
    """Dependency graph of an encoder: the layers coupled with each head and feed-forward unit.

    DepGraph: Fang et al., Towards Any Structural Pruning, 2023 (arXiv:2301.12900).
    """

    def __init__(self, encoder: Encoder, example: Mapping[str, Tensor]) -> None:
        """Trace the encoder on an example batch.

        Raises:
            ModelError: the attention or feed-forward part is coupled with unexpected layers.
        """
        self.encoder = encoder
        self.graph = tp.DependencyGraph().build_dependency(
            encoder.model, example_inputs=dict(example), output_transform=outputs_of, verbose=False
        )
        for layer in encoder.layers:
            self._group(output_linear(layer.query), range(layer.query.out_features), _attention(layer))
            self._group(output_linear(layer.feed_in), range(layer.feed_forward), _feed_forward(layer))

    def scores(self, importance: Any) -> list[LayerScores]:
        """Score the parts of each layer with one of torch-pruning's importances."""
        return [
            LayerScores(
                head_scores(
                    importance(
                        self._group(
                            output_linear(layer.query), range(layer.query.out_features), _attention(layer)
                        )
                    ),
                    layer.head_size,
                ),
                importance(
                    self._group(output_linear(layer.feed_in), range(layer.feed_forward), _feed_forward(layer))
                ),
            )
            for layer in self.encoder.layers
        ]

    def remove(self, layer: Layer, heads: Sequence[int], units: Sequence[int]) -> None:
        """Remove heads and feed-forward units of a layer, in place, along with everything coupled to them."""
        if heads:
            channels = channels_of_heads(heads, layer.head_size)
            self._group(output_linear(layer.query), channels, _attention(layer)).prune()
            # torch-pruning does not update the head counts of the attention module.
            layer.update_head_count()
        if units:
            self._group(output_linear(layer.feed_in), units, _feed_forward(layer)).prune()

    def _group(self, root: nn.Linear, channels: Sequence[int], expected: set[nn.Linear]) -> Any:
        group = self.graph.get_pruning_group(root, tp.prune_linear_out_channels, idxs=list(channels))
        coupled = {part.target.module for part, _ in group if _has_weights(part.target.module)}
        if coupled != expected:
            raise ModelError(
                f"cannot prune this model: {len(coupled)} layers are coupled where an encoder has {len(expected)}"
            )
        return group


def _attention(layer: Layer) -> set[nn.Linear]:
    return {
        output_linear(layer.query),
        output_linear(layer.key),
        output_linear(layer.value),
        input_linear(layer.attention_output),
    }


def _feed_forward(layer: Layer) -> set[nn.Linear]:
    return {output_linear(layer.feed_in), input_linear(layer.feed_out)}


def _has_weights(module: nn.Module) -> bool:
    return isinstance(module, nn.Module) and any(True for _ in module.parameters())
