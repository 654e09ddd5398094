"""Remove dimensions of an encoder's residual stream from everything that reads or writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import Encoder
from compress.models.anatomy.factors import input_linear, output_linear
from compress.models.io.outputs import outputs_of
from compress.passes.prune.choosing.counting import count_remaining
from compress.passes.prune.choosing.importance import least_important


@dataclass(frozen=True)
class Narrowing:
    """Indices to remove: dimensions of the stream, and outputs of the head's inner map."""

    stream: tuple[int, ...]
    inner: tuple[int, ...]


class StreamSurgeon:
    """Dependency graph of an encoder's residual stream, by torch-pruning (Fang et al. 2023, arXiv:2301.12900)."""

    def __init__(self, encoder: Encoder, example: Mapping[str, Tensor]) -> None:
        """Trace the encoder on an example batch.

        Raises:
            ModelError: the residual stream is coupled with unexpected layers.
        """
        self.encoder = encoder
        self.graph = tp.DependencyGraph().build_dependency(
            encoder.model, example_inputs=dict(example), output_transform=outputs_of, verbose=False
        )
        coupled = {
            part.target.module
            for part, _ in self._group(range(encoder.hidden_size))
            if isinstance(part.target.module, nn.Linear | nn.Embedding | nn.LayerNorm | nn.Conv2d)
        }
        if coupled != _stream_modules(encoder):
            raise ModelError(
                "the residual stream of this model is not coupled with its layers as in an encoder",
                where="prune.remove.hidden",
            )

    def least_important(self, importance: Any, count: int) -> Narrowing:
        """Return the `count` least important dimensions of the stream, by one of torch-pruning's importances.

        If the head's inner map is as wide as the stream, as configs require, it loses as many outputs.
        """
        stream = least_important(importance(self._group(range(self.encoder.hidden_size))), count)
        inner = self._head_inner_linear()
        if inner is None:
            return Narrowing(stream, ())
        return Narrowing(
            stream, least_important(importance(self._inner_group(range(inner.out_features))), count)
        )

    def count_remaining(self, narrowing: Narrowing) -> int:
        """Return the number of parameters of the model after a narrowing."""
        return count_remaining(self.encoder.model, self.graph, self._groups(narrowing))

    def remove(self, narrowing: Narrowing) -> None:
        """Narrow the model in place."""
        for group in self._groups(narrowing):
            group.prune()
        for module in _stream_modules(self.encoder):
            if isinstance(module, nn.LayerNorm):
                module.normalized_shape = (module.weight.shape[0],)

    def _groups(self, narrowing: Narrowing) -> list[Any]:
        inner = [self._inner_group(narrowing.inner)] if narrowing.inner else []
        return [self._group(narrowing.stream), *inner]

    def _head_inner_linear(self) -> nn.Linear | None:
        """Return the inner map of the head if it is as wide as the stream."""
        dense = self.encoder.head_dense
        has_inner = self.encoder.head_out is not None and dense is not None
        return (
            dense
            if has_inner and dense is not None and dense.out_features == self.encoder.hidden_size
            else None
        )

    def _inner_group(self, outputs: Sequence[int]) -> Any:
        return self.graph.get_pruning_group(
            self._head_inner_linear(), tp.prune_linear_out_channels, idxs=list(outputs)
        )

    def _group(self, dimensions: Sequence[int]) -> Any:
        root = output_linear(self.encoder.layers[0].attention_output)
        return self.graph.get_pruning_group(root, tp.prune_linear_out_channels, idxs=list(dimensions))


def _stream_modules(encoder: Encoder) -> set[nn.Module]:
    """Return the modules that read or write the residual stream."""
    modules: list[nn.Module | None] = [encoder.final_norm, encoder.patches]
    if encoder.projection is not None:
        modules.append(encoder.projection)
    else:
        modules += [encoder.words, encoder.positions, encoder.token_types, encoder.embedding_norm]
    modules += (
        [encoder.head_dense] if encoder.head_dense is not None else [encoder.head_out, encoder.head_teacher]
    )
    for layer in encoder.layers:
        modules += [layer.attention_norm, layer.output_norm]
        modules += [input_linear(each) for each in (layer.query, layer.key, layer.value, layer.feed_in)]
        modules += [output_linear(layer.attention_output), output_linear(layer.feed_out)]
    return {module for module in modules if module is not None}
