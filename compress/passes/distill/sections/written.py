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
from compress.passes.distill.written.kept import ACCEPTED
from compress.reporting.data.row import ordered_steps
from compress.reporting.render.document import Section, Table, row, section_of
from compress.reporting.render.numbers import MISSING, count, percent

_MAX_SAMPLES = 5
"""Samples per step and reason on the page."""


def written(run: RunRecord) -> Section:
    """Build the section: shares by reason, right answers per prompt, costs, held-out pairs and samples."""
    all_entries = [*_steps_with(run, WRITTEN)]
    # A control learns the same texts: report them once.
    entries = [(step, facts) for step, facts in all_entries if step.kind == DistillSpec.kind]
    answer_rows, prompt_rows = (
        [
            row(step.step, reason, count(number), percent(number / facts[total_key]))
            for step, facts in group
            for reason, number in facts["by_reason"].items()
        ]
        for group, total_key in ((entries, "answers"), (_own_prompts(entries), "prompts"))
    )
    histogram_rows = [
        row(step.step, right, count(number), percent(number / facts["prompts"]))
        for step, facts in entries
        for right, number in facts.get("right_by_prompt", {}).items()
    ]
    cost_rows = [
        row(
            step.step,
            facts["model"] or MISSING,
            facts["license"],
            count(facts["prompts"]),
            MISSING if "answers" not in facts else count(facts["answers"]),
            MISSING if facts["tokens"] is None else count(facts["tokens"]),
            count(facts["written_before"]),
            format_seconds(facts["seconds"]),
        )
        for step, facts in (*_own_prompts(entries), *entries)
    ]
    sample_rows_shown = [line for step, _ in all_entries for line in sample_rows(step, _shown_samples(step))]
    held_out_rows = [
        row(
            step.step,
            count(facts["documents"]),
            count(facts["pairs"]),
            _with_interval(facts["perplexity"]),
            _with_interval(facts["untaught"]),
            _with_interval(facts["gain"]),
            _with_interval(facts["beside"]) if "beside" in facts else MISSING,
        )
        for step, facts in _steps_with(run, HELD_OUT)
    ]
    tables = (
        Table("Generated prompts", ("Step", "", "prompts", "share"), tuple(prompt_rows), frozenset({1})),
        Table("Generated answers", ("Step", "", "answers", "share"), tuple(answer_rows), frozenset({1})),
        Table(
            "Right answers per prompt",
            ("Step", "right answers", "prompts", "share"),
            tuple(histogram_rows),
        ),
        Table(
            "Generating model and cost",
            ("Step", "teacher", "licence", "prompts", "answers", "tokens", "written before", "time"),
            tuple(cost_rows),
            frozenset({1, 2}),
        ),
        Table(
            "Held-out pairs",
            ("Step", "documents", "pairs", "perplexity", "untrained", "gain", "control above the student"),
            tuple(held_out_rows),
        ),
        Table("Samples", ("Step", "", "prompt", "answer"), tuple(sample_rows_shown), frozenset({1, 2, 3})),
    )
    return section_of(
        "written-texts", "What the teacher wrote", *tables, paragraphs=tuple(_paragraphs(all_entries))
    )


def _paragraphs(entries: list[tuple[StepRecord, Mapping[str, Any]]]) -> Iterator[str]:
    if entries:
        yield (
            "Tokens: all tokens generated for these answers. Answers written before were reused, and the time is that "
            "of the others."
        )
    for step, facts in entries:
        if step.kind != DistillSpec.kind:
            yield (
                f"{step.step} learnt only the answers of the same texts. Judge it by its right answers: its perplexity "
                "is on the data's answers including their traces, which it was not trained to write."
            )
            continue
        notes = []
        if facts["prompts_left_out"]:
            notes.append(f"no answer is kept for {count(facts['prompts_left_out'])} prompts")
        if "prompts_too_long" in facts:
            notes.append(
                f"{count(facts['prompts_too_long'])} prompts were skipped, as they leave no room for an answer"
            )
        if "passages_left_out" in facts:
            notes.append(
                f"{count(facts['passages_left_out'])} passages were skipped as near-duplicates of others or "
                "of held-out "
                "ones"
            )
        if "own_answers" in facts:
            notes.append(f"{count(facts['own_answers'])} answers of the data are used too")
        if "prompt_tokens" in facts:
            notes.append(f"the server read {count(facts['prompt_tokens'])} prompt tokens")
        if notes:
            yield f"{step.step}: {'; '.join(notes)}."
    if any("documents" in facts for _, facts in entries):
        yield (
            "Pairs were written from the training documents, and held-out pairs from the validation documents. "
            "Perplexity is on the answers of held-out pairs that were not used to choose weights; `untrained` is that "
            "of the student before training. `gain` and `control above the student` are differences of log perplexity. "
            "Intervals (95 %) are bootstraps over the documents. `samples.jsonl` beside this report holds pairs with "
            "their passages."
        )


def _own_prompts(
    entries: list[tuple[StepRecord, Mapping[str, Any]]],
) -> list[tuple[StepRecord, Mapping[str, Any]]]:
    """Return the same statistics for prompts that the teacher wrote itself."""
    shared_keys = ("model", "license")
    return [
        (step, {**{name: facts[name] for name in shared_keys}, **facts["own_prompts"]})
        for step, facts in entries
        if "own_prompts" in facts
    ]


def _steps_with(run: RunRecord, name: str) -> Iterator[tuple[StepRecord, Mapping[str, Any]]]:
    # Later steps inherit the facts of their input model.
    kinds = (DistillSpec.kind, f"{DistillSpec.kind}.control")
    for step in ordered_steps(run):
        facts = step.facts.get(name)
        if step.kind in kinds and isinstance(facts, Mapping):
            yield step, facts


def _shown_samples(step: StepRecord) -> Iterator[Sample]:
    """Yield the first teacher samples of each reason, for a control those that it learnt.

    A file beside the report has all of them.
    """
    counts = Counter[str]()
    for one in step.samples:
        counts[one.why] += one.by == "teacher"
        learnt = step.kind == DistillSpec.kind or one.why == ACCEPTED
        if one.by == "teacher" and counts[one.why] <= _MAX_SAMPLES and learnt:
            yield one


def _with_interval(value: Sequence[float]) -> str:
    """Format a value with its interval."""
    return "{:.3g} ({:.3g} to {:.3g})".format(*value)
