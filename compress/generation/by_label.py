"""Labelled text generation: training a model to write texts for a label, and filtering what it writes.

Anaby-Tavor et al., "Do Not Have Enough Data? Deep Learning to the Rescue!" (LAMBADA), 2020. They use the
requested labels, so they keep the texts that a classifier assigns to them most confidently. Here a text to
which the teacher gives another label is dropped as well; the student then learns the teacher's probabilities,
as in He et al., "Generate, Annotate, and Learn", 2022, who keep all texts (`agree: false`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from compress.core.disk.reading import read_mapping
from compress.data.splits import Examples
from compress.data.splitting import text_key
from compress.generation.copies import find_duplicates
from compress.profile.schema import DataSpec, validate_data
from compress.profile.specs.generate import LABEL, GenerateSpec
from compress.tasks.base import GenerativeTask, TrainingData, task_of
from compress.tasks.table import generative_task

TEXTS_FILE = "texts.json"
"""File of the accepted texts."""
MAX_VALIDATION_TEXTS = 256
"""Maximum number of validation texts for choosing the generator's best weights."""
ACCEPTED, SURPLUS = "kept", "more than were wanted"
TRUNCATED, EMPTY, DUPLICATE = "cut off by the length", "empty", "a near copy of another one"
HELD_OUT_COPY, TRAINING_COPY = "a near copy of a validation or test text", "a near copy of a training text"
OTHER_LABEL = "another label by the teacher"
REASONS = (ACCEPTED, TRUNCATED, EMPTY, DUPLICATE, TRAINING_COPY, HELD_OUT_COPY, OTHER_LABEL, SURPLUS)


@dataclass(frozen=True)
class LabelledText:
    """A text generated for a label; `is_complete`: it was ended by the model, not cut off."""

    label: int
    text: str
    is_complete: bool = True


def writing_task_of(data: DataSpec) -> GenerativeTask:
    """Return the task of the model that generates texts for this data."""
    spec = data.generate_spec
    assert spec is not None
    name, settings = generative_task(), {"path": data.path, "max_length": spec.needed_tokens(data.max_length)}
    return cast(GenerativeTask, task_of(name, validate_data(settings, name)))


def generator_data(task: GenerativeTask, data: TrainingData, spec: DataSpec) -> TrainingData:
    """Return the generator's training data: training texts as answers to their labels, some validation texts."""
    generate = spec.generate_spec
    assert generate is not None
    max_words = generate.max_text_tokens(spec.max_length)

    def answered(examples: Examples) -> Examples:
        answered_items = tuple(
            task.answered_item(prompt_for(generate, data.labels[label]), begun, ends=is_complete)
            for text, label in zip(examples.texts, examples.labels.tolist(), strict=True)
            for begun, is_complete in [first_words(text, max_words)]
        )
        return Examples.unlabelled(answered_items)

    texts = data.validation.texts
    few = sorted(range(len(texts)), key=lambda place: text_key(texts[place]))[:MAX_VALIDATION_TEXTS]
    return TrainingData(answered(data.train), answered(data.validation.take(few)), ())


def prompt_for(spec: GenerateSpec, label: str) -> str:
    """Return the prompt for a text of a label."""
    return spec.ask.replace(LABEL, re.sub("[_-]+", " ", label).strip())


def first_words(text: str, max_words: int) -> tuple[str, bool]:
    """Return the first `max_words` words of a text, on one line, and whether that is all of it."""
    words = text.split()
    return " ".join(words[:max_words]), len(words) <= max_words


def filter_reasons(
    generated: Sequence[LabelledText],
    max_per_label: Sequence[int],
    training_texts: Sequence[str],
    is_heldout_copy: Callable[[Sequence[str]], Sequence[bool]],
    label_matches: Callable[[Sequence[LabelledText]], Sequence[bool]] | None = None,
    *,
    accept_truncated: bool = False,
) -> list[str]:
    """Return for each text `ACCEPTED` or why it is dropped; a further text changes nothing for earlier ones.

    Args:
        max_per_label: maximum number of texts for each label.
        training_texts: the training texts.
        is_heldout_copy: returns which of the texts are near-duplicates of held-out ones.
        label_matches: returns which of the texts the teacher assigns to the requested label; None: not checked.
        accept_truncated: whether a text that was cut off is acceptable.
    """
    reasons = [
        EMPTY
        if not re.search(r"\w", text.text)
        else ACCEPTED
        if text.is_complete or accept_truncated
        else TRUNCATED
        for text in generated
    ]

    def drop(reasons_of: Callable[[Sequence[LabelledText]], Sequence[str | None]]) -> None:
        indices = [index for index, reason in enumerate(reasons) if reason == ACCEPTED]
        for index, reason in zip(indices, reasons_of([generated[index] for index in indices]), strict=True):
            reasons[index] = reason or ACCEPTED

    drop(
        lambda left: [
            HELD_OUT_COPY if known else None for known in is_heldout_copy([one.text for one in left])
        ]
    )
    # Before deduplication, so that a dropped text does not make a text of another label a duplicate.
    if label_matches is not None:
        drop(lambda left: [None if right else OTHER_LABEL for right in label_matches(left)])
    drop(
        lambda left: [
            None if one is None else TRAINING_COPY if one.is_known else DUPLICATE
            for one in find_duplicates([one.text for one in left], training_texts)
        ]
    )
    counts = Counter[int]()
    for index, text in enumerate(generated):
        if reasons[index] == ACCEPTED:
            counts[text.label] += 1
            reasons[index] = ACCEPTED if counts[text.label] <= max_per_label[text.label] else SURPLUS
    return reasons


def written_examples(folder: Path) -> Examples:
    """Load the accepted texts of an artifact, without labels."""
    texts = read_mapping(folder / TEXTS_FILE)["texts"]
    return Examples.unlabelled(tuple(texts))
