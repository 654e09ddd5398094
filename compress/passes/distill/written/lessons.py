"""Sequence-level distillation: the teacher's answers to the training prompts replace the training split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

from compress.core.artifacts import Artifact
from compress.core.errors import PassError
from compress.data.splits import Examples, Item
from compress.generation.answers import Answer, tokens_drawn, tokens_read
from compress.generation.prompts import PromptCodec
from compress.generation.reasons import by_reason, first_of_each, in_words
from compress.generation.validators import Validator, validator_of
from compress.generation.writing import GenerationSettings, key_of
from compress.models.text.chat import Prompt
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.held_out import HeldOut
from compress.passes.distill.written.kept import (
    CUT,
    KEPT,
    REASONS,
    REPEATED,
    SPARE,
    UNANSWERED,
    WRONG,
    Judged,
    judged,
)
from compress.passes.distill.written.prompts import Prompts, written_prompts
from compress.profile.specs.validator import pattern_of
from compress.profile.specs.writing import PROMPT, SequenceSpec
from compress.runtimes.decoding import Sampling
from compress.step import StepContext
from compress.store.texts import like
from compress.tasks.base import Task, WritingTask
from compress.training.signals.written import answers_to

SHOWN = 240
"""Maximum characters of a prompt or an answer in the record."""
_SAMPLES = 5
_OTHER_SAMPLES = 2
_HINTS = {
    CUT: "Raise `sequence.most`, or set `sequence.stop` to what ends an answer.",
    UNANSWERED: "Check what the teacher writes, and the pattern of `reasoning.answer`.",
    WRONG: "Raise `rejection.candidates`, or check what the teacher writes and `rejection.validator`.",
}


@dataclass(frozen=True)
class Lessons:
    """Prompts with answers: generated ones first, the data's `own` last.

    `task` encodes them; `source`: model and licence; `told`: statistics for the report, with some `samples`;
    `held_out`: held-out pairs if they were written from documents.
    """

    task: Task
    examples: Examples
    own: int
    source: dict[str, str | None]
    told: dict[str, Any]
    samples: list[dict[str, str]]
    held_out: HeldOut | None = None


@dataclass
class _Question:
    """A prompt, the request sent to the teacher in its place, and the data's answers to it over all examples."""

    prompt: Prompt
    asked: Prompt
    expected: list[str]
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class _AnswerGeneration:
    """Context and settings of the generation."""

    ctx: StepContext
    spec: DistillSpec
    how: SequenceSpec
    writer: PromptCodec

    @property
    def task(self) -> WritingTask:
        """The task of the data."""
        return cast(WritingTask, self.ctx.task)

    def read(self, item: Item) -> tuple[Prompt, str]:
        """Return the prompt of an example, and the data's own answer."""
        return self.task.question(item, lambda text: self.writer.beginning(text, self.how.prompt_tokens))

    @property
    def room(self) -> int:
        """Maximum tokens of a prompt that leave room for an answer."""
        return self.ctx.task.data.max_length - self.how.most

    def questions(self, written: Prompts | None) -> tuple[list[_Question], int]:
        """Return the prompts of the training split, or the generated ones, each once, and how many are too long."""
        found, long = dict[str, _Question](), set[str]()
        asked_by: Iterable[tuple[Prompt, str | None]] = (
            map(self.read, self.ctx.data.train.items)
            if written is None
            else ((self.task.prompt_of(text), None) for text in written.kept)
        )
        for prompt, answer in asked_by:
            key, expected = key_of(prompt, 0), [] if answer is None else [answer]
            if key in found:
                found[key].expected += expected
                continue
            asked = self.asked(prompt)
            if key in long or len(self.writer.tokens(asked)) > self.room:
                long.add(key)
                continue
            found[key] = _Question(prompt, asked, expected)
        return list(found.values()), len(long)

    def asked(self, prompt: Prompt) -> Prompt:
        """Return the request sent to the teacher in place of a prompt."""
        asked = fill_ask(self.how.ask, prompt)
        if self.how.server is None or self.how.server.template is None:
            return asked
        return self.writer.plain([{"role": "user", "content": asked}] if isinstance(asked, str) else asked)

    def item(self, question: _Question, answer: str, *, ends: bool) -> str:
        """Return the training item of an answer; of a plain text that the teacher began, all of it is learnt."""
        prompt = question.prompt
        if self.spec.data_free is not None and isinstance(prompt, str) and self.task.data.goes_on:
            prompt, answer = "", prompt + answer
        return self.task.answered_item(prompt, answer, ends=ends)

    def validator(self, questions: Sequence[_Question]) -> Validator | None:
        """Return the validator, after testing it on the data's own answers before anything is generated.

        Raises:
            DataError, ModelError, UsageError: it cannot judge.
        """
        rejection = self.spec.rejection
        if rejection is None:
            return None
        found = validator_of(
            rejection.validator, self.ctx.base, allow_code=self.ctx.allow_code, where="rejection.validator"
        )
        for question in questions[:1] if rejection.code() else questions:
            for answer in question.expected:
                found(self.writer.render_prompt(question.prompt), answer, answer)
        return found

    def judge(self, question: _Question, validator: Validator | None) -> list[Judged]:
        """Judge the answers to a prompt."""
        prompt = self.writer.render_prompt(question.prompt)

        def right(answer: str) -> bool:
            return validator is None or any(validator(prompt, one, answer) for one in question.expected)

        reasoning, rejection = self.spec.reasoning, self.spec.rejection
        return judged(
            (question.answers[sample] for sample in sorted(question.answers)),
            unended=self.task.data.goes_on,
            pattern=None if reasoning is None else pattern_of(reasoning.answer),
            right=right,
            most=None if rejection is None else rejection.keep,
        )


