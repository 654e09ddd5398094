"""Filling a student with its teacher's weights: copied where the shapes are equal, projected where it is narrower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.anatomy.attention_heads import Heads
from compress.models.anatomy.encoder import Encoder, Layer
from compress.models.anatomy.factors import Factored, Map, output_linear
from compress.models.anatomy.stream import Stream
from compress.models.students.projection import (
    Moments,
    StreamReader,
    important_neurons,
    narrow_norm,
    narrowing_basis,
    norm_gain,
)


@dataclass(frozen=True)
class _Narrowing:
    """How each kind of weight is projected to a student of fewer dimensions."""

    basis: Tensor
    norm_first: bool

    def reader(self, norm: nn.LayerNorm, seen: Moments) -> StreamReader:
        """Return the reader for layers that read the output of a norm."""
        if self.norm_first:
            return StreamReader.of_norm(self.basis, seen.mean, norm.weight, norm.bias)
        return StreamReader.of_stream(self.basis, seen.scaled(norm.weight, norm.bias).mean)

    def write(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Project a layer that writes to the residual stream: weight (d, in) -> (k, in)."""
        weight = self.basis.T @ weight.detach().double()
        return weight, None if bias is None else self.basis.T @ bias.detach().double()

    def put_norm(self, old: nn.LayerNorm, new: nn.LayerNorm, seen: Moments) -> None:
        if self.norm_first:
            new.weight.fill_(norm_gain(seen.square, self.basis))
            new.bias.zero_()
        else:
            scale, shift = narrow_norm(old.weight, old.bias, seen, self.basis)
            _put(new.weight, scale)
            _put(new.bias, shift)


def cut(old: Encoder, new: Encoder, layers: Sequence[int]) -> None:
    """Fill a student of the teacher's width from the given layers; parts of equal shape are copied exactly."""
    for theirs, mine in _tables(old, new):
        mine.copy_(theirs)
    for name in _ENDS:
        theirs_module, mine_module = getattr(old, name), getattr(new, name)
        if theirs_module is not None and mine_module is not None:
            _copy(theirs_module, mine_module)
    for place, source in zip(new.layers, layers, strict=True):
        _fill_layer(old.layers[source], place, None, None, None)


def project(old: Encoder, new: Encoder, layers: Sequence[int], stream: Stream) -> None:
    """Fill a narrower student from the given layers, projected on the principal directions of the hidden states.

    Args:
        stream: moments of the teacher, for all its layers.
    """
    narrowing = _Narrowing(
        narrowing_basis(stream_square(old, layers, stream), new.hidden_size), old.norm_first
    )
    behind = _project_embedding(old, new, narrowing, stream)
    for place, source in zip(new.layers, layers, strict=True):
        theirs = old.layers[source]
        first, second = stream.attention[source], stream.output[source]
        before = narrowing.reader(theirs.attention_norm, first)
        between = narrowing.reader(theirs.output_norm, second)
        narrowing.put_norm(theirs.attention_norm, place.attention_norm, first)
        narrowing.put_norm(theirs.output_norm, place.output_norm, second)
        if old.norm_first:
            _fill_layer(theirs, place, narrowing, before, between)
        else:
            # Attention reads the output of the norm of the layer below, the feed-forward that of attention's norm.
            _fill_layer(theirs, place, narrowing, behind, before)
            behind = between
    if old.final_norm is not None and new.final_norm is not None and stream.final is not None:
        narrowing.put_norm(old.final_norm, new.final_norm, stream.final)
        behind = narrowing.reader(old.final_norm, stream.final)
    _project_heads(old, new, behind)


