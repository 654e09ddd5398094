"""Texts by their labels: what a model is shown so that it writes further ones, and which of these are kept.

Anaby-Tavor et al., "Do Not Have Enough Data? Deep Learning to the Rescue!" (LAMBADA), 2020. Their labels are those
that were asked for, so they keep the texts that a classifier gives these most surely. Here too a text goes to which the
teacher gives another label; its student then learns the teacher's probabilities, as in He et al., "Generate, Annotate,
and Learn", 2022, who keep all texts (`agree: false`).
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
from compress.generation.copies import originals
from compress.profile.schema import DataSpec, data_of
from compress.profile.specs.generate import LABEL, GenerateSpec
from compress.tasks.base import TrainingData, WritingTask, task_of
from compress.tasks.table import writing_task

TEXTS = "texts.json"
"""The texts that were kept."""
JUDGED = 256
"""Validation texts by which the weights of who writes are chosen, at most."""
KEPT, SPARE = "kept", "more than were wanted"
CUT, EMPTY, REPEATED = "cut off by the length", "empty", "a near copy of another one"
HELD_OUT, TRAINED = "a near copy of a validation or test text", "a near copy of a training text"
OTHER = "another label by the teacher"
REASONS = (KEPT, CUT, EMPTY, REPEATED, TRAINED, HELD_OUT, OTHER, SPARE)


@dataclass(frozen=True)
class Written:
    """A text that was written for a label; `whole`: its writer ended it."""

    label: int
    text: str
    whole: bool = True


def writing_task_of(data: DataSpec) -> WritingTask:
    """The task of who writes further texts of this data."""
    spec = data.generated
    assert spec is not None
    name, said = writing_task(), {"path": data.path, "max_length": spec.room(data.max_length)}
    return cast(WritingTask, task_of(name, data_of(said, name)))


def lessons(task: WritingTask, data: TrainingData, spec: DataSpec) -> TrainingData:
    """The training texts as answers to their labels, and `JUDGED` of the validation texts."""
    generate = spec.generated
    assert generate is not None
    most = generate.longest(spec.max_length)

    def answered(examples: Examples) -> Examples:
        items = tuple(
            task.answered_item(asked(generate, data.labels[label]), begun, ends=whole)
            for text, label in zip(examples.texts, examples.labels.tolist(), strict=True)
            for begun, whole in [beginning(text, most)]
        )
        return Examples.unlabelled(items)

    texts = data.validation.texts
    few = sorted(range(len(texts)), key=lambda place: text_key(texts[place]))[:JUDGED]
    return TrainingData(answered(data.train), answered(data.validation.take(few)), ())


def asked(spec: GenerateSpec, label: str) -> str:
    """What a text of a label is written behind."""
    return spec.ask.replace(LABEL, re.sub("[_-]+", " ", label).strip())


def beginning(text: str, most: int) -> tuple[str, bool]:
    """So many words of a text, on one line, and whether that is all of it."""
    words = text.split()
    return " ".join(words[:most]), len(words) <= most


def chosen(
    written: Sequence[Written],
    wanted: Sequence[int],
    trained: Sequence[str],
    copied: Callable[[Sequence[str]], Sequence[bool]],
    agree: Callable[[Sequence[Written]], Sequence[bool]] | None = None,
    *,
    cut_serves: bool = False,
) -> list[str]:
    """Of each text `KEPT`, or why it goes. The first ones stay: a text more changes nothing for those before it.

    Args:
        wanted: texts of each label, at most.
        trained: the training texts.
        copied: of texts, which are near copies of those that are held out.
        agree: of texts, which of them the teacher gives the label that was asked for; None: that decides nothing.
        cut_serves: whether a text that did not end is one.
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
    # Before copies: a text that goes makes none of another label a copy of it.
    if agree is not None:
        drop(lambda left: [None if right else OTHER for right in agree(left)])
    drop(
        lambda left: [
            None if one is None else TRAINED if one.known else REPEATED
            for one in originals([one.text for one in left], trained)
        ]
    )
    counts = Counter[int]()
    for place, one in enumerate(written):
        if reasons[place] == KEPT:
            counts[one.label] += 1
            reasons[place] = KEPT if counts[one.label] <= wanted[one.label] else SPARE
    return reasons


def written_examples(folder: Path) -> Examples:
    """The texts of an artifact that holds those that were kept, without labels."""
    texts = read_mapping(folder / TEXTS)["texts"]
    return Examples.unlabelled(tuple(texts))
