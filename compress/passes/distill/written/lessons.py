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
from compress.generation.answers import Answer, count_generated_tokens, count_prompt_tokens
from compress.generation.prompts import PromptCodec
from compress.generation.reasons import count_by_reason, format_counts, limit_per_kind
from compress.generation.validators import Validator, validator_of
from compress.generation.writing import GenerationSettings, answer_key
from compress.models.text.chat import Prompt
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.held_out import HeldOut
from compress.passes.distill.written.kept import (
    ACCEPTED,
    DUPLICATE,
    REASONS,
    SURPLUS,
    TRUNCATED,
    UNANSWERED,
    WRONG,
    JudgedAnswer,
    judge_answers,
)
from compress.passes.distill.written.prompts import GeneratedPrompts, write_prompts
from compress.profile.specs.validator import pattern_of
from compress.profile.specs.writing import PROMPT, SequenceSpec
from compress.runtimes.decoding import Sampling
from compress.step import StepContext
from compress.store.texts import stored_like
from compress.tasks.base import GenerativeTask, Task
from compress.training.signals.written import cached_answers

MAX_SAMPLE_CHARS = 240
"""Maximum characters of a prompt or an answer in the record."""
_MAX_ACCEPTED_SAMPLES = 5
_MAX_REJECTED_SAMPLES = 2
_HINTS = {
    TRUNCATED: "Raise `sequence.most`, or set `sequence.stop` to what ends an answer.",
    UNANSWERED: "Check what the teacher writes, and the pattern of `reasoning.answer`.",
    WRONG: "Raise `rejection.candidates`, or check what the teacher writes and `rejection.validator`.",
}


@dataclass(frozen=True)
class TeacherExamples:
    """Prompts with answers: generated ones first, the data's `num_data_answers` last.

    `task` encodes them; `source`: model and licence; `facts`: statistics for the report, with some `samples`;
    `held_out`: held-out pairs if they were written from documents.
    """

    task: Task
    examples: Examples
    num_data_answers: int
    source: dict[str, str | None]
    facts: dict[str, Any]
    samples: list[dict[str, str]]
    held_out: HeldOut | None = None


@dataclass
class _Question:
    """A prompt, the request sent to the teacher in its place, and the data's answers to it over all examples."""

    prompt: Prompt
    request: Prompt
    expected: list[str]
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class _AnswerGeneration:
    """Context and settings of the generation."""

    ctx: StepContext
    spec: DistillSpec
    sequence: SequenceSpec
    writer: PromptCodec

    @property
    def task(self) -> GenerativeTask:
        """The task of the data."""
        return cast(GenerativeTask, self.ctx.task)

    def read_example(self, item: Item) -> tuple[Prompt, str]:
        """Return the prompt of an example, and the data's own answer."""
        return self.task.split_prompt(
            item, lambda text: self.writer.truncate(text, self.sequence.prompt_tokens)
        )

    @property
    def max_prompt_tokens(self) -> int:
        """Maximum tokens of a prompt that leave room for an answer."""
        return self.ctx.task.data.max_length - self.sequence.most

    def questions(self, generated: GeneratedPrompts | None) -> tuple[list[_Question], int]:
        """Return the prompts of the training split, or the generated ones, each once, and how many are too long."""
        by_key, too_long = dict[str, _Question](), set[str]()
        prompts: Iterable[tuple[Prompt, str | None]] = (
            map(self.read_example, self.ctx.data.train.items)
            if generated is None
            else ((self.task.prompt_of(text), None) for text in generated.accepted)
        )
        for prompt, answer in prompts:
            key, expected = answer_key(prompt, 0), [] if answer is None else [answer]
            if key in by_key:
                by_key[key].expected += expected
                continue
            request = self.request_for(prompt)
            if key in too_long or len(self.writer.encode_prompt(request)) > self.max_prompt_tokens:
                too_long.add(key)
                continue
            by_key[key] = _Question(prompt, request, expected)
        return list(by_key.values()), len(too_long)

    def request_for(self, prompt: Prompt) -> Prompt:
        """Return the request sent to the teacher in place of a prompt."""
        request = fill_ask(self.sequence.ask, prompt)
        if self.sequence.server is None or self.sequence.server.template is None:
            return request
        return self.writer.render_without_bos(
            [{"role": "user", "content": request}] if isinstance(request, str) else request
        )

    def item(self, question: _Question, answer: str, *, is_complete: bool) -> str:
        """Return the training item of an answer; of a plain text that the teacher began, all of it is learnt."""
        prompt = question.prompt
        if self.spec.data_free is not None and isinstance(prompt, str) and self.task.data.continues_texts:
            prompt, answer = "", prompt + answer
        return self.task.answered_item(prompt, answer, ends=is_complete)

    def validator(self, questions: Sequence[_Question]) -> Validator | None:
        """Return the validator, after testing it on the data's own answers before anything is generated.

        Raises:
            DataError, ModelError, UsageError: it cannot judge.
        """
        rejection = self.spec.rejection
        if rejection is None:
            return None
        validate = validator_of(
            rejection.validator, self.ctx.base, allow_code=self.ctx.allow_code, where="rejection.validator"
        )
        for question in questions[:1] if rejection.code() else questions:
            for answer in question.expected:
                validate(self.writer.render_prompt(question.prompt), answer, answer)
        return validate

    def judge(self, question: _Question, validator: Validator | None) -> list[JudgedAnswer]:
        """Judge the answers to a prompt."""
        prompt = self.writer.render_prompt(question.prompt)

        def right(answer: str) -> bool:
            return validator is None or any(validator(prompt, one, answer) for one in question.expected)

        reasoning, rejection = self.spec.reasoning, self.spec.rejection
        return judge_answers(
            (question.answers[sample] for sample in sorted(question.answers)),
            unended=self.task.data.continues_texts,
            pattern=None if reasoning is None else pattern_of(reasoning.answer),
            right=right,
            most=None if rejection is None else rejection.keep,
        )


