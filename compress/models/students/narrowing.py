"""Filling a student with its teacher's weights: copied where the shapes are equal, projected where it is narrower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.anatomy.attention_heads import Heads
from compress.models.anatomy.encoder import Encoder, Layer
from compress.models.anatomy.factors import Factored, LinearLike, output_linear
from compress.models.anatomy.stream import StreamMoments
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

    def reader(self, norm: nn.LayerNorm, moments: Moments) -> StreamReader:
        """Return the reader for layers that read the output of a norm."""
        if self.norm_first:
            return StreamReader.of_norm(self.basis, moments.mean, norm.weight, norm.bias)
        return StreamReader.of_stream(self.basis, moments.scaled(norm.weight, norm.bias).mean)

    def project_output(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Project a layer that writes to the residual stream: weight (d, in) -> (k, in)."""
        weight = self.basis.T @ weight.detach().double()
        return weight, None if bias is None else self.basis.T @ bias.detach().double()

    def fill_norm(self, old: nn.LayerNorm, new: nn.LayerNorm, moments: Moments) -> None:
        if self.norm_first:
            new.weight.fill_(norm_gain(moments.second_moments, self.basis))
            new.bias.zero_()
        else:
            scale, shift = narrow_norm(old.weight, old.bias, moments, self.basis)
            _assign(new.weight, scale)
            _assign(new.bias, shift)


def copy_layers(old: Encoder, new: Encoder, layers: Sequence[int]) -> None:
    """Fill a student of the teacher's width from the given layers; parts of equal shape are copied exactly."""
    for teacher_table, student_table in _tables(old, new):
        student_table.copy_(teacher_table)
    for name in _OUTER_MODULES:
        teacher_module, student_module = getattr(old, name), getattr(new, name)
        if teacher_module is not None and student_module is not None:
            _copy(teacher_module, student_module)
    for student_layer, index in zip(new.layers, layers, strict=True):
        _fill_layer(old.layers[index], student_layer, None, None, None)


def project_layers(old: Encoder, new: Encoder, layers: Sequence[int], stream: StreamMoments) -> None:
    """Fill a narrower student from the given layers, projected on the principal directions of the hidden states.

    Args:
        stream: moments of the teacher, for all its layers.
    """
    narrowing = _Narrowing(
        narrowing_basis(mean_second_moments(old, layers, stream), new.hidden_size), old.norm_first
    )
    previous = _project_embedding(old, new, narrowing, stream)
    for student_layer, index in zip(new.layers, layers, strict=True):
        teacher_layer = old.layers[index]
        attention_moments, output_moments = stream.attention[index], stream.output[index]
        attention_reader = narrowing.reader(teacher_layer.attention_norm, attention_moments)
        feed_forward_reader = narrowing.reader(teacher_layer.output_norm, output_moments)
        narrowing.fill_norm(teacher_layer.attention_norm, student_layer.attention_norm, attention_moments)
        narrowing.fill_norm(teacher_layer.output_norm, student_layer.output_norm, output_moments)
        if old.norm_first:
            _fill_layer(teacher_layer, student_layer, narrowing, attention_reader, feed_forward_reader)
        else:
            # Attention reads the output of the norm of the layer below, the feed-forward that of attention's norm.
            _fill_layer(teacher_layer, student_layer, narrowing, previous, attention_reader)
            previous = feed_forward_reader
    if old.final_norm is not None and new.final_norm is not None and stream.final is not None:
        narrowing.fill_norm(old.final_norm, new.final_norm, stream.final)
        previous = narrowing.reader(old.final_norm, stream.final)
    _project_heads(old, new, previous)


def mean_second_moments(encoder: Encoder, layers: Sequence[int], stream: StreamMoments) -> Tensor:
    """Mean second moments (d, d) of the hidden states at the norms of a student with these layers.

    The moments at each norm are scaled to trace 1 before averaging.
    """
    norms_and_moments: list[tuple[nn.LayerNorm | None, Moments]] = []
    if stream.embedding is not None:
        norms_and_moments.append(
            (encoder.embedding_norm if encoder.projection is None else None, stream.embedding)
        )
    for layer in layers:
        norms_and_moments.append((encoder.layers[layer].attention_norm, stream.attention[layer]))
        norms_and_moments.append((encoder.layers[layer].output_norm, stream.output[layer]))
    if stream.final is not None:
        norms_and_moments.append((encoder.final_norm, stream.final))
    squares = [
        # In a pre-norm encoder the normalised hidden state is used; the scale belongs to the layers that read it.
        (
            moments if norm is None or encoder.norm_first else moments.scaled(norm.weight, norm.bias)
        ).second_moments
        for norm, moments in norms_and_moments
    ]
    return torch.stack([square / square.trace() for square in squares]).mean(dim=0)


