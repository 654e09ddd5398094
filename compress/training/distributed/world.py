"""The processes of a distributed training: rank, share of a batch, collectives.

Nothing is pickled: values are exchanged as JSON, tensors as raw data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

STRATEGY_VARIABLE = "COMPRESS_STRATEGY"
"""Environment variable for the strategy, beside those of `torch.distributed.run`."""


@dataclass(frozen=True)
class World:
    """Rank of this process among `size`; rank 0 validates, writes checkpoints and shows progress.

    `strategy`: `ddp` replicates the model in each process, `fsdp` shards its weights.
    """

    rank: int = 0
    size: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def is_main(self) -> bool:
        """Whether this is the process that validates and writes for all."""
        return self.rank == 0

    def local_parts(self, indices: NDArray[np.int64], parts: int = 1) -> list[tuple[NDArray[np.int64], bool]]:
        """Return this process's examples of each part of a batch, and whether they are its own.

        A process without a share gets an example of another one, so that it takes part in the all-reduce.

        Args:
            parts: number of gradient accumulation parts; none is empty.
        """
        split = np.array_split(indices, min(parts, len(indices)))
        local = [part[self.rank :: self.size] for part in split]
        return [
            (local_part, True) if len(local_part) else (part[:1], False)
            for local_part, part in zip(local, split, strict=True)
        ]

    def mean_factors(self, counts: Sequence[Tensor]) -> list[Tensor]:
        """Return the factors, (k,) each, by which the means of each part are multiplied.

        With them the sum over parts, averaged over processes, is the mean over the whole batch; a mean over no
        items gets 0.

        Args:
            counts: number of items in each of the k means of a part, float64 (k,), 0 if the part belongs to
                another process.
        """
        totals = torch.tensor(self.mean(torch.stack(list(counts)).sum(0).tolist()), dtype=torch.float64)
        return [torch.where(totals > 0, count / totals, 0.0) for count in counts]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the mean over processes of each value."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return [float(value) for value in sums / self.size]

    def broadcast_object(self, value: Any) -> Any:
        """Return the JSON value of rank 0 in every process."""
        if self.size == 1:
            return value
        payload = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor([len(payload)])
        distributed.broadcast(length, 0)
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main:
            buffer = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        distributed.broadcast(buffer, 0)
        return json.loads(bytes(buffer.tolist()))

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of rank 0 on the CPU of every process; the argument of the others is ignored."""
        if self.size == 1:
            return dict(tensors)
        specs = {name: (str(tensor.dtype), list(tensor.shape)) for name, tensor in tensors.items()}
        received = {}
        for name, (dtype, shape) in self.broadcast_object(specs).items():
            if self.is_main:
                tensor = tensors[name].detach().cpu().contiguous()
            else:
                tensor = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            distributed.broadcast(tensor, 0)
            received[name] = tensor
        return received

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes by rank; they must have the same shape and be on the CPU."""
        if self.size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor)
        return parts


def current_world() -> World:
    """Return the process group that `compress.engine.worker` initialized, or this process alone."""
    if distributed.is_available() and distributed.is_initialized():
        strategy: Literal["ddp", "fsdp"] = "fsdp" if os.environ.get(STRATEGY_VARIABLE) == "fsdp" else "ddp"
        return World(distributed.get_rank(), distributed.get_world_size(), strategy)
    return World()