def written_lessons(
    ctx: StepContext, spec: DistillSpec, teacher: Artifact, *, alone: bool = False
) -> Lessons:
    """Let a teacher answer the training prompts, and return the accepted answers.

    Answers generated before with the same settings are taken from the cache, across runs.

    Args:
        alone: learn only the part of each accepted answer that `reasoning` matches.

    Raises:
        DataError, ModelError: the teacher cannot answer the prompts, or the validator fails.
        PassError: no answer is accepted.
    """
    assert spec.sequence is not None
    asking = _AnswerGeneration(ctx, spec, spec.sequence, PromptCodec(teacher.path))
    written = _prompts(asking, teacher)
    questions, long = asking.questions(written)
    validator = asking.validator(questions)
    cost = _answer(asking, teacher, questions, 0 if written is None else written.spent)
    by_question = [(question, asking.judge(question, validator)) for question in questions]
    found = [
        (question, one, one.alone if alone else one.lesson) for question, each in by_question for one in each
    ]
    reasons = [one.reason for _, one, _ in found]
    items = [
        asking.item(question, answer, ends=one.ends) for question, one, answer in found if one.reason == KEPT
    ]
    if not items:
        raise _nothing_kept(reasons, long, written)
    unused = () if written is None else written.judged
    shown = chain(
        ((f"prompt: {why}", text, "") for why, text in unused if why != KEPT),
        ((one.reason, _last(question.asked), answer) for question, one, answer in found),
    )
    first = first_of_each(shown, lambda one: one[0], lambda why: _SAMPLES if why == KEPT else _OTHER_SAMPLES)
    # The question is usually at the end of a prompt.
    samples = [
        {"why": why, "prompt": prompt[-SHOWN:], "answer": answer[:SHOWN]} for why, prompt, answer in first
    ]
    own = list(_own(asking)) if spec.sequence.own_answers else []
    texts = like([*items, *own], ctx.data.train.items)
    examples = Examples.unlabelled(texts)
    answers = [answer for question in questions for answer in question.answers.values()]
    source, read = source_of(spec.sequence, teacher), tokens_read(answers)
    facts: dict[str, Any] = {
        **source,
        "prompts": len(questions),
        **({"prompts_too_long": long} if long else {}),
        "answers": len(reasons),
        "by_reason": by_reason(reasons, REASONS),
        "prompts_left_out": sum(all(one.reason != KEPT for one in each) for _, each in by_question),
        **({"right_by_prompt": _right(each for _, each in by_question)} if spec.rejection else {}),
        **({"own_answers": len(own)} if own else {}),
        "tokens": tokens_drawn(answers),
        **({"prompt_tokens": read} if read else {}),
        **cost,
        **({} if written is None else {"own_prompts": written.told}),
    }
    return Lessons(asking.task.answered, examples, len(own), source, facts, samples)