def _project_embedding(
    old: Encoder, new: Encoder, narrowing: _Narrowing, stream: StreamMoments
) -> StreamReader:
    """Fill the embeddings; returns the reader for a first layer without a norm of its own before attention."""
    basis = narrowing.basis
    if old.patches is not None and new.patches is not None:
        for teacher_table, student_table in _tables(old, new):
            _assign(student_table, teacher_table.double() @ basis)
        weight, bias = narrowing.project_output(old.patches.weight.flatten(1), old.patches.bias)
        _assign(new.patches.weight, weight.view(new.patches.weight.shape))
        _assign(new.patches.bias, bias)
        return StreamReader.of_stream(basis, torch.zeros(len(basis), dtype=torch.float64))
    if old.embedding_norm is None or new.embedding_norm is None or stream.embedding is None:
        raise ModelError("this encoder has neither patches nor a normalization of its embeddings")
    if old.projection is None:
        for teacher_table, student_table in _tables(old, new):
            _assign(student_table, teacher_table.double() @ basis)
        narrowing.fill_norm(old.embedding_norm, new.embedding_norm, stream.embedding)
        return narrowing.reader(old.embedding_norm, stream.embedding)
    weight, bias = narrowing.project_output(old.projection.weight, old.projection.bias)
    if new.projection is not None:
        for teacher_table, student_table in _tables(old, new):
            student_table.copy_(teacher_table)
        _copy(old.embedding_norm, new.embedding_norm)
        _assign(new.projection.weight, weight)
        _assign(new.projection.bias, bias)
    else:
        # The student is as narrow as the teacher's embeddings, so the projection is merged into its own.
        for teacher_table, student_table in _tables(old, new):
            _assign(student_table, teacher_table.double() @ weight.T)
        _assign(new.embedding_norm.bias, bias)
    return StreamReader.of_stream(basis, stream.embedding.mean)


def _project_heads(old: Encoder, new: Encoder, reader: StreamReader) -> None:
    if old.head_dense is not None and new.head_dense is not None:
        weight, bias = reader.read(old.head_dense.weight, old.head_dense.bias)
        out_weights = (
            weight.new_ones(1, len(weight)) if old.head_out is None else old.head_out.weight.double()
        )
        neurons = important_neurons(weight, out_weights, new.head_dense.out_features)
        _assign(new.head_dense.weight, weight[neurons])
        _assign(new.head_dense.bias, bias[neurons])
        if old.head_out is not None and new.head_out is not None:
            _assign(new.head_out.weight, old.head_out.weight[:, neurons])
            _assign(new.head_out.bias, old.head_out.bias)
        return
    for teacher_head, student_head in ((old.head_out, new.head_out), (old.head_teacher, new.head_teacher)):
        if teacher_head is not None and student_head is not None:
            weight, bias = reader.read(teacher_head.weight, teacher_head.bias)
            _assign(student_head.weight, weight)
            _assign(student_head.bias, bias)


def _fill_layer(
    old: Layer,
    new: Layer,
    narrowing: _Narrowing | None,
    attention_reader: StreamReader | None,
    feed_forward_reader: StreamReader | None,
) -> None:
    """Fill the linear layers of one layer of the student, and without narrowing also its norms.

    Args:
        attends, feeds: readers of attention and of the feed-forward network.
    """
    _fill_attention(old, new, narrowing, attention_reader)
    in_weight, in_bias = _read(old.feed_in, feed_forward_reader)
    out_weight, out_bias = _write(old.feed_out, narrowing)
    neurons = important_neurons(in_weight, out_weight, min(new.feed_forward, old.feed_forward))
    # If the student's feed-forward network is wider than the teacher's, its other neurons keep their random weights.
    _assign(new.feed_in.weight[: len(neurons)], in_weight[neurons])
    _assign(output_linear(new.feed_in).bias[: len(neurons)], in_bias[neurons])
    _assign(new.feed_out.weight[:, : len(neurons)], out_weight[:, neurons])
    _assign(new.feed_out.bias, out_bias)
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

    def by_head(linear: LinearLike) -> Tensor:
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
        _assign(linear.weight.view(new.heads, new.head_size, -1)[:count, :size], part[:, :, :-1])
        if linear.bias is not None:
            _assign(linear.bias.view(new.heads, new.head_size)[:count, :size], part[:, :, -1])
    count, width, size = heads.out.shape
    target = new.attention_output.weight.view(width, new.heads, new.head_size)[:, :count, :size]
    _assign(target, heads.out.transpose(0, 1))
    _assign(new.attention_output.bias, bias)


def _read(linear: LinearLike, reader: StreamReader | None) -> tuple[Tensor, Tensor]:
    if reader is not None:
        return reader.read(linear.weight, linear.bias)
    weight = linear.weight.double()
    return weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.double()


def _write(linear: LinearLike, narrowing: _Narrowing | None) -> tuple[Tensor, Tensor | None]:
    if narrowing is not None:
        return narrowing.project_output(linear.weight, linear.bias)
    return linear.weight.double(), None if linear.bias is None else linear.bias.double()


_OUTER_MODULES = (
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
    teacher_tensors, student_tensors = old.bare_tensors(), new.bare_tensors()
    return tables + [
        (teacher_tensors[role], student_tensors[role])
        for role in teacher_tensors.keys() & student_tensors.keys()
    ]


def _copy(old: nn.Module, new: nn.Module) -> None:
    if isinstance(old, Factored):
        assert isinstance(new, nn.Linear)
        _assign(new.weight, old.weight)
        _assign(new.bias, old.bias)
        return
    for old_parameter, new_parameter in zip(old.parameters(), new.parameters(), strict=True):
        new_parameter.copy_(old_parameter)


def _assign(parameter: Tensor | None, values: Tensor | None) -> None:
    if parameter is not None and values is not None:
        parameter.copy_(values.to(parameter.dtype))
