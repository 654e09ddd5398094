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
from compress.tasks.base import GenerativeTask, Task
from compress.training.prediction import predict_answers

HELD_OUT_FILE = "held_out.json"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Held-out pairs: `selection` select the student's weights, `scored` are evaluated.

    `documents`: document index of each scored pair, int64 (n,).
    """

    task: Task
    selection: Examples
    scored: Examples
    documents: NDArray[np.int64]


@dataclass(frozen=True)
class HeldOutScores:
    """Held-out pairs, with the scores of the untrained student and, for a control, of the trained one
    (`student_scores`).

    Scores are (2, documents): negative log-likelihood in nats, and number of tokens, of the answers of each document.
    """

    held_out: HeldOut
    untrained_scores: Floats
    student_scores: Floats | None = None

    @classmethod
    def of(cls, ctx: StepContext, held_out: HeldOut, untrained: nn.Module) -> HeldOutScores:
        """Build the exam of a student that learns pairs."""
        return cls(held_out, _scores_by_document(ctx, held_out, untrained))

    @classmethod
    def for_control(cls, ctx: StepContext, untrained: nn.Module) -> HeldOutScores:
        """Build the exam of its control from the file that the student's step wrote."""
        body = ctx.inputs["taught"].read_json(HELD_OUT_FILE)
        items, task = tuple(body["pairs"]), cast(GenerativeTask, ctx.task)
        pairs = Examples.unlabelled(items)
        own = task.conversation_task if body["conversing"] else task.answered_task
        held_out = HeldOut(own, pairs, pairs, np.array(body["documents"]))
        return cls(held_out, _scores_by_document(ctx, held_out, untrained), np.array(body["found"]))

    def training_context(self, ctx: StepContext) -> StepContext:
        """Return the step context with pairs in place of the validation split."""
        data = replace(ctx.data, validation=self.held_out.selection)
        return replace(ctx, task=self.held_out.task, data=data)

    def facts(self, ctx: StepContext, student: nn.Module) -> Mapping[str, Any]:
        """Return perplexities, the gain over the untrained student, and the excess over the student `beside`.

        Both are differences of log perplexity.

        Each has a bootstrap confidence interval over documents. The student's scores are saved for its control.
        """
        pairs, trained_scores = self.held_out, _scores_by_document(ctx, self.held_out, student)
        if self.student_scores is None:
            body = {
                "pairs": list(pairs.scored.texts),
                "documents": pairs.documents.tolist(),
                "conversing": pairs.task.data.is_chat,
                "found": trained_scores.tolist(),
            }
            write_json(ctx.out / HELD_OUT_FILE, body)
        found = [
            trained_scores,
            self.untrained_scores,
            *([] if self.student_scores is None else [self.student_scores]),
        ]
        draws, num_documents = bootstrap_ratios([(score[0], score[1]) for score in found], ctx.seed)
        values = [float(score[0].sum() / score[1].sum()) for score in found]

        def perplexity(index: int) -> list[float]:
            return [
                float(np.exp(one))
                for one in astuple(percentile_interval(values[index], draws[index], num_documents))
            ]

        def apart(first: int, second: int) -> list[float]:
            return list(
                astuple(
                    percentile_interval(
                        values[first] - values[second], draws[first] - draws[second], num_documents
                    )
                )
            )

        return {
            "pairs": len(pairs.scored),
            "documents": len(trained_scores[0]),
            "perplexity": perplexity(0),
            "untaught": perplexity(1),
            "gain": apart(1, 0),
            **({} if self.student_scores is None else {"beside": apart(0, 2)}),
        }


def _scores_by_document(ctx: StepContext, held_out: HeldOut, model: nn.Module) -> Floats:
    inputs = held_out.task.encode(held_out.scored, ctx.out)
    model = model.to(ctx.device)
    outputs = predict_answers(model, inputs, held_out.task, precision="fp32", device=ctx.device)
    places, documents = held_out.documents[outputs["document"]], int(held_out.documents.max()) + 1
    return np.stack([np.bincount(places, outputs[name], documents) for name in ("nats", "tokens")])
