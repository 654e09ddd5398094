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
    ACCEPTED,
    DUPLICATE,
    HELD_OUT_COPY,
    OTHER_LABEL,
    REASONS,
    TEXTS_FILE,
    TRAINING_COPY,
    LabelledText,
    filter_reasons,
    first_words,
    prompt_for,
)
from compress.generation.reasons import count_by_reason, format_counts, limit_per_kind
from compress.generation.writing import GenerationSettings, answer_key
from compress.models.io.checkpoints import load_model
from compress.profile.specs.generate import GenerateSpec
from compress.runtimes.decoding import Sampling
from compress.step import StepContext, StepResult
from compress.training.prediction import predict_answers
from compress.training.signals.written import cached_answers

RETRY_GROWTH = 1.25
"""Growth factor of the number of texts tried for a label that lacks accepted ones."""
MAX_ACCEPTED_SAMPLES = 40
"""Number of accepted texts in the record, spread over the labels."""
_MAX_SAMPLE_CHARS = 240
_MAX_REJECTED_SAMPLES = 3
_HINTS = {
    TRAINING_COPY: "The model has memorized the training texts: lower `finetune.epochs`, or raise `temperature`.",
    HELD_OUT_COPY: "Validation and test texts resemble the training texts; raise `temperature`.",
    DUPLICATE: "Raise `temperature` or `top_p`.",
    OTHER_LABEL: "Set `agree: false`, or train the model longer (`finetune.epochs`).",
}


def run(ctx: StepContext) -> StepResult:
    """Generate until each label has its share of texts or its tries are exhausted, and save the accepted ones.

    Texts generated before with the same settings are taken from the cache, across runs.

    Raises:
        ModelError: the model cannot generate.
        PassError: no text is accepted.
    """
    generation = _Generation(ctx)
    spec, labels = generation.spec, ctx.data.labels
    requested = [
        spec.count // len(labels) + (label < spec.count % len(labels)) for label in range(len(labels))
    ]
    attempts = list(requested)
    lacking = [label for label, count in enumerate(requested) if count]
    while True:
        generation.generate(lacking, attempts)
        generated = generation.generated_texts(attempts)
        reasons = generation.filter_reasons(generated, requested)
        kept = Counter(
            text.label for text, reason in zip(generated, reasons, strict=True) if reason == ACCEPTED
        )
        lacking = [
            label
            for label, count in enumerate(requested)
            if kept[label] < count and attempts[label] < spec.tries * count
        ]
        if not lacking:
            break
        for label in lacking:
            attempts[label] = min(math.ceil(RETRY_GROWTH * attempts[label]), spec.tries * requested[label])
    texts = [text for text, reason in zip(generated, reasons, strict=True) if reason == ACCEPTED]
    if not texts:
        raise _nothing_kept(reasons)
    matches = generation.label_matches(texts)
    write_json(ctx.out / TEXTS_FILE, {"texts": [text.text for text in texts]})
    write_json(ctx.out / SAMPLES, {"samples": generation.samples(generated, reasons)})
    agreed = Counter(text.label for text, so in zip(texts, matches, strict=True) if so)
    facts: dict[str, Any] = {
        **generation.source,
        "answers": len(generated),
        "by_reason": count_by_reason(reasons, REASONS),
        "kept": len(texts),
        "wanted": spec.count,
        "agreed": agreed.total(),
        "by_label": {
            name: [requested[label], attempts[label], kept[label], agreed[label]]
            for label, name in enumerate(labels)
            if requested[label]
        },
        **generation.cost(),
    }
    return StepResult(FORM, facts)