def write_answers(
    ctx: StepContext, spec: DistillSpec, teacher: Artifact, *, final_answer_only: bool = False
) -> TeacherExamples:
    """Let a teacher answer the training prompts, and return the accepted answers.

    Answers generated before with the same settings are taken from the cache, across runs.

    Args:
        final_answer_only: learn only the part of each accepted answer that `reasoning` matches.

    Raises:
        DataError, ModelError: the teacher cannot answer the prompts, or the validator fails.
        PassError: no answer is accepted.
    """
    assert spec.sequence is not None
    generation = _AnswerGeneration(ctx, spec, spec.sequence, PromptCodec(teacher.path))
    generated_prompts = _write_prompts(generation, teacher)
    questions, num_too_long = generation.questions(generated_prompts)
    validator = generation.validator(questions)
    cost = _generate_answers(
        generation, teacher, questions, 0 if generated_prompts is None else generated_prompts.server_tokens
    )
    judged_by_question = [(question, generation.judge(question, validator)) for question in questions]
    judged_answers = [
        (question, result, result.final_answer if final_answer_only else result.text)
        for question, results in judged_by_question
        for result in results
    ]
    reasons = [result.reason for _, result, _ in judged_answers]
    items = [
        generation.item(question, answer, is_complete=result.is_complete)
        for question, result, answer in judged_answers
        if result.reason == ACCEPTED
    ]
    if not items:
        raise _nothing_kept(reasons, num_too_long, generated_prompts)
    judged_prompts = () if generated_prompts is None else generated_prompts.judged
    candidates = chain(
        ((f"prompt: {why}", text, "") for why, text in judged_prompts if why != ACCEPTED),
        (
            (result.reason, _last_message(question.request), answer)
            for question, result, answer in judged_answers
        ),
    )
    first = limit_per_kind(
        candidates,
        lambda one: one[0],
        lambda why: _MAX_ACCEPTED_SAMPLES if why == ACCEPTED else _MAX_REJECTED_SAMPLES,
    )
    # The question is usually at the end of a prompt.
    samples = [
        {"why": why, "prompt": prompt[-MAX_SAMPLE_CHARS:], "answer": answer[:MAX_SAMPLE_CHARS]}
        for why, prompt, answer in first
    ]
    data_items = list(_data_items(generation)) if spec.sequence.own_answers else []
    texts = stored_like([*items, *data_items], ctx.data.train.items)
    examples = Examples.unlabelled(texts)
    answers = [answer for question in questions for answer in question.answers.values()]
    source, num_prompt_tokens = source_of(spec.sequence, teacher), count_prompt_tokens(answers)
    facts: dict[str, Any] = {
        **source,
        "prompts": len(questions),
        **({"prompts_too_long": num_too_long} if num_too_long else {}),
        "answers": len(reasons),
        "by_reason": count_by_reason(reasons, REASONS),
        "prompts_left_out": sum(
            all(result.reason != ACCEPTED for result in results) for _, results in judged_by_question
        ),
        **(
            {"right_by_prompt": _right_histogram(results for _, results in judged_by_question)}
            if spec.rejection
            else {}
        ),
        **({"own_answers": len(data_items)} if data_items else {}),
        "tokens": count_generated_tokens(answers),
        **({"prompt_tokens": num_prompt_tokens} if num_prompt_tokens else {}),
        **cost,
        **({} if generated_prompts is None else {"own_prompts": generated_prompts.facts}),
    }
    return TeacherExamples(generation.task.answered_task, examples, len(data_items), source, facts, samples)


