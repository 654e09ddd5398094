"""Synthetic question-answer pairs that the teacher writes about passages of documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np

from compress.core.artifacts import Artifact
from compress.core.errors import PassError
from compress.data.splits import Examples
from compress.generation.answers import Answer, count_generated_tokens, count_prompt_tokens
from compress.generation.copies import find_duplicates
from compress.generation.passages import split_passages
from compress.generation.prompts import PromptCodec
from compress.generation.reasons import count_by_reason, format_counts, limit_per_kind
from compress.generation.validators import Validator, validator_of
from compress.generation.writing import GenerationSettings, answer_key
from compress.models.text.chat import Prompt
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.held_out import HeldOut
from compress.passes.distill.written.kept import ACCEPTED
from compress.passes.distill.written.lessons import TeacherExamples, generation_settings, source_of
from compress.passes.distill.written.pairs import (
    HELD_OUT_COPY,
    NEAR_DUPLICATE,
    PAIR_REASONS,
    TOO_LONG,
    UNSUPPORTED,
    Pair,
    parse_pair,
    render_student_prompt,
    render_teacher_prompt,
    stop_strings,
)
from compress.profile.specs.validator import REGEX, pattern_of
from compress.profile.specs.writing import PASSAGE, SequenceSpec, SyntheticSpec
from compress.step import StepContext
from compress.tasks.base import GenerativeTask, Task
from compress.training.signals.written import Answers, cached_answers

MAX_ACCEPTED_SAMPLES = 50
"""Number of accepted pairs in the record, with passage, question and answer."""
_MAX_REJECTED_SAMPLES = 5
"""Number of rejected pairs in the record, per reason."""
_TEMPLATE_TOKENS = 4
"""Upper bound on the tokens of the template around an answer."""


@dataclass
class _Passage:
    """A passage of a document, and the pairs written about it."""

    document: int
    text: str
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class _PairGeneration:
    """Settings and tokenizers of the teacher that writes and the student that reads."""

    ctx: StepContext
    spec: DistillSpec
    sequence: SequenceSpec
    synthetic: SyntheticSpec
    writer: PromptCodec
    reader: PromptCodec

    @property
    def uses_chat(self) -> bool:
        """Whether the teacher is prompted by a conversation."""
        server = self.sequence.server
        return self.writer.has_chat_template if server is None else server.api == "chat"

    @property
    def task(self) -> Task:
        """The task of the pairs, in the student's chat format if it has one."""
        task = cast(GenerativeTask, self.ctx.task)
        return task.conversation_task if self.reader.has_chat_template else task.answered_task

    @property
    def settings(self) -> GenerationSettings:
        """The teacher's generation settings."""
        how = generation_settings(self.sequence, self.spec, self.ctx.seed)
        return GenerationSettings(
            how.most, how.sampling, (*how.stops, *stop_strings(uses_chat=self.uses_chat)), how.samples
        )

    def teacher_prompt(self, passage: str) -> Prompt:
        """Return the teacher's prompt."""
        return render_teacher_prompt(self.synthetic, passage, uses_chat=self.uses_chat)

    def student_prompt(self, passage: str, question: str) -> Prompt:
        """Return the student's prompt."""
        text = render_student_prompt(self.synthetic, passage, question)
        return [{"role": "user", "content": text}] if self.reader.has_chat_template else f"{text}\n"

    def draw_passages(self, documents: Sequence[str], max_passages: int) -> list[_Passage]:
        """Draw passages by the generation's seed, so that other students learn the same pairs."""
        count = partial(_count_tokens, self.writer)
        fewest, longest = self.synthetic.passage_tokens
        cut = partial(split_passages, count_tokens=count, min_tokens=fewest, max_tokens=longest)
        return draw_passages(documents, cut, max_passages, self.settings.sampling.seed)

    def judge(self, passage: _Passage, answers_by_key: Answers, validator: Validator | None) -> list[Answer]:
        """Parse and judge the pairs written about a passage, and add them to it; return the raw answers."""
        prompt = self.teacher_prompt(passage.text)
        answers = [answers_by_key[answer_key(prompt, sample)] for sample in range(self.settings.samples)]
        for answer in answers:
            pair = parse_pair(answer, passage.text, self.synthetic, validator)
            if pair.reason == ACCEPTED and self.is_long(passage.text, pair):
                pair = Pair(TOO_LONG, pair.question, pair.answer)
            passage.pairs.append(pair)
        return answers

    def is_long(self, passage: str, pair: Pair) -> bool:
        """Whether a pair exceeds the student's context window."""
        prompt = self.student_prompt(passage, pair.question)
        used = len(self.reader.encode_prompt(prompt)) + _count_tokens(self.reader, pair.answer)
        return used + _TEMPLATE_TOKENS > self.ctx.task.data.max_length

    def mark_duplicates(self, group: Sequence[_Passage], known_texts: Sequence[str]) -> list[str]:
        """Mark pairs that duplicate an earlier or a known one; return the texts of the others."""
        without_passage = PASSAGE not in self.synthetic.prompt
        locations = [
            (passage, index)
            for passage in group
            for index, pair in enumerate(passage.pairs)
            if pair.reason == ACCEPTED
        ]
        pairs = [passage.pairs[index] for passage, index in locations]
        texts = [pair.question if without_passage else f"{pair.question}\n{pair.answer}" for pair in pairs]
        duplicates = find_duplicates(texts, known_texts, self.synthetic.alike)
        for (passage, index), pair, original in zip(locations, pairs, duplicates, strict=True):
            if original is not None:
                reason = HELD_OUT_COPY if original.is_known else NEAR_DUPLICATE
                passage.pairs[index] = Pair(reason, pair.question, pair.answer)
        return [text for text, original in zip(texts, duplicates, strict=True) if original is None]

    def in_held_out_splits(self, texts: Sequence[str]) -> Sequence[bool]:
        """Return which texts occur in documents of the validation or the test split."""
        assert self.ctx.data.is_heldout_copy is not None
        return self.ctx.data.is_heldout_copy(texts)

    def examples(self, group: Sequence[_Passage]) -> tuple[Examples, list[int]]:
        """Return the accepted pairs of passages as examples, and the document of each."""
        task = cast(GenerativeTask, self.ctx.task)
        kept = [
            (
                task.answered_item(self.student_prompt(passage.text, pair.question), pair.answer, ends=True),
                passage.document,
            )
            for passage in group
            for pair in passage.pairs
            if pair.reason == ACCEPTED
        ]
        items = tuple(item for item, _ in kept)
        return Examples.unlabelled(items), [place for _, place in kept]


