"""What a record keeps of single test examples: the beginnings of texts whose answer changed."""

from __future__ import annotations

from compress.core.artifacts import SAMPLES, Artifact
from compress.core.records import Sample, StepRecord, TargetMeasurement
from compress.data.splits import Examples

LENGTH = 120
"""Characters of a text, at most."""
MOST = 1000
"""Texts, at most: those that the model is most sure of."""


def excerpts(baseline: StepRecord, deployed: StepRecord, test: Examples) -> dict[int, str]:
    """The beginnings of texts that the deployed model answers otherwise than the baseline, by their place in the test
    split; on the first target that measured both. None where examples are no texts, or have no one answer."""
    before, after = (
        {one.target: one.accuracy for one in step.measurements if len(one.accuracy.predictions) == len(test)}
        for step in (baseline, deployed)
    )
    shared = next((target for target in before if target in after), None)
    if shared is None:
        return {}
    old, new = before[shared], after[shared]
    changed = [place for place in range(len(test)) if old.predictions[place] != new.predictions[place]]
    if new.confidence:
        changed.sort(key=lambda place: (-new.confidence[place], place))
    items = {place: test.items[place] for place in changed[:MOST]}
    return {place: beginning(item) for place, item in items.items() if isinstance(item, str)}


def with_texts(measurement: TargetMeasurement, *, shown: bool) -> TargetMeasurement:
    """A measurement with its prompts and answers in words, or without them where the report shows no texts."""
    written = measurement.accuracy.written
    if written is None or shown:
        return measurement
    bare = written.model_copy(update={"prompts": (), "expected": (), "answers": ()})
    accuracy = measurement.accuracy.model_copy(update={"written": bare})
    return measurement.model_copy(update={"accuracy": accuracy})


def samples_in(artifact: Artifact) -> tuple[Sample, ...]:
    """Some of the texts that were written for a model to learn; none of most models."""
    if SAMPLES not in artifact.files:
        return ()
    return tuple(Sample.model_validate(one) for one in artifact.read_json(SAMPLES)["samples"])


def beginning(text: str) -> str:
    """The first words of a text on one line, cut at `LENGTH` characters."""
    line = " ".join(text[: 4 * LENGTH].split())
    whole = len(line) <= LENGTH and len(text) <= 4 * LENGTH
    return line if whole else line[: LENGTH - 1].rstrip() + "…"
