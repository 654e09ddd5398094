"""What flows through an encoder: moments of its stream and how much each layer changes it. Nothing is changed."""

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
    """The moments of what each norm of an encoder scales and shifts: its input with mean 0 and variance 1.

    `embedding` is what stands before the first layer: of the embeddings' norm, or of a projection's output as it is;
    None for images. `attention` and `output` have an entry a layer, `final` is of the last norm of images.
    """

    embedding: Moments | None
    attention: tuple[Moments, ...]
    output: tuple[Moments, ...]
    final: Moments | None


def measure_stream(encoder: Encoder, batches: Batches) -> Stream:
    """The moments of an encoder's stream on examples; padding is left out.

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
    """What the embeddings alone tell of the stream: one guess for all norms, with mean 0.

    Texts: the words at the first positions, each once. Images: patches of white noise at every position.
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
    """How much each of the `blocks`, the layers of a model, changes the stream: one minus the mean cosine of what it
    reads and what it gives.

    Block influence: Men et al., ShortGPT, 2024 (arXiv:2403.03853). Padding is left out.

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
    """What stands before the first norm, as far as the tables tell: (n, d), float64."""
    if encoder.words is None:
        return encoder.own_tensors()["places"].detach()[0].double()
    rows = encoder.words.weight.detach().double()
    if encoder.positions is not None:
        rows = rows + encoder.positions.weight.detach()[:_USUAL_POSITIONS].double().mean(dim=0)
    if encoder.token_types is not None:
        rows = rows + encoder.token_types.weight.detach()[0].double()
    return rows
