"""generate: a model trained on the labelled training texts writes more of them, for the teacher to label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import SAMPLES
from compress.core.disk.files import write_json
from compress.core.errors import PassError
from compress.core.forms import TEXTS as FORM
from compress.data.splits import Examples
from compress.generation.answers import Answer
from compress.generation.by_label import (
    HELD_OUT,
    KEPT,
    OTHER,
    REASONS,
    REPEATED,
    TEXTS,
    TRAINED,
    Written,
    filter_reasons,
    first_words,
    prompt_for,
)
from compress.generation.reasons import by_reason, first_of_each, in_words
from compress.generation.writing import GenerationSettings, key_of
from compress.models.io.checkpoints import load_model
from compress.profile.specs.generate import GenerateSpec
from compress.runtimes.decoding import Sampling
from compress.step import StepContext, StepResult
from compress.training.prediction import answers
from compress.training.signals.written import answers_to

MORE = 1.25
"""Growth factor of the number of texts tried for a label that lacks accepted ones."""
SHOWN = 40
"""Number of accepted texts in the record, spread over the labels."""
_LETTERS = 240
_OTHER_SAMPLES = 3
_HINTS = {
    TRAINED: "The model has memorized the training texts: lower `finetune.epochs`, or raise `temperature`.",
    HELD_OUT: "Validation and test texts resemble the training texts; raise `temperature`.",
    REPEATED: "Raise `temperature` or `top_p`.",
    OTHER: "Set `agree: false`, or train the model longer (`finetune.epochs`).",
}


def run(ctx: StepContext) -> StepResult:
    """Generate until each label has its share of texts or its tries are exhausted, and save the accepted ones.

    Texts generated before with the same settings are taken from the cache, across runs.

    Raises:
        ModelError: the model cannot generate.
        PassError: no text is accepted.
    """
    desk = _Generation(ctx)
    spec, labels = desk.spec, ctx.data.labels
    wanted = [spec.count // len(labels) + (label < spec.count % len(labels)) for label in range(len(labels))]
    tried = list(wanted)
    short = [label for label, count in enumerate(wanted) if count]
    while True:
        desk.write(short, tried)
        written = desk.written(tried)
        reasons = desk.judged(written, wanted)
        kept = Counter(one.label for one, reason in zip(written, reasons, strict=True) if reason == KEPT)
        short = [
            label
            for label, count in enumerate(wanted)
            if kept[label] < count and tried[label] < spec.tries * count
        ]
        if not short:
            break
        for label in short:
            tried[label] = min(math.ceil(MORE * tried[label]), spec.tries * wanted[label])
    texts = [one for one, reason in zip(written, reasons, strict=True) if reason == KEPT]
    if not texts:
        raise _nothing_kept(reasons)
    right = desk.agree(texts)
    write_json(ctx.out / TEXTS, {"texts": [one.text for one in texts]})
    write_json(ctx.out / SAMPLES, {"samples": desk.samples(written, reasons)})
    agreed = Counter(one.label for one, so in zip(texts, right, strict=True) if so)
    facts: dict[str, Any] = {
        **desk.source,
        "answers": len(written),
        "by_reason": by_reason(reasons, REASONS),
        "kept": len(texts),
        "wanted": spec.count,
        "agreed": agreed.total(),
        "by_label": {
            name: [wanted[label], tried[label], kept[label], agreed[label]]
            for label, name in enumerate(labels)
            if wanted[label]
        },
        **desk.cost(),
    }
    return StepResult(FORM, facts)


class _Generation:
    """Generation and filtering of texts."""

    def __init__(self, ctx: StepContext) -> None:
        self.ctx, self.spec = ctx, ctx.asked(GenerateSpec)
        self.prompts = [prompt_for(self.spec, label) for label in ctx.data.labels]
        self.most = self.spec.longest(ctx.task.data.max_length)
        self.cut_serves = not all(first_words(text, self.most)[1] for text in ctx.data.train.texts)
        self.answers: dict[str, Answer] = {}
        self.new, self.seconds = 0, 0.0
        self._said: dict[str, int] = {}

    @property
    def source(self) -> dict[str, str | None]:
        """The generating model, and the licence under which its output may be trained on."""
        return {"model": self.ctx.inputs["writer"].facts.get("source"), "license": self.spec.license}

    def write(self, labels: Sequence[int], tried: Sequence[int]) -> None:
        """Generate `tried[label]` texts for each of `labels`."""
        seed = self.ctx.seed if self.spec.seed is None else self.spec.seed
        how = Sampling(self.spec.temperature, self.spec.top_k, self.spec.top_p, seed)
        for count in sorted({tried[label] for label in labels}):
            found, cost = answers_to(
                self.ctx,
                self.ctx.inputs["writer"],
                [self.prompts[label] for label in labels if tried[label] == count],
                GenerationSettings(self.most, how, samples=count),
                "texts are written",
                self.spec.batch_size,
            )
            self.answers |= found
            self.new += len(found) - cost["written_before"]
            self.seconds += cost["seconds"]

    def written(self, tried: Sequence[int]) -> list[Written]:
        """Return the generated texts, ordered by sample number: the first text of every label first."""
        return [
            Written(label, " ".join(answer.text.split()), answer.ended != "length")
            for sample in range(max(tried))
            for label, count in enumerate(tried)
            if sample < count
            for answer in [self.answers[key_of(self.prompts[label], sample)]]
        ]

    def judged(self, written: Sequence[Written], wanted: Sequence[int]) -> list[str]:
        """Return why each text is accepted or rejected."""
        assert self.ctx.data.copied is not None
        return filter_reasons(
            written,
            wanted,
            self.ctx.data.train.texts,
            self.ctx.data.copied,
            self.agree if self.spec.agree else None,
            cut_serves=self.cut_serves,
        )

    def agree(self, written: Sequence[Written]) -> list[bool]:
        """Return whether the teacher gives each text the requested label."""
        new = list(dict.fromkeys(one.text for one in written if one.text not in self._said))
        if new:
            self._said |= dict(zip(new, self._labels(new).tolist(), strict=True))
        return [self._said[one.text] == one.label for one in written]

    def _labels(self, texts: Sequence[str]) -> NDArray[np.int64]:
        teacher, task, device = self.ctx.inputs["teacher"], self.ctx.task, self.ctx.device
        inputs = task.encode(Examples.unlabelled(tuple(texts)), teacher.path)
        model = load_model(teacher.path, allow_code=self.ctx.allow_code).to(device)
        found: NDArray[np.int64] = answers(model, inputs, task, precision="fp32", device=device)["label"]
        return found

    def samples(self, written: Sequence[Written], reasons: Sequence[str]) -> list[dict[str, str]]:
        """Return some accepted texts of each label, and some rejected ones for each reason, for the report."""
        each = max(1, SHOWN // len(self.prompts))
        first = first_of_each(
            (
                (one, why)
                for one, why in zip(written, reasons, strict=True)
                if why != KEPT or one.label < SHOWN
            ),
            lambda found: (found[1], found[0].label if found[1] == KEPT else None),
            lambda kind: each if kind[0] == KEPT else _OTHER_SAMPLES,
        )
        samples = [
            {"why": why, "prompt": self.prompts[one.label], "answer": one.text[:_LETTERS]}
            for one, why in first
        ]
        return sorted(samples, key=lambda one: (REASONS.index(one["why"]), one["prompt"]))

    def cost(self) -> dict[str, Any]:
        """Return the total number of generated tokens, and the time spent in this call."""
        trained = self.ctx.inputs["writer"].facts
        return {
            "tokens": sum(len(answer.tokens) for answer in self.answers.values()),
            "written_before": len(self.answers) - self.new,
            "seconds": self.seconds,
            "writer": {name: trained[name] for name in ("validation_score", "steps", "epochs")},
        }


def _nothing_kept(reasons: Sequence[str]) -> PassError:
    counts = Counter(reasons).most_common()
    return PassError(
        f"none of the {len(reasons)} generated texts is kept: {in_words(counts)}",
        where="data.unlabeled.generate",
        hint=_HINTS.get(
            counts[0][0],
            "Check what the model writes, or train it longer (`finetune.epochs`).",
        ),
    )
