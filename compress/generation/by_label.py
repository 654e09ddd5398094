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
from compress.profile.schema import DataSpec, data_of
from compress.profile.specs.generate import LABEL, GenerateSpec
from compress.tasks.base import TrainingData, WritingTask, task_of
from compress.tasks.table import writing_task

TEXTS = "texts.json"
"""File of the accepted texts."""
JUDGED = 256
"""Maximum number of validation texts for choosing the generator's best weights."""
KEPT, SPARE = "kept", "more than were wanted"
CUT, EMPTY, REPEATED = "cut off by the length", "empty", "a near copy of another one"
HELD_OUT, TRAINED = "a near copy of a validation or test text", "a near copy of a training text"
OTHER = "another label by the teacher"
REASONS = (KEPT, CUT, EMPTY, REPEATED, TRAINED, HELD_OUT, OTHER, SPARE)


@dataclass(frozen=True)
class Written:
    """A text generated for a label; `whole`: it was ended by the model, not cut off."""

    label: int
    text: str
    whole: bool = True


def writing_task_of(data: DataSpec) -> WritingTask:
    """Return the task of the model that generates texts for this data."""
    spec = data.generated
    assert spec is not None
    name, said = writing_task(), {"path": data.path, "max_length": spec.room(data.max_length)}
    return cast(WritingTask, task_of(name, data_of(said, name)))


def generator_data(task: WritingTask, data: TrainingData, spec: DataSpec) -> TrainingData:
    """Return the generator's training data: training texts as answers to their labels, some validation texts."""
    generate = spec.generated
    assert generate is not None
    most = generate.longest(spec.max_length)

    def answered(examples: Examples) -> Examples:
        items = tuple(
            task.answered_item(prompt_for(generate, data.labels[label]), begun, ends=whole)
            for text, label in zip(examples.texts, examples.labels.tolist(), strict=True)
            for begun, whole in [first_words(text, most)]
        )
        return Examples.unlabelled(items)

    texts = data.validation.texts
    few = sorted(range(len(texts)), key=lambda place: text_key(texts[place]))[:JUDGED]
    return TrainingData(answered(data.train), answered(data.validation.take(few)), ())


def prompt_for(spec: GenerateSpec, label: str) -> str:
    """Return the prompt for a text of a label."""
    return spec.ask.replace(LABEL, re.sub("[_-]+", " ", label).strip())


def first_words(text: str, most: int) -> tuple[str, bool]:
    """Return the first `most` words of a text, on one line, and whether that is all of it."""
    words = text.split()
    return " ".join(words[:most]), len(words) <= most


def filter_reasons(
    written: Sequence[Written],
    wanted: Sequence[int],
    trained: Sequence[str],
    copied: Callable[[Sequence[str]], Sequence[bool]],
    agree: Callable[[Sequence[Written]], Sequence[bool]] | None = None,
    *,
    cut_serves: bool = False,
) -> list[str]:
    """Return for each text `KEPT` or why it is dropped; a further text changes nothing for earlier ones.

    Args:
        wanted: maximum number of texts for each label.
        trained: the training texts.
        copied: returns which of the texts are near-duplicates of held-out ones.
        agree: returns which of the texts the teacher assigns to the requested label; None: not checked.
        cut_serves: whether a text that was cut off is acceptable.
    """
    reasons = [
        EMPTY if not re.search(r"\w", one.text) else KEPT if one.whole or cut_serves else CUT
        for one in written
    ]

    def drop(why: Callable[[Sequence[Written]], Sequence[str | None]]) -> None:
        places = [place for place, reason in enumerate(reasons) if reason == KEPT]
        for place, reason in zip(places, why([written[place] for place in places]), strict=True):
            reasons[place] = reason or KEPT

    drop(lambda left: [HELD_OUT if known else None for known in copied([one.text for one in left])])
    # Before deduplication, so that a dropped text does not make a text of another label a duplicate.
    if agree is not None:
        drop(lambda left: [None if right else OTHER for right in agree(left)])
    drop(
        lambda left: [
            None if one is None else TRAINED if one.known else REPEATED
            for one in find_duplicates([one.text for one in left], trained)
        ]
    )
    counts = Counter[int]()
    for place, one in enumerate(written):
        if reasons[place] == KEPT:
            counts[one.label] += 1
            reasons[place] = KEPT if counts[one.label] <= wanted[one.label] else SPARE
    return reasons


def written_examples(folder: Path) -> Examples:
    """Load the accepted texts of an artifact, without labels."""
    texts = read_mapping(folder / TEXTS)["texts"]
    return Examples.unlabelled(tuple(texts))
