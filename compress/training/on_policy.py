"""On-policy steps: a student is trained on text that it generates itself with its current weights.

Agarwal et al.: On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes, 2023
(arXiv:2306.13649).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compress.encoding.inputs import LOSS_MASK, WRITTEN, Batch
from compress.encoding.tokens import INPUT_IDS, TokenInputs
from compress.models.anatomy.observing import evaluating
from compress.runtimes.decoding import Sampling, stream
from compress.runtimes.torch_rows import TorchRows
from compress.store.flat import Ragged
from compress.training.batches import shuffled_batches
from compress.training.distributed.world import World
from compress.training.prediction import Device, Precision, autocast_for
from compress.training.signals.answers import SignalSource
from compress.training.signals.capture import Signals

SHOWN = 3
"""Number of sample answers kept for the report, both from the first steps and from the last ones."""


@dataclass(frozen=True, eq=False)
class Completions(TokenInputs):
    """Prompts with generated completions, of which only the completions are trained on.

    `begun`: int64 (n,), index of the completion's first token. `written`: int64 (n,), length of the completion,
    including those of rows that other processes generated and that are empty here.
    """

    begun: NDArray[np.int64] = field(kw_only=True)
    written: NDArray[np.int64] = field(kw_only=True)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the rows at `indices`, right-padded.

        Target tokens are found by position, since the end token may double as the padding token.
        """
        chosen = np.asarray(indices, np.int64)
        batch = super().batch(chosen)
        places = np.arange(batch[INPUT_IDS].shape[1])
        learnt = (places >= self.begun[chosen, None]) & (places < self.lengths[chosen, None])
        return {**batch, LOSS_MASK: learnt.astype(np.int64), WRITTEN: np.ones(len(chosen), np.int64)}


@dataclass(frozen=True)
class OnPolicySettings:
    """Generation settings of on-policy steps.

    `share`: fraction of the steps that are on-policy; `prompts`: token ids; `batch_size`: prompts per step;
    `most`: maximum new tokens; `ends`: end tokens.
    """

    share: float
    prompts: Ragged
    batch_size: int
    most: int
    ends: tuple[int, ...]
    temperature: float
    seed: int


class OnPolicy:
    """The on-policy steps of a training: the student's own completions replace the batch.

    A completion depends on the weights, the seed, the step and the prompt, but not on the other prompts in the
    batch or on the process that generates it, except for floating-point differences between batch shapes.

    Args:
        student: the model that generates, also while a larger module that contains it is trained.
        like: the student's inputs; input names and padding id are taken from them.
        parts: as `TrainingSpec.accumulate`.
        said: decodes token ids to text.

    Attributes:
        told: counts of what was generated so far and the seconds spent, as plain JSON.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        how: OnPolicySettings,
        like: TokenInputs,
        *,
        parts: int,
        world: World,
        precision: Precision,
        device: Device,
        said: Callable[[Sequence[int]], str],
    ) -> None:
        self._student, self._how, self._like, self._parts = student, how, like, parts
        self._world, self._precision, self._device, self._said = world, precision, device, said
        counted = dict.fromkeys(("steps", "answers", "tokens", "ended"), 0)
        self.told: dict[str, Any] = {**counted, "seconds": 0.0, "teacher_seconds": 0.0, "samples": []}
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()

    def at(self, step: int) -> Completions | None:
        """Return the generated examples for a step; None: use a batch of the data.

        On-policy steps are spread evenly: among the first n there are floor(n * share).
        """
        before, after = (math.floor(count * self._how.share) for count in (step, step + 1))
        if before == after:
            return None
        started = time.monotonic()
        texts, ended = self._write(step, self._batch(before))
        self.told["steps"] += 1
        self.told["answers"] += len(texts)
        self.told["tokens"] += int(texts.written.sum())
        self.told["ended"] += ended
        self.told["seconds"] += time.monotonic() - started
        return texts

    def judged(self, teacher: SignalSource, otherwise: SignalSource) -> SignalSource:
        """Return answers from `teacher`, run live, for generated batches and from `otherwise` for all others."""

        def answer(indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
            if WRITTEN not in shown:
                return otherwise(indices, shown)
            started = self._now()
            found = teacher(indices, shown)
            self.told["teacher_seconds"] += self._now() - started
            return found

        return answer

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def _batch(self, number: int) -> NDArray[np.int64]:
        """Return the indices of a batch of prompts: each once an epoch, bucketed by length, reshuffled."""
        how = self._how
        epoch, place = divmod(number, math.ceil(len(how.prompts) / how.batch_size))
        if epoch != self._epoch:
            self._batches = shuffled_batches(how.prompts.lengths, how.batch_size, seed=how.seed, epoch=epoch)
            self._epoch = epoch
        return self._batches[place]

    def _write(self, step: int, chosen: NDArray[np.int64]) -> tuple[Completions, int]:
        """Generate this process's share of the completions; return all rows, and how many ended with an end token."""
        how, world, count = self._how, self._world, len(chosen)
        shares = world.shares(np.arange(count), self._parts)
        mine = [int(row) for indices, _ in shares for row in indices]
        rows = {row: how.prompts[int(chosen[row])].tolist() for row in mine}
        written: dict[int, list[int]] = {row: [] for row in mine}
        with evaluating(self._student), autocast_for(self._precision, self._device):
            for number, token in stream(
                TorchRows(self._student),
                rows.values(),
                how.most,
                how.ends,
                Sampling(how.temperature),
                seeds=lambda number: [how.seed, step, int(chosen[mine[number]])],
            ):
                written[mine[number]].append(token)
        lengths, ended = np.zeros(count), np.zeros(count)
        for indices, own in shares:
            # A process without a share of a part generates a row that another process counts.
            for row in indices if own else ():
                lengths[row], ended[row] = len(written[row]), written[row][-1] in how.ends
        known = np.array(world.mean([*lengths, *ended])).reshape(2, count) * world.size
        texts = Completions(
            [np.array(rows.get(row, []) + written.get(row, []), np.int32) for row in range(count)],
            self._like.input_names,
            self._like.pad_id,
            begun=how.prompts.lengths[chosen],
            written=known[0].round().astype(np.int64),
        )
        self._sample(step, rows[mine[0]], written[mine[0]])
        return texts, round(known[1].sum())

    def _sample(self, step: int, prompt: list[int], answer: list[int]) -> None:
        """Keep a sample answer, among the first and the most recent ones."""
        ended = answer[-1] in self._how.ends
        said = {
            "step": step + 1,
            "prompt": self._said(prompt),
            "answer": self._said(answer[: len(answer) - ended]),
            "ended": ended,
        }
        before = self.told["samples"]
        self.told["samples"] = [*before[:SHOWN], *before[SHOWN:][1 - SHOWN :], said]