def write_pairs(ctx: StepContext, spec: DistillSpec, teacher: Artifact) -> TeacherExamples:
    """Let a teacher write pairs about the training and the validation documents, and return the accepted ones.

    Raises:
        DataError, ModelError: the teacher cannot answer, or the validator fails.
        PassError: no passage can be cut, or too few pairs are accepted.
    """
    assert spec.sequence is not None
    assert spec.synthetic is not None
    student_source = ctx.inputs.get("student", ctx.inputs["model"])
    generation = _PairGeneration(
        ctx, spec, spec.sequence, spec.synthetic, PromptCodec(teacher.path), PromptCodec(student_source.path)
    )
    validator = _validator(ctx, spec.synthetic)
    held_out = generation.draw_passages(ctx.data.validation.texts, spec.synthetic.held_out)
    candidates = generation.draw_passages(ctx.data.train.texts, spec.synthetic.passages)
    # A passage that occurs in several documents is used once, and not at all if it is held out.
    texts = [passage.text for passage in candidates]
    copies = zip(
        find_duplicates(texts, (), spec.synthetic.alike), generation.in_held_out_splits(texts), strict=True
    )
    accepted = [
        passage
        for passage, (original, copied) in zip(candidates, copies, strict=True)
        if original is None and not copied
    ]
    if not accepted or not held_out:
        raise _no_passages(spec.synthetic, "training" if held_out else "validation")
    prompts = [generation.teacher_prompt(passage.text) for passage in (*held_out, *accepted)]
    answers_by_key, cost = cached_answers(
        ctx, spec.sequence.server or teacher, prompts, generation.settings, "the teacher writes"
    )
    answers = [
        answer
        for passage in (*held_out, *accepted)
        for answer in generation.judge(passage, answers_by_key, validator)
    ]
    known = generation.mark_duplicates(held_out, ())
    generation.mark_duplicates(accepted, known)
    examples, documents = generation.examples(accepted)
    counts = _count_reasons(accepted)
    if not len(examples):
        raise _nothing_kept(counts)
    source, num_prompt_tokens = source_of(spec.sequence, teacher), count_prompt_tokens(answers)
    facts: dict[str, Any] = {
        **source,
        "documents": len(set(documents)),
        "prompts": len(accepted),
        **({"passages_left_out": len(candidates) - len(accepted)} if len(candidates) > len(accepted) else {}),
        "answers": sum(counts.values()),
        "by_reason": counts,
        "prompts_left_out": sum(
            all(pair.reason != ACCEPTED for pair in passage.pairs) for passage in accepted
        ),
        "held_out": {"prompts": len(held_out), "by_reason": _count_reasons(held_out)},
        "tokens": count_generated_tokens(answers),
        **({"prompt_tokens": num_prompt_tokens} if num_prompt_tokens else {}),
        **cost,
    }
    return TeacherExamples(
        generation.task,
        examples,
        0,
        source,
        facts,
        _samples(accepted),
        _split_held_out(generation, held_out, spec.synthetic),
    )


