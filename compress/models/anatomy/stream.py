"""What flows through an encoder: moments of its stream and how much each layer changes it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import Encoder
from compress.models.students.projection import Moments, normalised

Batches = Callable[[], Iterable[dict[str, Tensor]]]
"""Starts an iteration over batches of examples, encoded for the model; some hundred examples are enough."""

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


class _Tally:
    """Moments of rows that come in parts."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.total = self.total + rows.sum(dim=0)
        self.square = self.square + rows.T @ rows

    def moments(self) -> Moments:
        if not isinstance(self.total, Tensor) or not isinstance(self.square, Tensor):
            raise ModelError("no examples to measure the teacher's hidden states on", where="student.basis")
        return Moments((self.total / self.count).cpu(), (self.square / self.count).cpu())


def measure_stream(encoder: Encoder, batches: Batches) -> Stream:
    """The moments of an encoder's stream on examples; padding is left out.

    Raises:
        ModelError: there are no examples.
    """
    tallies: dict[nn.Module, _Tally] = {}

    def of(module: nn.Module | None) -> Moments | None:
        return None if module is None else tallies[module].moments()

    norms = [norm for layer in encoder.layers for norm in (layer.attention_norm, layer.output_norm)]
    before = encoder.embedding_norm if encoder.projection is None else encoder.projection
    for module in (*norms, before, encoder.final_norm):
        if module is not None:
            tallies[module] = _Tally()

    def note(module: nn.Module, reads: Tensor, gives: Tensor) -> None:
        tallies[module].add(gives if module is encoder.projection else normalised(reads))

    _observe(encoder, batches, tallies, note)
    return Stream(
        embedding=of(before),
        attention=tuple(tallies[layer.attention_norm].moments() for layer in encoder.layers),
        output=tuple(tallies[layer.output_norm].moments() for layer in encoder.layers),
        final=of(encoder.final_norm),
    )


def embedding_stream(encoder: Encoder) -> Stream:
    """What the embeddings alone tell of the stream: one guess for all norms, with mean 0.

    Texts: the words at the first positions, each once. Images: patches of white noise at every position.
    """
    rows = _embedding_rows(encoder)
    projected = None
    if encoder.projection is not None and encoder.embedding_norm is not None:
        weight, bias = encoder.projection.weight.detach().double(), encoder.projection.bias.detach().double()
        rows = _affine(normalised(rows), encoder.embedding_norm) @ weight.T + bias
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


def block_influence(encoder: Encoder, batches: Batches) -> tuple[float, ...]:
    """How much each layer changes the stream: one minus the mean cosine of what it reads and what it gives.

    Block influence: Men et al., ShortGPT, 2024 (arXiv:2403.03853). Padding is left out.

    Raises:
        ModelError: there are no examples.
    """
    sums = {layer.block: 0.0 for layer in encoder.layers}
    counts = dict.fromkeys(sums, 0)

    def note(module: nn.Module, reads: Tensor, gives: Tensor) -> None:
        sums[module] += float(1 - nn.functional.cosine_similarity(reads, gives, dim=1).double().mean()) * len(
            reads
        )
        counts[module] += len(reads)

    _observe(encoder, batches, sums, note)
    if not all(counts.values()):
        raise ModelError("no examples to compare the teacher's layers on", where="student.choose")
    return tuple(sums[layer.block] / counts[layer.block] for layer in encoder.layers)


def _observe(
    encoder: Encoder,
    batches: Batches,
    modules: Iterable[nn.Module],
    note: Callable[[nn.Module, Tensor, Tensor], None],
) -> None:
    """Run the encoder on examples; `note` gets what a module reads and gives, a row a token, float32 (tokens, d)."""
    mask: Tensor | None = None

    def rows(states: Tensor) -> Tensor:
        return (states.flatten(0, -2) if mask is None else states[mask]).float()

    def hook(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], gives: Any) -> None:
        reads = args[0] if args else kwargs["hidden_states"]
        note(module, rows(reads), rows(gives if isinstance(gives, Tensor) else gives[0]))

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    was_training = encoder.model.training
    encoder.model.eval()
    try:
        with torch.no_grad():
            for batch in batches():
                mask = batch["attention_mask"].bool() if "attention_mask" in batch else None
                encoder.model(**batch)
    finally:
        encoder.model.train(was_training)
        for handle in handles:
            handle.remove()


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


def _affine(rows: Tensor, norm: nn.LayerNorm) -> Tensor:
    return rows * norm.weight.detach().double() + norm.bias.detach().double()
