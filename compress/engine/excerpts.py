"""Excerpts of texts for the record of a run: test texts whose prediction changed, generated texts, answers."""

from __future__ import annotations

from compress.core.artifacts import SAMPLES, Artifact
from compress.core.records import Sample, StepRecord, TargetMeasurement
from compress.data.splits import Examples

MAX_CHARACTERS = 120
"""Maximum number of characters of a text."""
MAX_EXCERPTS = 1000
"""Maximum number of texts; those with the highest confidence are kept."""


def excerpts(baseline: StepRecord, deployed: StepRecord, test: Examples) -> dict[int, str]:
    """Return the beginnings of texts that the deployed model and the baseline predict differently, by index in the test
    split, on the first target that measured both; empty if examples are not texts or have no predictions."""
    before, after = (
        {one.target: one.accuracy for one in step.measurements if len(one.accuracy.predictions) == len(test)}
        for step in (baseline, deployed)
    )
    shared_target = next((target for target in before if target in after), None)
    if shared_target is None:
        return {}
    old, new = before[shared_target], after[shared_target]
    changed = [index for index in range(len(test)) if old.predictions[index] != new.predictions[index]]
    if new.confidence:
        changed.sort(key=lambda place: (-new.confidence[place], place))
    texts = {index: test.items[index] for index in changed[:MAX_EXCERPTS]}
    return {index: beginning(item) for index, item in texts.items() if isinstance(item, str)}


def redact_texts(measurement: TargetMeasurement, *, keep: bool) -> TargetMeasurement:
    """Return a measurement with its prompts and generated answers, or without them unless `keep`."""
    written = measurement.accuracy.written
    if written is None or keep:
        return measurement
    redacted = written.model_copy(update={"prompts": (), "expected": (), "answers": ()})
    accuracy = measurement.accuracy.model_copy(update={"written": redacted})
    return measurement.model_copy(update={"accuracy": accuracy})


def samples_in(artifact: Artifact) -> tuple[Sample, ...]:
    """Return the stored sample of generated training texts; empty for most models."""
    if SAMPLES not in artifact.files:
        return ()
    return tuple(Sample.model_validate(one) for one in artifact.read_json(SAMPLES)["samples"])


def beginning(text: str) -> str:
    """Return the beginning of a text as one line, truncated to `MAX_CHARACTERS` characters."""
    line = " ".join(text[: 4 * MAX_CHARACTERS].split())
    fits = len(line) <= MAX_CHARACTERS and len(text) <= 4 * MAX_CHARACTERS
    return line if fits else line[: MAX_CHARACTERS - 1].rstrip() + "…"
