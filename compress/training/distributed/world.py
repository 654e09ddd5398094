"""The processes that train together: who this one is, which share of a batch is its own, what all of them must know.

Nothing here is pickled: values travel as JSON, tensors as they are.
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
"""Environment variable beside those of `torch.distributed.run`."""


@dataclass(frozen=True)
class World:
    """`rank` of this process among `size`; rank 0 validates, writes checkpoints and shows progress.

    `strategy`: whole copies of the model in each process, or its weights spread over them.
    """

    rank: int = 0
    size: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def leads(self) -> bool:
        """Whether this process does what one process does for all."""
        return self.rank == 0

    def shares(self, indices: NDArray[np.int64], parts: int = 1) -> list[tuple[NDArray[np.int64], bool]]:
        """This process's examples of each part of a batch, and whether they are its own: a process without a share is
        given an example of another, so that it takes part in the all-reduce.

        Args:
            parts: how many the batch is computed in; no part is empty.
        """
        split = np.array_split(indices, min(parts, len(indices)))
        own = [part[self.rank :: self.size] for part in split]
        return [
            (mine, True) if len(mine) else (part[:1], False) for mine, part in zip(own, split, strict=True)
        ]

    def factors(self, counts: Sequence[Tensor]) -> list[Tensor]:
        """What the means over each part are multiplied by, (k,) each, so that their sum over parts and mean over
        processes are the means over the batch; 0 of what the batch has nothing of.

        Args:
            counts: over how many things each of k means of a part is, float64 (k,), 0 where they are another's.
        """
        whole = torch.tensor(self.mean(torch.stack(list(counts)).sum(0).tolist()), dtype=torch.float64)
        return [torch.where(whole > 0, count / whole, 0.0) for count in counts]

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over processes of each value."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return [float(value) for value in sums / self.size]

    def broadcast_object(self, value: Any) -> Any:
        """A JSON value of rank 0, in every process."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.leads else b""
        length = torch.tensor([len(text)])
        distributed.broadcast(length, 0)
        body = torch.zeros(int(length), dtype=torch.uint8)
        if self.leads:
            body = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        distributed.broadcast(body, 0)
        return json.loads(bytes(body.tolist()))

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of rank 0, on the CPU of every process; what the others pass is not looked at."""
        if self.size == 1:
            return dict(tensors)
        kinds = {name: (str(one.dtype), list(one.shape)) for name, one in tensors.items()}
        received = {}
        for name, (dtype, shape) in self.broadcast_object(kinds).items():
            if self.leads:
                one = tensors[name].detach().cpu().contiguous()
            else:
                one = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            distributed.broadcast(one, 0)
            received[name] = one
        return received

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """The tensors, of one shape and on the CPU, of all processes by rank."""
        if self.size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor)
        return parts


def current_world() -> World:
    """The processes of this training: those that `compress.engine.worker` joined, or this one alone."""
    if distributed.is_available() and distributed.is_initialized():
        strategy: Literal["ddp", "fsdp"] = "fsdp" if os.environ.get(STRATEGY_VARIABLE) == "fsdp" else "ddp"
        return World(distributed.get_rank(), distributed.get_world_size(), strategy)
    return World()
