"""Held-out pairs: a student's perplexity on their answers before and after training, by document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.core.disk.files import write_json
from compress.data.splits import Examples
from compress.measuring.statistics import bootstrap_ratios, percentile_interval
from compress.step import StepContext
from compress.tasks.base import Task, WritingTask
from compress.training.prediction import answers

FILE = "held_out.json"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs: `chooses` select the student's weights, `scored` are evaluated.

    `documents`: document index of each scored pair, int64 (n,).
    """

    task: Task
    chooses: Examples
    scored: Examples
    documents: NDArray[np.int64]


@dataclass(frozen=True)
class HeldOutScores:
    """Held-out pairs, with the scores of the untrained student and, for a control, of the trained one (`beside`).

    Scores are (2, documents): negative log-likelihood in nats, and number of tokens, of the answers of each document.
    """

    held_out: HeldOut
    before: Floats
    beside: Floats | None = None

    @classmethod
    def of(cls, ctx: StepContext, held_out: HeldOut, untrained: nn.Module) -> HeldOutScores:
        """Build the exam of a student that learns pairs."""
        return cls(held_out, _found(ctx, held_out, untrained))

    @classmethod
    def again(cls, ctx: StepContext, untrained: nn.Module) -> HeldOutScores:
        """Build the exam of its control from the file that the student's step wrote."""
        body = ctx.inputs["taught"].read_json(FILE)
        items, task = tuple(body["pairs"]), cast(WritingTask, ctx.task)
        pairs = Examples.unlabelled(items)
        own = task.conversing if body["conversing"] else task.answered
        held_out = HeldOut(own, pairs, pairs, np.array(body["documents"]))
        return cls(held_out, _found(ctx, held_out, untrained), np.array(body["found"]))

    def learning(self, ctx: StepContext) -> StepContext:
        """Return the step context with pairs in place of the validation split."""
        data = replace(ctx.data, validation=self.held_out.chooses)
        return replace(ctx, task=self.held_out.task, data=data)

    def told(self, ctx: StepContext, student: nn.Module) -> Mapping[str, Any]:
        """Return perplexities, the gain over the untrained student, and the excess over the student `beside`.

        Both are differences of log perplexity.

        Each has a bootstrap confidence interval over documents. The student's scores are saved for its control.
        """
        held, after = self.held_out, _found(ctx, self.held_out, student)
        if self.beside is None:
            body = {
                "pairs": list(held.scored.texts),
                "documents": held.documents.tolist(),
                "conversing": held.task.data.converses,
                "found": after.tolist(),
            }
            write_json(ctx.out / FILE, body)
        found = [after, self.before, *([] if self.beside is None else [self.beside])]
        draws, drawn_from = bootstrap_ratios([(one[0], one[1]) for one in found], ctx.seed)
        values = [float(one[0].sum() / one[1].sum()) for one in found]

        def perplexity(place: int) -> list[float]:
            return [
                float(np.exp(one))
                for one in astuple(percentile_interval(values[place], draws[place], drawn_from))
            ]

        def apart(one: int, other: int) -> list[float]:
            return list(
                astuple(
                    percentile_interval(values[one] - values[other], draws[one] - draws[other], drawn_from)
                )
            )

        return {
            "pairs": len(held.scored),
            "documents": len(after[0]),
            "perplexity": perplexity(0),
            "untaught": perplexity(1),
            "gain": apart(1, 0),
            **({} if self.beside is None else {"beside": apart(0, 2)}),
        }


def _found(ctx: StepContext, held_out: HeldOut, model: nn.Module) -> Floats:
    inputs = held_out.task.encode(held_out.scored, ctx.out)
    model = model.to(ctx.device)
    kept = answers(model, inputs, held_out.task, precision="fp32", device=ctx.device)
    places, documents = held_out.documents[kept["document"]], int(held_out.documents.max()) + 1
    return np.stack([np.bincount(places, kept[name], documents) for name in ("nats", "tokens")])
