"""Compact encoding of a language model's predictions: top-k tokens, their probabilities, the mass of the rest.

A row is bytes, little-endian: the ids of the k tokens, most probable first, each in as many bits as the
vocabulary needs; their log-probabilities, uint8 steps below the first; then float32 the log-probability of the
first, float16 the size of a step and float16 the total log-probability of all other tokens. With k = 64 that is
200 bytes per position for a vocabulary of 2^16 and 216 for 2^18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MIN_VOCABULARY = 1024
"""Vocabulary size from which on only the top k tokens of each position are stored."""
DEFAULT_K = 64
"""Default k."""
_PREFIX = "top"
_STEPS = 255
_MIN_LOG_REST = -30.0
"""Log-probability of the rest if it is zero; smaller ones are clamped, since they do not matter."""


@dataclass(frozen=True)
class TopK:
    """The `k` most probable of `vocabulary_size` tokens, of probabilities softened by `temperature`."""

    k: int
    temperature: float
    vocabulary_size: int

    @property
    def name(self) -> str:
        """Name of the signal."""
        return f"{_PREFIX}.{self.k}.{self.temperature!r}.{self.vocabulary_size}"

    @classmethod
    def of(cls, name: str) -> TopK | None:
        """Parse a signal name; None if it is another signal."""
        kind, _, rest = name.partition(".")
        if kind != _PREFIX:
            return None
        k, _, others = rest.partition(".")
        temperature, _, vocabulary_size = others.rpartition(".")
        return cls(int(k), float(temperature), int(vocabulary_size))

    @property
    def id_bits(self) -> int:
        """Bits per id."""
        return max(1, (self.vocabulary_size - 1).bit_length())

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return self._id_bytes + self.k + 8

    @property
    def _id_bytes(self) -> int:
        return -(-self.k * self.id_bits // 8)

    def pack(self, logits: Tensor) -> Tensor:
        """Encode logits (..., words) -> uint8 (..., bytes)."""
        shape, rows = logits.shape[:-1], logits.reshape(-1, logits.shape[-1])
        # In chunks: a float32 copy of all rows would need as much memory again.
        size = max(1, 2**22 // self.vocabulary_size)
        parts = [self._pack_rows(rows[start : start + size]) for start in range(0, len(rows), size)]
        return torch.cat(parts).reshape(*shape, self.row_bytes)

    def _pack_rows(self, logits: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(logits.float() / self.temperature, -1)
        top, ids = log_probabilities.topk(self.k, -1)
        first = top[:, :1]
        step = ((first - top[:, -1:]) / _STEPS).half()
        steps = ((first - top) / step.float().clamp(min=1e-6)).round().clamp(0, _STEPS).to(torch.uint8)
        rest = (
            torch.log1p(-top.double().exp().sum(-1, keepdim=True).clamp(max=1))
            .clamp(min=_MIN_LOG_REST)
            .half()
        )
        parts = [_bytes(values) for values in (first.contiguous(), step, rest)]
        return torch.cat([_to_bits(ids, self.id_bits), steps, *parts], -1)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Decode uint8 (n, bytes) -> ids int64 (n, k), and float32 log-probabilities (n, k + 1).

        The last one is that of all other tokens; they are normalized.
        """
        ids = _from_bits(rows[:, : self._id_bytes], self.k, self.id_bits)
        steps = rows[:, self._id_bytes : self._id_bytes + self.k].float()
        first, step, rest = (
            rows[:, offset : offset + size].reshape(-1).clone().view(dtype).float()[:, None]
            for offset, size, dtype in (
                (self.row_bytes - 8, 4, torch.float32),
                (self.row_bytes - 4, 2, torch.float16),
                (self.row_bytes - 2, 2, torch.float16),
            )
        )
        return ids, torch.log_softmax(torch.cat([first - steps * step, rest], -1), -1)

    def log_probabilities_of(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return log-probabilities (n, k + 1) of the tokens `ids` (n, k) and of all others together, float32.

        Args:
            logits: of a student, (n, words).
        """
        logits_and_rest: Tensor = _TopAndRest.apply(logits, ids, self.temperature)  # type: ignore[no-untyped-call]
        log_probabilities = torch.log_softmax(logits_and_rest, -1)
        return torch.cat([log_probabilities[:, :-1], log_probabilities[:, -1:].clamp(min=_MIN_LOG_REST)], -1)


class _TopAndRest(torch.autograd.Function):
    """Logits (n, words) -> float32 (n, k + 1): the logits of k tokens, and the logsumexp of all others.

    Equivalent to autograd, with one copy of the logits instead of five.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        others = logits.to(torch.float32, copy=True)
        if temperature != 1:
            others /= temperature
        top = others.gather(-1, ids)
        others.scatter_(-1, ids, -torch.inf)
        # If no token is left, the maximum is -inf and must not be subtracted.
        maximum = others.amax(-1, keepdim=True).clamp(min=-1e30)
        mass = others.sub_(maximum).exp_().sum(-1, keepdim=True)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.save_for_backward(ids, others, mass)
        return torch.cat([top, maximum + mass.log()], -1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        ids, others, mass = ctx.saved_tensors
        top, rest = (upstream[0] / ctx.temperature).split([ids.shape[-1], 1], -1)
        gradient = others * (rest / mass.clamp(min=torch.finfo(mass.dtype).tiny))
        return gradient.scatter_(-1, ids, top).to(ctx.dtype), None, None


def source_signals(names: frozenset[str]) -> frozenset[str]:
    """Return the model signals from which the named ones are derived."""
    return frozenset("outputs" if TopK.of(name) else name for name in names)


def with_top_k(signals: dict[str, Tensor], names: frozenset[str]) -> dict[str, Tensor]:
    """Derive the named signals from those of `source_signals`."""
    derived = {}
    for name in names:
        top = TopK.of(name)
        derived[name] = signals[name] if top is None else top.pack(signals["outputs"])
    return derived


def _bytes(values: Tensor) -> Tensor:
    """Reinterpret (n, 1) of any dtype as bytes (n, size)."""
    return values.view(torch.uint8).reshape(len(values), -1)


def _to_bits(ids: Tensor, bits: int) -> Tensor:
    """Pack integers (n, k) below 2^bits contiguously, lowest bits first: uint8 (n, ceil(k * bits / 8))."""
    shifts = torch.arange(bits, device=ids.device)
    bit_values = ((ids[..., None] >> shifts) & 1).flatten(1)
    padded = torch.nn.functional.pad(bit_values, (0, -bit_values.shape[1] % 8)).reshape(len(ids), -1, 8)
    return (padded << torch.arange(8, device=ids.device)).sum(-1).to(torch.uint8)


def _from_bits(rows: Tensor, k: int, bits: int) -> Tensor:
    """Unpack the integers of `_to_bits`, int64 (n, k)."""
    first = torch.arange(k, device=rows.device) * bits
    padded = torch.nn.functional.pad(rows.long(), (0, 4))
    # An integer of at most 25 bits fits into four consecutive bytes.
    windows = torch.stack([padded[:, first // 8 + byte] << 8 * byte for byte in range(4)]).sum(0)
    ids: Tensor = (windows >> (first % 8)) & (2**bits - 1)
    return ids