def stream_square(encoder: Encoder, layers: Sequence[int], stream: Stream) -> Tensor:
    """Mean second moments (d, d) of the hidden states at the norms of a student with these layers.

    The moments at each norm are scaled to trace 1 before averaging.
    """
    places: list[tuple[nn.LayerNorm | None, Moments]] = []
    if stream.embedding is not None:
        places.append((encoder.embedding_norm if encoder.projection is None else None, stream.embedding))
    for layer in layers:
        places.append((encoder.layers[layer].attention_norm, stream.attention[layer]))
        places.append((encoder.layers[layer].output_norm, stream.output[layer]))
    if stream.final is not None:
        places.append((encoder.final_norm, stream.final))
    squares = [
        # In a pre-norm encoder the normalised hidden state is used; the scale belongs to the layers that read it.
        (seen if norm is None or encoder.norm_first else seen.scaled(norm.weight, norm.bias)).square
        for norm, seen in places
    ]
    return torch.stack([square / square.trace() for square in squares]).mean(dim=0)


def _project_embedding(old: Encoder, new: Encoder, narrowing: _Narrowing, stream: Stream) -> StreamReader:
    """Fill the embeddings; returns the reader for a first layer without a norm of its own before attention."""
    basis = narrowing.basis
    if old.patches is not None and new.patches is not None:
        for theirs, mine in _tables(old, new):
            _put(mine, theirs.double() @ basis)
        weight, bias = narrowing.write(old.patches.weight.flatten(1), old.patches.bias)
        _put(new.patches.weight, weight.view(new.patches.weight.shape))
        _put(new.patches.bias, bias)
        return StreamReader.of_stream(basis, torch.zeros(len(basis), dtype=torch.float64))
    if old.embedding_norm is None or new.embedding_norm is None or stream.embedding is None:
        raise ModelError("this encoder has neither patches nor a normalization of its embeddings")
    if old.projection is None:
        for theirs, mine in _tables(old, new):
            _put(mine, theirs.double() @ basis)
        narrowing.put_norm(old.embedding_norm, new.embedding_norm, stream.embedding)
        return narrowing.reader(old.embedding_norm, stream.embedding)
    weight, bias = narrowing.write(old.projection.weight, old.projection.bias)
    if new.projection is not None:
        for theirs, mine in _tables(old, new):
            mine.copy_(theirs)
        _copy(old.embedding_norm, new.embedding_norm)
        _put(new.projection.weight, weight)
        _put(new.projection.bias, bias)
    else:
        # The student is as narrow as the teacher's embeddings, so the projection is merged into its own.
        for theirs, mine in _tables(old, new):
            _put(mine, theirs.double() @ weight.T)
        _put(new.embedding_norm.bias, bias)
    return StreamReader.of_stream(basis, stream.embedding.mean)


def _project_heads(old: Encoder, new: Encoder, reader: StreamReader) -> None:
    if old.head_dense is not None and new.head_dense is not None:
        weight, bias = reader.read(old.head_dense.weight, old.head_dense.bias)
        writes = weight.new_ones(1, len(weight)) if old.head_out is None else old.head_out.weight.double()
        kept = important_neurons(weight, writes, new.head_dense.out_features)
        _put(new.head_dense.weight, weight[kept])
        _put(new.head_dense.bias, bias[kept])
        if old.head_out is not None and new.head_out is not None:
            _put(new.head_out.weight, old.head_out.weight[:, kept])
            _put(new.head_out.bias, old.head_out.bias)
        return
    for theirs, mine in ((old.head_out, new.head_out), (old.head_teacher, new.head_teacher)):
        if theirs is not None and mine is not None:
            weight, bias = reader.read(theirs.weight, theirs.bias)
            _put(mine.weight, weight)
            _put(mine.bias, bias)