def fill_ask(ask: str, prompt: Prompt) -> Prompt:
    """Apply the template `ask` to a prompt; in a conversation, to its last message."""
    if isinstance(prompt, str):
        return ask.replace(PROMPT, prompt)
    *before, last = prompt
    return [*before, {**last, "content": ask.replace(PROMPT, last["content"])}]


def _prompts(asking: _AnswerGeneration, teacher: Artifact) -> Prompts | None:
    """Return prompts written by the teacher; None if they come from the data."""
    free = asking.spec.data_free
    if free is None:
        return None
    model, goes_on = asking.how.server or teacher, asking.task.data.goes_on
    return written_prompts(asking.ctx, free, model, asking.writer, room=asking.room, goes_on=goes_on)


def _answer(
    asking: _AnswerGeneration, teacher: Artifact, questions: Sequence[_Question], spent: int
) -> dict[str, Any]:
    """Generate the answers and store them with their questions; return statistics of this call."""
    how, model = how_of(asking.how, asking.spec, asking.ctx.seed), asking.how.server or teacher
    prompts = [question.asked for question in questions]
    found, cost = answers_to(asking.ctx, model, prompts, how, "the teacher writes", spent=spent)
    for question in questions:
        keys = ((sample, key_of(question.asked, sample)) for sample in range(how.samples))
        question.answers.update((sample, found[key]) for sample, key in keys)
    return cost


def how_of(sequence: SequenceSpec, spec: DistillSpec, seed: int) -> GenerationSettings:
    """Return a teacher's generation settings; `seed`: default if the profile sets none."""
    drawn = Sampling(
        sequence.temperature,
        sequence.top_k,
        sequence.top_p,
        seed if sequence.seed is None else sequence.seed,
    )
    samples = sequence.samples if spec.rejection is None else spec.rejection.candidates
    return GenerationSettings(sequence.most, drawn, sequence.stop, samples)


def source_of(how: SequenceSpec, teacher: Artifact) -> dict[str, str | None]:
    """Return the generating model, and the licence under which its output may be trained on."""
    name = teacher.facts.get("source") if how.server is None else how.server.model
    return {"model": name, "license": how.license}


def _own(asking: _AnswerGeneration) -> Iterator[str]:
    """Yield training items of the data's own answers."""
    for item in asking.ctx.data.train.items:
        prompt, answer = asking.read(item)
        if answer:
            yield asking.task.answered_item(prompt, answer, ends=not asking.task.data.goes_on)


def _right(by_prompt: Iterable[Sequence[Judged]]) -> dict[str, int]:
    """Return a histogram: number of prompts by number of right answers."""
    counts = Counter(sum(one.reason in (KEPT, REPEATED, SPARE) for one in each) for each in by_prompt)
    return {str(right): counts[right] for right in sorted(counts)}


def _last(prompt: Prompt) -> str:
    """Return the text of a prompt; of a conversation, its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def no_room(prompts: int, most: str) -> PassError:
    """Return the error that all prompts are too long; `most`: the key that limits the length of an answer."""
    return PassError(
        f"none of the {prompts} prompts leaves room for an answer",
        where=most,
        hint=f"Lower `{most}`, or raise `data.max_length`.",
    )


def _nothing_kept(reasons: Sequence[str], long: int, written: Prompts | None) -> PassError:
    if written is not None and not written.kept:
        return PassError(
            f"none of the {written.told['prompts']} prompts that the teacher wrote is kept: "
            f"{in_words(Counter(written.told['by_reason']).most_common())}",
            where="data_free",
            hint="Raise `data_free.most`, or check what the teacher writes.",
        )
    if not reasons:
        return no_room(long, "sequence.most")
    counts = Counter(reasons).most_common()
    return PassError(
        f"none of the {len(reasons)} answers that the teacher wrote is kept: {in_words(counts)}",
        where="sequence",
        hint=_HINTS.get(counts[0][0], "Check what the teacher writes."),
    )