def draw_passages(
    documents: Sequence[str], split: Callable[[str], list[str]], max_passages: int, seed: int
) -> list[_Passage]:
    """Draw up to `max_passages` passages in random order: one of each document, then a second of each, and so on.

    Args:
        split: splits a document into passages.
    """
    random = np.random.default_rng(seed)
    by_document: list[tuple[int, list[str]]] = []
    for index in random.permutation(len(documents)).tolist():
        # Blank lines separate the examples in the teacher's prompt.
        if document_passages := [re.sub(r"\s*\n\s*", "\n", one) for one in split(documents[index])]:
            by_document.append(
                (index, [document_passages[one] for one in random.permutation(len(document_passages))])
            )
        if len(by_document) == max_passages:
            break

    def rounds() -> Iterator[_Passage]:
        for number in range(max((len(found) for _, found in by_document), default=0)):
            yield from (_Passage(place, found[number]) for place, found in by_document if number < len(found))

    return list(islice(rounds(), max_passages))


def _split_held_out(generation: _PairGeneration, group: Sequence[_Passage], spec: SyntheticSpec) -> HeldOut:
    """Split the held-out pairs by document: one half selects weights, the other is scored.

    Raises:
        PassError: fewer than two documents are left in the scored half.
    """
    kept = [one for one in group if any(pair.reason == ACCEPTED for pair in one.pairs)]
    index_of = {document: place for place, document in enumerate(dict.fromkeys(one.document for one in kept))}
    halves = [[one for one in kept if index_of[one.document] % 2 == half] for half in range(2)]
    selection, (scored, documents) = generation.examples(halves[0])[0], generation.examples(halves[1])
    if len(set(documents)) < 2:
        raise PassError(
            f"pairs from only {len(index_of)} validation documents are kept, and four are needed: half of them choose "
            f"among the student's weights, half are scored",
            where="synthetic.held_out",
            hint="Raise it, or provide more validation documents.",
        )
    places = np.unique(documents, return_inverse=True)[1]
    return HeldOut(generation.task, selection, scored, places)


def _count_tokens(codec: PromptCodec, text: str) -> int:
    return len(codec.encode(text, add_bos=False))


def _validator(ctx: StepContext, spec: SyntheticSpec) -> Validator | None:
    if spec.validator is None:
        return None
    if spec.validator.startswith(REGEX):
        pattern = pattern_of(spec.validator)
        return lambda question, passage, answer: pattern.search(answer) is not None
    validator = validator_of(spec.validator, ctx.base, allow_code=ctx.allow_code, where="synthetic.validator")
    for one in spec.examples[:1]:
        # Detect broken validator code before anything is generated.
        validator(one.question, one.passage, one.answer)
    return validator


def _count_reasons(group: Sequence[_Passage]) -> dict[str, int]:
    return count_by_reason((pair.reason for one in group for pair in one.pairs), PAIR_REASONS)


def _samples(group: Sequence[_Passage]) -> list[dict[str, str]]:
    """Return the first pairs for each reason, with their passages."""
    pairs = ((one.text, pair) for one in group for pair in one.pairs)
    first = limit_per_kind(
        pairs,
        lambda found: found[1].reason,
        lambda why: MAX_ACCEPTED_SAMPLES if why == ACCEPTED else _MAX_REJECTED_SAMPLES,
    )
    return [
        {"why": pair.reason, "prompt": pair.question, "answer": pair.answer, "passage": passage}
        for passage, pair in first
    ]


def _no_passages(spec: SyntheticSpec, split: str) -> PassError:
    min_tokens, max_tokens = spec.passage_tokens
    return PassError(
        f"the {split} documents contain no passage of {min_tokens} to {max_tokens} tokens",
        where="synthetic.passage_tokens",
        hint="Lower the minimum, or provide longer documents.",
    )


def _nothing_kept(counts: dict[str, int]) -> PassError:
    top_reason = max(counts, key=counts.__getitem__)
    hint = "Check what the teacher writes, `synthetic.ask` and `synthetic.examples`."
    if top_reason == UNSUPPORTED:
        hint += " `synthetic.support` sets how much of an answer must be in its passage."
    if top_reason == TOO_LONG:
        hint = "Raise `data.max_length`, or lower `synthetic.passage_tokens`."
    return PassError(
        f"none of the {sum(counts.values())} pairs that the teacher wrote is kept: {format_counts(counts.items())}",
        where="synthetic",
        hint=hint,
    )
