"""Steps in which a student learns from what it writes itself, with the weights that it has by then.

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

from compress.encoding.inputs import LEARNT, WRITTEN, Batch
from compress.encoding.tokens import INPUT_IDS, TokenInputs
from compress.models.anatomy.observing import evaluating
from compress.runtimes.decoding import Sampling, stream
from compress.runtimes.torch_rows import TorchRows
from compress.store.flat import Ragged
from compress.training.batches import shuffled_batches
from compress.training.distributed.world import World
from compress.training.prediction import Device, Precision, arithmetic
from compress.training.signals.answers import Answers
from compress.training.signals.capture import Signals

SHOWN = 3
"""Answers that are kept to be shown, of the first steps and of the last ones."""


@dataclass(frozen=True, eq=False)
class OwnTexts(TokenInputs):
    """Prompts with what was written behind them, of which that alone is learnt.

    `begun`: int64 (n,), where it begins. `written`: int64 (n,), how many tokens of it there are, in whichever process
    they stand: in the others a row is empty.
    """

    begun: NDArray[np.int64] = field(kw_only=True)
    written: NDArray[np.int64] = field(kw_only=True)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The rows at `indices`, padded behind; by its place alone a token is known to be learnt, as the one that ends
        an answer may be the one that pads it."""
        chosen = np.asarray(indices, np.int64)
        batch = super().batch(chosen)
        places = np.arange(batch[INPUT_IDS].shape[1])
        learnt = (places >= self.begun[chosen, None]) & (places < self.lengths[chosen, None])
        return {**batch, LEARNT: learnt.astype(np.int64), WRITTEN: np.ones(len(chosen), np.int64)}


@dataclass(frozen=True)
class Writes:
    """How a student writes: in which `share` of the steps, to which prompts (token ids), so many of them in a step, at
    most how many tokens to each, up to one of `ends`."""

    share: float
    prompts: Ragged
    batch_size: int
    most: int
    ends: tuple[int, ...]
    temperature: float
    seed: int


class OnPolicy:
    """What a student shows itself in some of the steps of a training.

    An answer hangs on the weights, the seed, the step and the prompt: not on the prompts beside it, nor on the process
    that writes it, but for the last bits of what a product of several rows comes to.

    Args:
        student: writes, whatever it is trained on meanwhile.
        like: its inputs, whose names and padding are those of its own texts.
        parts: as `TrainingSpec.accumulate`.
        said: the text of tokens.

    Attributes:
        told: what was written so far, and the seconds that it took here, as plain JSON.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        how: Writes,
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

    def at(self, step: int) -> OwnTexts | None:
        """What is shown in a step; None: a batch of the data.

        The steps in which it writes are spread evenly: of the first n they are n times the share, rounded down.
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

    def judged(self, teacher: Answers, otherwise: Answers) -> Answers:
        """A `teacher` that runs along for what the student wrote, and whoever teaches the rest."""

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
        """The prompts of a batch of them: all once, of like length together, in another order each time round."""
        how = self._how
        epoch, place = divmod(number, math.ceil(len(how.prompts) / how.batch_size))
        if epoch != self._epoch:
            self._batches = shuffled_batches(how.prompts.lengths, how.batch_size, seed=how.seed, epoch=epoch)
            self._epoch = epoch
        return self._batches[place]

    def _write(self, step: int, chosen: NDArray[np.int64]) -> tuple[OwnTexts, int]:
        """The texts of a step, of which this process writes its share, and how many of all ended by themselves."""
        how, world, count = self._how, self._world, len(chosen)
        shares = world.shares(np.arange(count), self._parts)
        mine = [int(row) for indices, _ in shares for row in indices]
        rows = {row: how.prompts[int(chosen[row])].tolist() for row in mine}
        written: dict[int, list[int]] = {row: [] for row in mine}
        with evaluating(self._student), arithmetic(self._precision, self._device):
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
            # A process without a share of a part writes a row that is another's.
            for row in indices if own else ():
                lengths[row], ended[row] = len(written[row]), written[row][-1] in how.ends
        known = np.array(world.mean([*lengths, *ended])).reshape(2, count) * world.size
        texts = OwnTexts(
            [np.array(rows.get(row, []) + written.get(row, []), np.int32) for row in range(count)],
            self._like.input_names,
            self._like.pad_id,
            begun=how.prompts.lengths[chosen],
            written=known[0].round().astype(np.int64),
        )
        self._sample(step, rows[mine[0]], written[mine[0]])
        return texts, round(known[1].sum())

    def _sample(self, step: int, prompt: list[int], answer: list[int]) -> None:
        """Keep an answer of the first steps and of the last ones."""
        ended = answer[-1] in self._how.ends
        said = {
            "step": step + 1,
            "prompt": self._said(prompt),
            "answer": self._said(answer[: len(answer) - ended]),
            "ended": ended,
        }
        before = self.told["samples"]
        self.told["samples"] = [*before[:SHOWN], *before[SHOWN:][1 - SHOWN :], said]
