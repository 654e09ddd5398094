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

from compress.encoding.inputs import LOSS_MASK, SELF_GENERATED, Batch
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

NUM_SAMPLES = 3
"""Number of sample answers kept for the report, both from the first steps and from the last ones."""


@dataclass(frozen=True, eq=False)
class Completions(TokenInputs):
    """Prompts with generated completions, of which only the completions are trained on.

    `starts`: int64 (n,), index of the completion's first token. `completion_lengths`: int64 (n,), length of the
    completion, including those of rows that other processes generated and that are empty here.
    """

    starts: NDArray[np.int64] = field(kw_only=True)
    completion_lengths: NDArray[np.int64] = field(kw_only=True)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the rows at `indices`, right-padded.

        Target tokens are found by position, since the end token may double as the padding token.
        """
        rows = np.asarray(indices, np.int64)
        batch = super().batch(rows)
        positions = np.arange(batch[INPUT_IDS].shape[1])
        loss_mask = (positions >= self.starts[rows, None]) & (positions < self.lengths[rows, None])
        return {**batch, LOSS_MASK: loss_mask.astype(np.int64), SELF_GENERATED: np.ones(len(rows), np.int64)}


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
        stats: counts of what was generated so far and the seconds spent, as plain JSON.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        settings: OnPolicySettings,
        template: TokenInputs,
        *,
        parts: int,
        world: World,
        precision: Precision,
        device: Device,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._student, self._settings, self._template, self._parts = student, settings, template, parts
        self._world, self._precision, self._device, self._decode = world, precision, device, decode
        counts = dict.fromkeys(("steps", "answers", "tokens", "ended"), 0)
        self.stats: dict[str, Any] = {**counts, "seconds": 0.0, "teacher_seconds": 0.0, "samples": []}
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()

    def at(self, step: int) -> Completions | None:
        """Return the generated examples for a step; None: use a batch of the data.

        On-policy steps are spread evenly: among the first n there are floor(n * share).
        """
        previous, reached = (math.floor(count * self._settings.share) for count in (step, step + 1))
        if previous == reached:
            return None
        started = time.monotonic()
        completions, ended = self._write(step, self._prompt_batch(previous))
        self.stats["steps"] += 1
        self.stats["answers"] += len(completions)
        self.stats["tokens"] += int(completions.completion_lengths.sum())
        self.stats["ended"] += ended
        self.stats["seconds"] += time.monotonic() - started
        return completions

    def with_teacher(self, teacher: SignalSource, fallback: SignalSource) -> SignalSource:
        """Return answers from `teacher`, run live, for generated batches and from `fallback` for all others."""

        def answer(indices: NDArray[np.int64], student_batch: dict[str, Tensor]) -> Signals:
            if SELF_GENERATED not in student_batch:
                return fallback(indices, student_batch)
            started = self._now()
            signals = teacher(indices, student_batch)
            self.stats["teacher_seconds"] += self._now() - started
            return signals

        return answer

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def _prompt_batch(self, number: int) -> NDArray[np.int64]:
        """Return the indices of a batch of prompts: each once an epoch, bucketed by length, reshuffled."""
        settings = self._settings
        epoch, index = divmod(number, math.ceil(len(settings.prompts) / settings.batch_size))
        if epoch != self._epoch:
            self._batches = shuffled_batches(
                settings.prompts.lengths, settings.batch_size, seed=settings.seed, epoch=epoch
            )
            self._epoch = epoch
        return self._batches[index]

    def _write(self, step: int, prompt_indices: NDArray[np.int64]) -> tuple[Completions, int]:
        """Generate this process's share of the completions; return all rows, and how many ended with an end token."""
        settings, world, count = self._settings, self._world, len(prompt_indices)
        shares = world.local_parts(np.arange(count), self._parts)
        own_rows = [int(row) for indices, _ in shares for row in indices]
        rows = {row: settings.prompts[int(prompt_indices[row])].tolist() for row in own_rows}
        generated: dict[int, list[int]] = {row: [] for row in own_rows}
        with evaluating(self._student), autocast_for(self._precision, self._device):
            for number, token in stream(
                TorchRows(self._student),
                rows.values(),
                settings.most,
                settings.ends,
                Sampling(settings.temperature),
                seeds_for=lambda number: [settings.seed, step, int(prompt_indices[own_rows[number]])],
            ):
                generated[own_rows[number]].append(token)
        lengths, ended = np.zeros(count), np.zeros(count)
        for indices, is_own in shares:
            # A process without a share of a part generates a row that another process counts.
            for row in indices if is_own else ():
                lengths[row], ended[row] = len(generated[row]), generated[row][-1] in settings.ends
        totals = np.array(world.mean([*lengths, *ended])).reshape(2, count) * world.size
        completions = Completions(
            [np.array(rows.get(row, []) + generated.get(row, []), np.int32) for row in range(count)],
            self._template.input_names,
            self._template.pad_id,
            starts=settings.prompts.lengths[prompt_indices],
            completion_lengths=totals[0].round().astype(np.int64),
        )
        self._record_sample(step, rows[own_rows[0]], generated[own_rows[0]])
        return completions, round(totals[1].sum())

    def _record_sample(self, step: int, prompt: list[int], answer: list[int]) -> None:
        """Keep a sample answer, among the first and the most recent ones."""
        ended = answer[-1] in self._settings.ends
        sample = {
            "step": step + 1,
            "prompt": self._decode(prompt),
            "answer": self._decode(answer[: len(answer) - ended]),
            "ended": ended,
        }
        samples = self.stats["samples"]
        self.stats["samples"] = [*samples[:NUM_SAMPLES], *samples[NUM_SAMPLES:][1 - NUM_SAMPLES :], sample]