class _Generation:
    """Generation and filtering of texts."""

    def __init__(self, ctx: StepContext) -> None:
        self.ctx, self.spec = ctx, ctx.spec_as(GenerateSpec)
        self.prompts = [prompt_for(self.spec, label) for label in ctx.data.labels]
        self.max_words = self.spec.max_text_tokens(ctx.task.data.max_length)
        self.accept_truncated = not all(first_words(text, self.max_words)[1] for text in ctx.data.train.texts)
        self.answers: dict[str, Answer] = {}
        self.num_new, self.seconds = 0, 0.0
        self._predicted_labels: dict[str, int] = {}

    @property
    def source(self) -> dict[str, str | None]:
        """The generating model, and the licence under which its output may be trained on."""
        return {"model": self.ctx.inputs["writer"].facts.get("source"), "license": self.spec.license}

    def generate(self, labels: Sequence[int], attempts: Sequence[int]) -> None:
        """Generate `attempts[label]` texts for each of `labels`."""
        seed = self.ctx.seed if self.spec.seed is None else self.spec.seed
        sampling = Sampling(self.spec.temperature, self.spec.top_k, self.spec.top_p, seed)
        for count in sorted({attempts[label] for label in labels}):
            batch_answers, cost = cached_answers(
                self.ctx,
                self.ctx.inputs["writer"],
                [self.prompts[label] for label in labels if attempts[label] == count],
                GenerationSettings(self.max_words, sampling, samples=count),
                "texts are written",
                self.spec.batch_size,
            )
            self.answers |= batch_answers
            self.num_new += len(batch_answers) - cost["written_before"]
            self.seconds += cost["seconds"]

    def generated_texts(self, attempts: Sequence[int]) -> list[LabelledText]:
        """Return the generated texts, ordered by sample number: the first text of every label first."""
        return [
            LabelledText(label, " ".join(answer.text.split()), answer.ended != "length")
            for sample in range(max(attempts))
            for label, count in enumerate(attempts)
            if sample < count
            for answer in [self.answers[answer_key(self.prompts[label], sample)]]
        ]

    def filter_reasons(self, generated: Sequence[LabelledText], requested: Sequence[int]) -> list[str]:
        """Return why each text is accepted or rejected."""
        assert self.ctx.data.is_heldout_copy is not None
        return filter_reasons(
            generated,
            requested,
            self.ctx.data.train.texts,
            self.ctx.data.is_heldout_copy,
            self.label_matches if self.spec.agree else None,
            accept_truncated=self.accept_truncated,
        )

    def label_matches(self, generated: Sequence[LabelledText]) -> list[bool]:
        """Return whether the teacher gives each text the requested label."""
        unlabelled = list(
            dict.fromkeys(one.text for one in generated if one.text not in self._predicted_labels)
        )
        if unlabelled:
            self._predicted_labels |= dict(
                zip(unlabelled, self._predict_labels(unlabelled).tolist(), strict=True)
            )
        return [self._predicted_labels[one.text] == one.label for one in generated]

    def _predict_labels(self, texts: Sequence[str]) -> NDArray[np.int64]:
        teacher, task, device = self.ctx.inputs["teacher"], self.ctx.task, self.ctx.device
        inputs = task.encode(Examples.unlabelled(tuple(texts)), teacher.path)
        model = load_model(teacher.path, allow_code=self.ctx.allow_code).to(device)
        found: NDArray[np.int64] = predict_answers(model, inputs, task, precision="fp32", device=device)[
            "label"
        ]
        return found

    def samples(self, generated: Sequence[LabelledText], reasons: Sequence[str]) -> list[dict[str, str]]:
        """Return some accepted texts of each label, and some rejected ones for each reason, for the report."""
        per_label = max(1, MAX_ACCEPTED_SAMPLES // len(self.prompts))
        chosen = limit_per_kind(
            (
                (text, reason)
                for text, reason in zip(generated, reasons, strict=True)
                if reason != ACCEPTED or text.label < MAX_ACCEPTED_SAMPLES
            ),
            lambda found: (found[1], found[0].label if found[1] == ACCEPTED else None),
            lambda kind: per_label if kind[0] == ACCEPTED else _MAX_REJECTED_SAMPLES,
        )
        samples = [
            {"why": reason, "prompt": self.prompts[text.label], "answer": text.text[:_MAX_SAMPLE_CHARS]}
            for text, reason in chosen
        ]
        return sorted(samples, key=lambda one: (REASONS.index(one["why"]), one["prompt"]))

    def cost(self) -> dict[str, Any]:
        """Return the total number of generated tokens, and the time spent in this call."""
        writer_facts = self.ctx.inputs["writer"].facts
        return {
            "tokens": sum(len(answer.tokens) for answer in self.answers.values()),
            "written_before": len(self.answers) - self.num_new,
            "seconds": self.seconds,
            "writer": {name: writer_facts[name] for name in ("validation_score", "steps", "epochs")},
        }


def _nothing_kept(reasons: Sequence[str]) -> PassError:
    counts = Counter(reasons).most_common()
    return PassError(
        f"none of the {len(reasons)} generated texts is kept: {format_counts(counts)}",
        where="data.unlabeled.generate",
        hint=_HINTS.get(
            counts[0][0],
            "Check what the model writes, or train it longer (`finetune.epochs`).",
        ),
    )
