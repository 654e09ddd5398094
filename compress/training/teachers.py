"""The teacher's logits: computed once, kept on disk, memory-mapped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn

from compress.artifacts import write_json
from compress.progress import Progress
from compress.tasks.base import Inputs
from compress.training.prediction import BATCH_SIZE, Device, Precision, predict

CHUNK = 256
"""Examples a chunk: a kill loses the work on one chunk at most."""

LOGITS = "logits.npy"
PARTIAL = "partial.npy"
DONE = "done.json"


def teacher_logits(
    load: Callable[[], nn.Module],
    inputs: Inputs,
    folder: Path,
    *,
    device: Device,
    progress: Progress,
    precision: Precision = "fp32",
    chunk: int = CHUNK,
) -> NDArray[np.float32]:
    """The teacher's logits on all of `inputs`, float32 (n, labels), read-only and memory-mapped.

    The model is loaded only if something is left to compute. Finished chunks survive a kill; the file gets
    its final name when all of it is there. `folder` belongs to one teacher and one set of inputs.
    """
    final = folder / LOGITS
    if not final.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _fill(
            load().to(device),
            inputs,
            folder,
            device=device,
            progress=progress,
            precision=precision,
            chunk=chunk,
        )
        os.replace(folder / PARTIAL, final)
    logits: NDArray[np.float32] = np.load(final, mmap_mode="r")
    return logits


def _fill(
    model: nn.Module,
    inputs: Inputs,
    folder: Path,
    *,
    device: Device,
    progress: Progress,
    precision: Precision,
    chunk: int,
) -> None:
    """Compute the chunks that `done.json` does not count yet, longest examples first: chunks pad little."""
    order = np.argsort(-inputs.lengths, kind="stable")
    chunks = math.ceil(len(order) / chunk)
    done = _done(folder, chunk)
    with progress.bar("teacher's logits", len(order)) as advance:
        advance(min(done * chunk, len(order)))
        for number in range(done, chunks):
            places = order[number * chunk : (number + 1) * chunk]
            values = predict(
                model, inputs, indices=places, precision=precision, device=device, batch_size=BATCH_SIZE
            )
            path = folder / PARTIAL
            shape = (len(order), values.shape[1])
            target = open_memmap(path, mode="w+" if number == 0 else "r+", dtype=np.float32, shape=shape)
            target[places] = values
            target.flush()
            del target
            write_json(folder / DONE, {"chunks": number + 1, "chunk": chunk})
            advance(len(places))


def _done(folder: Path, chunk: int) -> int:
    """How many chunks of this size are complete."""
    try:
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    return int(done["chunks"]) if done["chunk"] == chunk and (folder / PARTIAL).exists() else 0
