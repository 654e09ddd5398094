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

_AVERAGED_POSITIONS = 32


@dataclass(frozen=True)
class StreamMoments:
    """Moments of what each norm of an encoder scales and shifts: its input with mean 0 and variance 1.

    `embedding` belongs to the input of the first layer: moments at the norm of the embeddings, or of the raw output
    of the projection if there is one; None for images. `attention` and `output` have one entry per layer, `final` is
    for the last norm of image models.
    """

    embedding: Moments | None
    attention: tuple[Moments, ...]
    output: tuple[Moments, ...]
    final: Moments | None


def measure_stream(encoder: Encoder, batches: Batches) -> StreamMoments:
    """Measure the moments of an encoder's hidden states on examples, padding excluded.

    Raises:
        ModelError: there are no examples.
    """
    no_examples = ModelError("no examples to compute the teacher's hidden states on", where="student.basis")

    norms = [norm for layer in encoder.layers for norm in (layer.attention_norm, layer.output_norm)]
    embedding_module = encoder.embedding_norm if encoder.projection is None else encoder.projection
    observed: tuple[nn.Module | None, ...] = (*norms, embedding_module, encoder.final_norm)
    sums_by_module = {module: MomentSums() for module in observed if module is not None}

    def note(module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        sums_by_module[module].add(outputs.double() if module is encoder.projection else normalised(inputs))

    observe_tokens(encoder.model, batches, sums_by_module, note)
    moments = {module: sums.moments(no_examples) for module, sums in sums_by_module.items()}
    return StreamMoments(
        embedding=None if embedding_module is None else moments[embedding_module],
        attention=tuple(moments[layer.attention_norm] for layer in encoder.layers),
        output=tuple(moments[layer.output_norm] for layer in encoder.layers),
        final=None if encoder.final_norm is None else moments[encoder.final_norm],
    )


def estimate_stream(encoder: Encoder) -> StreamMoments:
    """Estimate the moments from the embeddings alone: one estimate for all norms, with mean 0.

    Texts: each word of the vocabulary once, with the mean of the first position embeddings. Images: white-noise
    patches at every position.
    """
    rows = _embedding_rows(encoder)
    projected = None
    if encoder.projection is not None and encoder.embedding_norm is not None:
        weight, bias = encoder.projection.weight.detach().double(), encoder.projection.bias.detach().double()
        scale, shift = (per_layer.detach().double() for per_layer in encoder.embedding_norm.parameters())
        rows = (normalised(rows) * scale + shift) @ weight.T + bias
        projected = Moments.of(rows)
    if encoder.patches is None:
        square = Moments.of(normalised(rows)).second_moments
    else:
        patch = encoder.patches.weight.detach().double().flatten(1)
        square = Moments.of(rows).second_moments + patch @ patch.T
    estimate = Moments(torch.zeros(len(square), dtype=torch.float64), square)
    per_layer = (estimate,) * len(encoder.layers)
    if encoder.norm_first:
        return StreamMoments(None, per_layer, per_layer, estimate)
    return StreamMoments(projected or estimate, per_layer, per_layer, None)


def block_influence(model: nn.Module, blocks: Sequence[nn.Module], batches: Batches) -> tuple[float, ...]:
    """Block influence of each of a model's layers: one minus the mean cosine similarity of its input and output.

    From Men et al., ShortGPT, 2024 (arXiv:2403.03853). Padding is excluded.

    Raises:
        ModelError: there are no examples.
    """
    sums = dict.fromkeys(blocks, 0.0)
    counts = dict.fromkeys(sums, 0)

    def note(module: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        sums[module] += float(
            1 - nn.functional.cosine_similarity(inputs, outputs, dim=1).double().mean()
        ) * len(inputs)
        counts[module] += len(inputs)

    observe_tokens(model, batches, sums, note)
    if not all(counts.values()):
        raise ModelError("no examples to compare the teacher's layers on", where="student.choose")
    return tuple(sums[block] / counts[block] for block in blocks)


def _embedding_rows(encoder: Encoder) -> Tensor:
    """Inputs of the first norm, as far as the embedding tables determine them: (n, d), float64."""
    if encoder.words is None:
        return encoder.bare_tensors()["places"].detach()[0].double()
    rows = encoder.words.weight.detach().double()
    if encoder.positions is not None:
        rows = rows + encoder.positions.weight.detach()[:_AVERAGED_POSITIONS].double().mean(dim=0)
    if encoder.token_types is not None:
        rows = rows + encoder.token_types.weight.detach()[0].double()
    return rows