def fill_ask(ask: str, prompt: Prompt) -> Prompt:
    """Apply the template `ask` to a prompt; in a conversation, to its last message."""
    if isinstance(prompt, str):
        return ask.replace(PROMPT, prompt)
    *before, last = prompt
    return [*before, {**last, "content": ask.replace(PROMPT, last["content"])}]


def _write_prompts(generation: _AnswerGeneration, teacher: Artifact) -> GeneratedPrompts | None:
    """Return prompts written by the teacher; None if they come from the data."""
    data_free = generation.spec.data_free
    if data_free is None:
        return None
    model, goes_on = generation.sequence.server or teacher, generation.task.data.continues_texts
    return write_prompts(
        generation.ctx,
        data_free,
        model,
        generation.writer,
        max_tokens=generation.max_prompt_tokens,
        continues_texts=goes_on,
    )


def _generate_answers(
    generation: _AnswerGeneration, teacher: Artifact, questions: Sequence[_Question], spent: int
) -> dict[str, Any]:
    """Generate the answers and store them with their questions; return statistics of this call."""
    how, model = (
        generation_settings(generation.sequence, generation.spec, generation.ctx.seed),
        generation.sequence.server or teacher,
    )
    prompts = [question.request for question in questions]
    answers, cost = cached_answers(generation.ctx, model, prompts, how, "the teacher writes", spent=spent)
    for question in questions:
        keys = ((sample, answer_key(question.request, sample)) for sample in range(how.samples))
        question.answers.update((sample, answers[key]) for sample, key in keys)
    return cost


def generation_settings(sequence: SequenceSpec, spec: DistillSpec, seed: int) -> GenerationSettings:
    """Return a teacher's generation settings; `seed`: default if the profile sets none."""
    sampling = Sampling(
        sequence.temperature,
        sequence.top_k,
        sequence.top_p,
        seed if sequence.seed is None else sequence.seed,
    )
    samples = sequence.samples if spec.rejection is None else spec.rejection.candidates
    return GenerationSettings(sequence.most, sampling, sequence.stop, samples)


def source_of(sequence: SequenceSpec, teacher: Artifact) -> dict[str, str | None]:
    """Return the generating model, and the licence under which its output may be trained on."""
    name = teacher.facts.get("source") if sequence.server is None else sequence.server.model
    return {"model": name, "license": sequence.license}


def _data_items(generation: _AnswerGeneration) -> Iterator[str]:
    """Yield training items of the data's own answers."""
    for item in generation.ctx.data.train.items:
        prompt, answer = generation.read_example(item)
        if answer:
            yield generation.task.answered_item(prompt, answer, ends=not generation.task.data.continues_texts)


def _right_histogram(by_prompt: Iterable[Sequence[JudgedAnswer]]) -> dict[str, int]:
    """Return a histogram: number of prompts by number of right answers."""
    counts = Counter(sum(one.reason in (ACCEPTED, DUPLICATE, SURPLUS) for one in each) for each in by_prompt)
    return {str(right): counts[right] for right in sorted(counts)}


def _last_message(prompt: Prompt) -> str:
    """Return the text of a prompt; of a conversation, its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def no_room_error(prompts: int, limit_key: str) -> PassError:
    """Return the error that all prompts are too long; `limit_key`: the key that limits the length of an answer."""
    return PassError(
        f"none of the {prompts} prompts leaves room for an answer",
        where=limit_key,
        hint=f"Lower `{limit_key}`, or raise `data.max_length`.",
    )


def _nothing_kept(
    reasons: Sequence[str], num_too_long: int, generated_prompts: GeneratedPrompts | None
) -> PassError:
    if generated_prompts is not None and not generated_prompts.accepted:
        return PassError(
            f"none of the {generated_prompts.facts['prompts']} prompts that the teacher wrote is kept: "
            f"{format_counts(Counter(generated_prompts.facts['by_reason']).most_common())}",
            where="data_free",
            hint="Raise `data_free.most`, or check what the teacher writes.",
        )
    if not reasons:
        return no_room_error(num_too_long, "sequence.most")
    counts = Counter(reasons).most_common()
    return PassError(
        f"none of the {len(reasons)} answers that the teacher wrote is kept: {format_counts(counts)}",
        where="sequence",
        hint=_HINTS.get(counts[0][0], "Check what the teacher writes."),
    )
