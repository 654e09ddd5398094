"""Read-only statistics of an encoder's hidden states: moments, and how much each layer changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import Encoder
from compress.models.anatomy.observing import Batches, MomentSums, observe_tokens
from compress.models.students.projection import Moments, normalised

_USUAL_POSITIONS = 32


@dataclass(frozen=True)
class Stream:
    """Moments of what each norm of an encoder scales and shifts: its input with mean 0 and variance 1.

    `embedding` belongs to the input of the first layer: moments at the norm of the embeddings, or of the raw output
    of the projection if there is one; None for images. `attention` and `output` have one entry per layer, `final` is
    for the last norm of image models.
    """

    embedding: Moments | None
    attention: tuple[Moments, ...]
    output: tuple[Moments, ...]
    final: Moments | None


def measure_stream(encoder: Encoder, batches: Batches) -> Stream:
    """Measure the moments of an encoder's hidden states on examples, padding excluded.

    Raises:
        ModelError: there are no examples.
    """
    nothing = ModelError("no examples to compute the teacher's hidden states on", where="student.basis")

    norms = [norm for layer in encoder.layers for norm in (layer.attention_norm, layer.output_norm)]
    before = encoder.embedding_norm if encoder.projection is None else encoder.projection
    watched: tuple[nn.Module | None, ...] = (*norms, before, encoder.final_norm)
    tallies = {module: MomentSums() for module in watched if module is not None}

    def note(module: nn.Module, reads: Tensor, gives: Tensor) -> None:
        tallies[module].add(gives.double() if module is encoder.projection else normalised(reads))

    observe_tokens(encoder.model, batches, tallies, note)
    found = {module: sums.moments(nothing) for module, sums in tallies.items()}
    return Stream(
        embedding=None if before is None else found[before],
        attention=tuple(found[layer.attention_norm] for layer in encoder.layers),
        output=tuple(found[layer.output_norm] for layer in encoder.layers),
        final=None if encoder.final_norm is None else found[encoder.final_norm],
    )


def embedding_stream(encoder: Encoder) -> Stream:
    """Estimate the moments from the embeddings alone: one estimate for all norms, with mean 0.

    Texts: each word of the vocabulary once, with the mean of the first position embeddings. Images: white-noise
    patches at every position.
    """
    rows = _embedding_rows(encoder)
    projected = None
    if encoder.projection is not None and encoder.embedding_norm is not None:
        weight, bias = encoder.projection.weight.detach().double(), encoder.projection.bias.detach().double()
        scale, shift = (each.detach().double() for each in encoder.embedding_norm.parameters())
        rows = (normalised(rows) * scale + shift) @ weight.T + bias
        projected = Moments.of(rows)
    if encoder.patches is None:
        square = Moments.of(normalised(rows)).square
    else:
        patch = encoder.patches.weight.detach().double().flatten(1)
        square = Moments.of(rows).square + patch @ patch.T
    guess = Moments(torch.zeros(len(square), dtype=torch.float64), square)
    each = (guess,) * len(encoder.layers)
    if encoder.norm_first:
        return Stream(None, each, each, guess)
    return Stream(projected or guess, each, each, None)


def block_influence(model: nn.Module, blocks: Sequence[nn.Module], batches: Batches) -> tuple[float, ...]:
    """Block influence of each of a model's layers: one minus the mean cosine similarity of its input and output.

    From Men et al., ShortGPT, 2024 (arXiv:2403.03853). Padding is excluded.

    Raises:
        ModelError: there are no examples.
    """
    sums = dict.fromkeys(blocks, 0.0)
    counts = dict.fromkeys(sums, 0)

    def note(module: nn.Module, reads: Tensor, gives: Tensor) -> None:
        sums[module] += float(1 - nn.functional.cosine_similarity(reads, gives, dim=1).double().mean()) * len(
            reads
        )
        counts[module] += len(reads)

    observe_tokens(model, batches, sums, note)
    if not all(counts.values()):
        raise ModelError("no examples to compare the teacher's layers on", where="student.choose")
    return tuple(sums[block] / counts[block] for block in blocks)


def _embedding_rows(encoder: Encoder) -> Tensor:
    """Inputs of the first norm, as far as the embedding tables determine them: (n, d), float64."""
    if encoder.words is None:
        return encoder.own_tensors()["places"].detach()[0].double()
    rows = encoder.words.weight.detach().double()
    if encoder.positions is not None:
        rows = rows + encoder.positions.weight.detach()[:_USUAL_POSITIONS].double().mean(dim=0)
    if encoder.token_types is not None:
        rows = rows + encoder.token_types.weight.detach()[0].double()
    return rows
