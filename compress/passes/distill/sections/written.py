"""Report section on texts written by a teacher: acceptance by reason, cost, held-out pairs, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.core.records import RunRecord, Sample, StepRecord
from compress.core.units import format_seconds
from compress.passes.distill.kind import HELD_OUT, WRITTEN
from compress.passes.distill.sections.teaching import sample_rows
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.kept import KEPT
from compress.reporting.data.row import ordered
from compress.reporting.render.document import Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, percent

_SHOWN = 5
"""Samples per step and reason on the page."""


def written(run: RunRecord) -> Section:
    """Build the section: shares by reason, right answers per prompt, costs, held-out pairs and samples."""
    every = [*_told(run, WRITTEN)]
    # A control learns the same texts: report them once.
    found = [(step, told) for step, told in every if step.kind == DistillSpec.kind]
    reasons, asked = (
        [
            row(step.step, reason, count(number), percent(number / told[of]))
            for step, told in whose
            for reason, number in told["by_reason"].items()
        ]
        for whose, of in ((found, "answers"), (_own_prompts(found), "prompts"))
    )
    by_prompt = [
        row(step.step, right, count(number), percent(number / told["prompts"]))
        for step, told in found
        for right, number in told.get("right_by_prompt", {}).items()
    ]
    costs = [
        row(
            step.step,
            told["model"] or MISSING,
            told["license"],
            count(told["prompts"]),
            MISSING if "answers" not in told else count(told["answers"]),
            MISSING if told["tokens"] is None else count(told["tokens"]),
            count(told["written_before"]),
            format_seconds(told["seconds"]),
        )
        for step, told in (*_own_prompts(found), *found)
    ]
    samples = [line for step, _ in every for line in sample_rows(step, _shown(step))]
    held_out = [
        row(
            step.step,
            count(told["documents"]),
            count(told["pairs"]),
            _within(told["perplexity"]),
            _within(told["untaught"]),
            _within(told["gain"]),
            _within(told["beside"]) if "beside" in told else MISSING,
        )
        for step, told in _told(run, HELD_OUT)
    ]
    tables = (
        Table("Generated prompts", ("Step", "", "prompts", "share"), tuple(asked), frozenset({1})),
        Table("Generated answers", ("Step", "", "answers", "share"), tuple(reasons), frozenset({1})),
        Table(
            "Right answers per prompt",
            ("Step", "right answers", "prompts", "share"),
            tuple(by_prompt),
        ),
        Table(
            "Generating model and cost",
            ("Step", "teacher", "licence", "prompts", "answers", "tokens", "written before", "time"),
            tuple(costs),
            frozenset({1, 2}),
        ),
        Table(
            "Held-out pairs",
            ("Step", "documents", "pairs", "perplexity", "untrained", "gain", "control above the student"),
            tuple(held_out),
        ),
        Table("Samples", ("Step", "", "prompt", "answer"), tuple(samples), frozenset({1, 2, 3})),
    )
    return section_of("written-texts", "What the teacher wrote", *tables, words=tuple(_words(every)))


def _words(found: list[tuple[StepRecord, Mapping[str, Any]]]) -> Iterator[str]:
    if found:
        yield (
            "Tokens: all tokens generated for these answers. Answers written before were reused, and the time is that "
            "of the others."
        )
    for step, told in found:
        if step.kind != DistillSpec.kind:
            yield (
                f"{step.step} learnt only the answers of the same texts. Judge it by its right answers: its perplexity "
                "is on the data's answers including their traces, which it was not trained to write."
            )
            continue
        left = []
        if told["prompts_left_out"]:
            left.append(f"no answer is kept for {count(told['prompts_left_out'])} prompts")
        if "prompts_too_long" in told:
            left.append(
                f"{count(told['prompts_too_long'])} prompts were skipped, as they leave no room for an answer"
            )
        if "passages_left_out" in told:
            left.append(
                f"{count(told['passages_left_out'])} passages were skipped as near-duplicates of others or of held-out "
                "ones"
            )
        if "own_answers" in told:
            left.append(f"{count(told['own_answers'])} answers of the data are used too")
        if "prompt_tokens" in told:
            left.append(f"the server read {count(told['prompt_tokens'])} prompt tokens")
        if left:
            yield f"{step.step}: {'; '.join(left)}."
    if any("documents" in told for _, told in found):
        yield (
            "Pairs were written from the training documents, and held-out pairs from the validation documents. "
            "Perplexity is on the answers of held-out pairs that were not used to choose weights; `untrained` is that "
            "of the student before training. `gain` and `control above the student` are differences of log perplexity. "
            "Intervals (95 %) are bootstraps over the documents. `samples.jsonl` beside this report holds pairs with "
            "their passages."
        )


def _own_prompts(
    found: list[tuple[StepRecord, Mapping[str, Any]]],
) -> list[tuple[StepRecord, Mapping[str, Any]]]:
    """Return the same statistics for prompts that the teacher wrote itself."""
    who = ("model", "license")
    return [
        (step, {**{name: told[name] for name in who}, **told["own_prompts"]})
        for step, told in found
        if "own_prompts" in told
    ]


def _told(run: RunRecord, fact: str) -> Iterator[tuple[StepRecord, Mapping[str, Any]]]:
    # Later steps inherit the facts of their input model.
    kinds = (DistillSpec.kind, f"{DistillSpec.kind}.control")
    for step in ordered(run):
        told = step.facts.get(fact)
        if step.kind in kinds and isinstance(told, Mapping):
            yield step, told


def _shown(step: StepRecord) -> Iterator[Sample]:
    """Yield the first teacher samples of each reason, for a control those that it learnt.

    A file beside the report has all of them.
    """
    counts = Counter[str]()
    for one in step.samples:
        counts[one.why] += one.by == "teacher"
        learnt = step.kind == DistillSpec.kind or one.why == KEPT
        if one.by == "teacher" and counts[one.why] <= _SHOWN and learnt:
            yield one


def _within(value: Sequence[float]) -> str:
    """Format a value with its interval."""
    return "{:.3g} ({:.3g} to {:.3g})".format(*value)
