"""Students made from teachers: layers cut out, or a narrower model projected from the teacher's own weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.errors import ModelError
from compress.models.families import Encoder, Layer, config_keys, encoder_of, sizes_of
from compress.models.projection import (
    Heads,
    important_neurons,
    narrowing_basis,
    norm_scale,
    normalised,
    read_through,
    second_moments,
)
from compress.profile.pass_specs import StudentSpec

_WHERE = "student"
_USUAL_POSITIONS = 32


@dataclass(frozen=True)
class Shape:
    """The shape of a student; `layers` are the teacher's layers that it is made from, lowest first."""

    layers: tuple[int, ...]
    hidden: int
    heads: int
    feed_forward: int


def student_shape(teacher: PreTrainedModel, spec: StudentSpec) -> Shape:
    """The shape that a spec asks for, with its defaults resolved against the teacher.

    Raises:
        ModelError: the shape does not fit the teacher, or its heads do not divide its width.
    """
    sizes = sizes_of(teacher)
    layers = choose_layers(spec.layers, sizes.layers)
    hidden = spec.hidden_size or sizes.hidden
    if hidden > sizes.hidden:
        raise ModelError(
            f"hidden_size {hidden} is wider than the teacher's {sizes.hidden}", where=f"{_WHERE}.hidden_size"
        )
    heads = spec.heads or _divisor(hidden, max(1, hidden // (sizes.hidden // sizes.heads)))
    if hidden % heads:
        raise ModelError(f"{heads} heads do not divide the width {hidden}", where=f"{_WHERE}.heads")
    feed_forward = spec.intermediate_size or round(hidden * sizes.feed_forward / sizes.hidden)
    return Shape(layers, hidden, heads, feed_forward)


def choose_layers(wanted: int | Sequence[int], available: int) -> tuple[int, ...]:
    """Which of the teacher's layers make the student.

    A number takes them evenly spread, the last one always among them: 2 of 6 are (2, 5).

    Raises:
        ModelError: the teacher has not so many, or not such a one, or one is named twice.
    """
    if isinstance(wanted, int):
        if wanted > available:
            raise ModelError(f"{wanted} layers asked of a teacher of {available}", where=f"{_WHERE}.layers")
        return tuple((i + 1) * available // wanted - 1 for i in range(wanted))
    chosen = tuple(wanted)
    if not chosen or len(set(chosen)) < len(chosen) or max(chosen) >= available:
        raise ModelError(
            f"layers {list(chosen)} must be different ones of 0 to {available - 1}", where=f"{_WHERE}.layers"
        )
    return chosen


def make_student(teacher: PreTrainedModel, spec: StudentSpec, seed: int) -> PreTrainedModel:
    """A smaller model of the teacher's family and labels, in float32 and eval mode; the teacher stays as it is.

    `from: teacher`: a student of the teacher's shape but for the number of layers copies them exactly; a narrower
    one is projected (`compress.models.projection`). `from: scratch`: weights drawn from `seed`.

    Raises:
        ModelError: see `student_shape`; or the family is unknown.
    """
    shape = student_shape(teacher, spec)
    old = encoder_of(teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = type(teacher)(_student_config(teacher, shape))
    student.config._attn_implementation = teacher.config._attn_implementation
    if spec.from_ == "scratch":
        return student.eval()
    with torch.no_grad():
        new = encoder_of(student)
        if shape.hidden == old.hidden_size:
            _copy_ends(old, new)
            for place, source in zip(new.layers, shape.layers, strict=True):
                _fill_layer(old.layers[source], place, None, None)
        else:
            _project(old, new, shape.layers)
    return student.eval()


def _divisor(number: int, at_most: int) -> int:
    return next(heads for heads in range(at_most, 0, -1) if number % heads == 0)


def _student_config(teacher: PreTrainedModel, shape: Shape) -> Any:
    config = copy.deepcopy(teacher.config)
    names = config_keys(teacher)
    setattr(config, names["hidden"], shape.hidden)
    setattr(config, names["layers"], len(shape.layers))
    setattr(config, names["heads"], shape.heads)
    setattr(config, names["feed_forward"], shape.feed_forward)
    if hasattr(config, "embedding_size") and encoder_of(teacher).projection is None:
        config.embedding_size = shape.hidden
    return config


@dataclass(frozen=True)
class _Narrow:
    """The basis, the second moments of the teacher's stream, and the constant part of what is read."""

    basis: Tensor
    moments: Tensor


def _project(old: Encoder, new: Encoder, layers: Sequence[int]) -> None:
    """Fill a narrower student."""
    moments = stream_moments(old)
    narrow = _Narrow(narrowing_basis(moments, new.hidden_size), moments)
    if old.projection is None:
        shift = old.embedding_norm.bias
        for theirs, mine in _embeddings(old, new):
            _put(mine.weight, theirs.weight.double() @ narrow.basis)
        _put_norm(old.embedding_norm, new.embedding_norm, narrow)
    else:
        shift = old.projection.bias
        weight, bias = _writes(old.projection, narrow)
        if new.projection is not None:
            _copy_embeddings(old, new)
            _put(new.projection.weight, weight)
            _put(new.projection.bias, bias)
        else:
            # The student is as narrow as the teacher's embeddings: its own take the projection in.
            for theirs, mine in _embeddings(old, new):
                _put(mine.weight, theirs.weight.double() @ weight.T)
            _put(new.embedding_norm.bias, bias)
    for place, source in zip(new.layers, layers, strict=True):
        _fill_layer(old.layers[source], place, narrow, shift)
        shift = old.layers[source].output_norm.bias
    weight, bias = _reads(old.head_dense, narrow, shift)
    kept = important_neurons(weight, old.head_out.weight.double(), new.head_dense.out_features)
    _put(new.head_dense.weight, weight[kept])
    _put(new.head_dense.bias, bias[kept])
    _put(new.head_out.weight, old.head_out.weight[:, kept])
    _put(new.head_out.bias, old.head_out.bias)


def stream_moments(encoder: Encoder) -> Tensor:
    """Second moments (d, d) of the teacher's stream as its embeddings show it: words at the first positions."""
    rows = encoder.words.weight.detach().double()
    if encoder.positions is not None:
        rows = rows + encoder.positions.weight.detach()[:_USUAL_POSITIONS].double().mean(dim=0)
    if encoder.token_types is not None:
        rows = rows + encoder.token_types.weight.detach()[0].double()
    rows = normalised(rows)
    if encoder.projection is not None:
        rows = (
            rows * encoder.embedding_norm.weight.detach().double()
            + encoder.embedding_norm.bias.detach().double()
        )
        rows = normalised(
            rows @ encoder.projection.weight.detach().double().T + encoder.projection.bias.detach().double()
        )
    return second_moments(rows)


def _fill_layer(old: Layer, new: Layer, narrow: _Narrow | None, shift: Tensor | None) -> None:
    """Fill one layer of the student from one of the teacher; `shift` is the constant part of what the layer reads,
    used with a narrower stream alone."""
    _fill_attention(old, new, narrow, shift)
    _put_norm(old.attention_norm, new.attention_norm, narrow)
    inner, bias = _reads(old.feed_in, narrow, old.attention_norm.bias)
    outer, outer_bias = _writes(old.feed_out, narrow)
    kept = important_neurons(inner, outer, min(new.feed_forward, old.feed_forward))
    # A wider feed-forward part than the teacher's: its further neurons keep their random weights.
    new.feed_in.weight[: len(kept)] = inner[kept].float()
    new.feed_in.bias[: len(kept)] = bias[kept].float()
    new.feed_out.weight[:, : len(kept)] = outer[:, kept].float()
    _put(new.feed_out.bias, outer_bias)
    _put_norm(old.output_norm, new.output_norm, narrow)


def _fill_attention(old: Layer, new: Layer, narrow: _Narrow | None, shift: Tensor | None) -> None:
    old_heads, new_heads = old.heads, new.heads
    if narrow is None and (old_heads, old.head_size) == (new_heads, new.head_size):
        for name in ("query", "key", "value", "attention_output"):
            _copy(getattr(old, name), getattr(new, name))
        return

    def by_head(linear: nn.Linear) -> Tensor:
        weight, bias = _reads(linear, narrow, shift)
        return torch.cat([weight, bias[:, None]], dim=1).view(old_heads, -1, weight.shape[1] + 1)

    weight, bias = _writes(old.attention_output, narrow)
    out = weight.reshape(len(weight), old_heads, -1).transpose(0, 1)
    heads = Heads(by_head(old.query), by_head(old.key), by_head(old.value), out)
    heads = heads.select(min(new_heads, old_heads))
    if new.head_size < old.head_size:
        heads = heads.shrink(new.head_size)
    # More or larger heads than the teacher's: what it has no weights for keeps its random ones.
    count, size = heads.query.shape[:2]
    for linear, part in ((new.query, heads.query), (new.key, heads.key), (new.value, heads.value)):
        linear.weight.view(new_heads, new.head_size, -1)[:count, :size] = part[:, :, :-1].float()
        linear.bias.view(new_heads, new.head_size)[:count, :size] = part[:, :, -1].float()
    width = len(new.attention_output.weight)
    new.attention_output.weight.view(width, new_heads, new.head_size)[:, :count, :size] = heads.out.transpose(
        0, 1
    ).float()
    _put(new.attention_output.bias, bias)


def _reads(linear: nn.Linear, narrow: _Narrow | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    if narrow is None or shift is None:
        return linear.weight.double(), linear.bias.double()
    return read_through(linear.weight, linear.bias, narrow.basis, shift)


def _writes(linear: nn.Linear, narrow: _Narrow | None) -> tuple[Tensor, Tensor]:
    if narrow is None:
        return linear.weight.double(), linear.bias.double()
    return narrow.basis.T @ linear.weight.double(), narrow.basis.T @ linear.bias.double()


def _put_norm(old: nn.LayerNorm, new: nn.LayerNorm, narrow: _Narrow | None) -> None:
    if narrow is None:
        _copy(old, new)
        return
    _put(new.weight, norm_scale(old.weight, narrow.moments, narrow.basis))
    _put(new.bias, narrow.basis.T @ old.bias.double())


def _embeddings(old: Encoder, new: Encoder) -> list[tuple[nn.Embedding, nn.Embedding]]:
    """The tables of both models, pair by pair."""
    pairs = (old.words, new.words), (old.positions, new.positions), (old.token_types, new.token_types)
    return [(theirs, mine) for theirs, mine in pairs if theirs is not None and mine is not None]


def _copy_embeddings(old: Encoder, new: Encoder) -> None:
    for theirs, mine in _embeddings(old, new):
        _copy(theirs, mine)
    _copy(old.embedding_norm, new.embedding_norm)


def _copy_ends(old: Encoder, new: Encoder) -> None:
    """Copy what stands before the first and after the last layer."""
    _copy_embeddings(old, new)
    if old.projection is not None and new.projection is not None:
        _copy(old.projection, new.projection)
    _copy(old.head_dense, new.head_dense)
    _copy(old.head_out, new.head_out)


def _copy(old: nn.Module, new: nn.Module) -> None:
    for theirs, mine in zip(old.parameters(), new.parameters(), strict=True):
        mine.copy_(theirs)


def _put(parameter: Tensor, values: Tensor) -> None:
    parameter.copy_(values.to(parameter.dtype))