def _fill_layer(
    old: Layer,
    new: Layer,
    narrowing: _Narrowing | None,
    attends: StreamReader | None,
    feeds: StreamReader | None,
) -> None:
    """Fill the linear layers of one layer of the student, and without narrowing also its norms.

    Args:
        attends, feeds: readers of attention and of the feed-forward network.
    """
    _fill_attention(old, new, narrowing, attends)
    inner, bias = _read(old.feed_in, feeds)
    outer, outer_bias = _write(old.feed_out, narrowing)
    kept = important_neurons(inner, outer, min(new.feed_forward, old.feed_forward))
    # If the student's feed-forward network is wider than the teacher's, its other neurons keep their random weights.
    _put(new.feed_in.weight[: len(kept)], inner[kept])
    _put(output_linear(new.feed_in).bias[: len(kept)], bias[kept])
    _put(new.feed_out.weight[:, : len(kept)], outer[:, kept])
    _put(new.feed_out.bias, outer_bias)
    if narrowing is None:
        _copy(old.attention_norm, new.attention_norm)
        _copy(old.output_norm, new.output_norm)


def _fill_attention(
    old: Layer, new: Layer, narrowing: _Narrowing | None, reader: StreamReader | None
) -> None:
    if narrowing is None and (old.heads, old.head_size) == (new.heads, new.head_size):
        for name in ("query", "key", "value", "attention_output"):
            _copy(getattr(old, name), getattr(new, name))
        return

    def by_head(linear: Map) -> Tensor:
        weight, bias = _read(linear, reader)
        return torch.cat([weight, bias[:, None]], dim=1).view(old.heads, -1, weight.shape[1] + 1)

    weight, bias = _write(old.attention_output, narrowing)
    out = weight.reshape(len(weight), old.heads, -1).transpose(0, 1)
    heads = Heads(by_head(old.query), by_head(old.key), by_head(old.value), out)
    if (old.heads, old.head_size) != (new.heads, new.head_size):
        heads = heads.regroup(new.heads, new.head_size)
    # Heads and dimensions that the teacher has no weights for keep their random initialisation.
    for linear, part in (
        (output_linear(new.query), heads.query),
        (output_linear(new.key), heads.key),
        (output_linear(new.value), heads.value),
    ):
        count, size = part.shape[:2]
        _put(linear.weight.view(new.heads, new.head_size, -1)[:count, :size], part[:, :, :-1])
        if linear.bias is not None:
            _put(linear.bias.view(new.heads, new.head_size)[:count, :size], part[:, :, -1])
    count, width, size = heads.out.shape
    target = new.attention_output.weight.view(width, new.heads, new.head_size)[:, :count, :size]
    _put(target, heads.out.transpose(0, 1))
    _put(new.attention_output.bias, bias)


def _read(linear: Map, reader: StreamReader | None) -> tuple[Tensor, Tensor]:
    if reader is not None:
        return reader.read(linear.weight, linear.bias)
    weight = linear.weight.double()
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.double()


def _write(linear: Map, narrowing: _Narrowing | None) -> tuple[Tensor, Tensor | None]:
    if narrowing is not None:
        return narrowing.write(linear.weight, linear.bias)
    return linear.weight.double(), None if linear.bias is None else linear.bias.double()


_ENDS = (
    "embedding_norm",
    "projection",
    "patches",
    "final_norm",
    "head_dense",
    "head_out",
    "head_teacher",
)


def _tables(old: Encoder, new: Encoder) -> list[tuple[Tensor, Tensor]]:
    """Pairs of teacher's and student's tables and tokens that form the first hidden states, (..., width)."""
    pairs = [(old.words, new.words), (old.positions, new.positions), (old.token_types, new.token_types)]
    tables = [(a.weight, b.weight) for a, b in pairs if a is not None and b is not None]
    theirs, mine = old.own_tensors(), new.own_tensors()
    return tables + [(theirs[role], mine[role]) for role in theirs.keys() & mine.keys()]


def _copy(old: nn.Module, new: nn.Module) -> None:
    if isinstance(old, Factored):
        assert isinstance(new, nn.Linear)
        _put(new.weight, old.weight)
        _put(new.bias, old.bias)
        return
    for theirs, mine in zip(old.parameters(), new.parameters(), strict=True):
        mine.copy_(theirs)


def _put(parameter: Tensor | None, values: Tensor | None) -> None:
    if parameter is not None and values is not None:
        parameter.copy_(values.to(parameter.dtype))
