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
from compress.generation.answers import Answer, tokens_drawn, tokens_read
from compress.generation.copies import find_duplicates
from compress.generation.passages import passages
from compress.generation.prompts import PromptCodec
from compress.generation.reasons import by_reason, first_of_each, in_words
from compress.generation.validators import Validator, validator_of
from compress.generation.writing import GenerationSettings, key_of
from compress.models.text.chat import Prompt
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.held_out import HeldOut
from compress.passes.distill.written.kept import KEPT
from compress.passes.distill.written.lessons import Lessons, how_of, source_of
from compress.passes.distill.written.pairs import (
    ALIKE,
    COPIED,
    LONG,
    PAIR_REASONS,
    UNSUPPORTED,
    Pair,
    asked_of,
    pair_of,
    prompt_of,
    stops_of,
)
from compress.profile.specs.validator import REGEX, pattern_of
from compress.profile.specs.writing import PASSAGE, SequenceSpec, SyntheticSpec
from compress.step import StepContext
from compress.tasks.base import Task, WritingTask
from compress.training.signals.written import Answers, answers_to

SHOWN = 50
"""Number of accepted pairs in the record, with passage, question and answer."""
_OTHERS = 5
"""Number of rejected pairs in the record, per reason."""
_ROOM = 4
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
    how: SequenceSpec
    pairs: SyntheticSpec
    writer: PromptCodec
    reader: PromptCodec

    @property
    def converses(self) -> bool:
        """Whether the teacher is prompted by a conversation."""
        server = self.how.server
        return self.writer.converses if server is None else server.api == "chat"

    @property
    def task(self) -> Task:
        """The task of the pairs, in the student's chat format if it has one."""
        task = cast(WritingTask, self.ctx.task)
        return task.conversing if self.reader.converses else task.answered

    @property
    def written(self) -> GenerationSettings:
        """The teacher's generation settings."""
        how = how_of(self.how, self.spec, self.ctx.seed)
        return GenerationSettings(
            how.most, how.sampling, (*how.stops, *stops_of(converses=self.converses)), how.samples
        )

    def asked(self, passage: str) -> Prompt:
        """Return the teacher's prompt."""
        return asked_of(self.pairs, passage, converses=self.converses)

    def prompt(self, passage: str, question: str) -> Prompt:
        """Return the student's prompt."""
        text = prompt_of(self.pairs, passage, question)
        return [{"role": "user", "content": text}] if self.reader.converses else f"{text}\n"

    def drawn(self, documents: Sequence[str], most: int) -> list[_Passage]:
        """Draw passages by the generation's seed, so that other students learn the same pairs."""
        count = partial(_tokens, self.writer)
        fewest, longest = self.pairs.passage_tokens
        cut = partial(passages, count=count, fewest=fewest, most=longest)
        return drawn(documents, cut, most, self.written.sampling.seed)

    def judge(self, passage: _Passage, found: Answers, validator: Validator | None) -> list[Answer]:
        """Parse and judge the pairs written about a passage, and add them to it; return the raw answers."""
        prompt = self.asked(passage.text)
        answers = [found[key_of(prompt, sample)] for sample in range(self.written.samples)]
        for answer in answers:
            pair = pair_of(answer, passage.text, self.pairs, validator)
            if pair.reason == KEPT and self.is_long(passage.text, pair):
                pair = Pair(LONG, pair.question, pair.answer)
            passage.pairs.append(pair)
        return answers

    def is_long(self, passage: str, pair: Pair) -> bool:
        """Whether a pair exceeds the student's context window."""
        prompt = self.prompt(passage, pair.question)
        used = len(self.reader.tokens(prompt)) + _tokens(self.reader, pair.answer)
        return used + _ROOM > self.ctx.task.data.max_length

    def leave_out_copies(self, own: Sequence[_Passage], known: Sequence[str]) -> list[str]:
        """Mark pairs that duplicate an earlier or a known one; return the texts of the others."""
        by_heart = PASSAGE not in self.pairs.prompt
        places = [
            (passage, place)
            for passage in own
            for place, pair in enumerate(passage.pairs)
            if pair.reason == KEPT
        ]
        pairs = [passage.pairs[place] for passage, place in places]
        texts = [pair.question if by_heart else f"{pair.question}\n{pair.answer}" for pair in pairs]
        found = find_duplicates(texts, known, self.pairs.alike)
        for (passage, place), pair, original in zip(places, pairs, found, strict=True):
            if original is not None:
                reason = COPIED if original.known else ALIKE
                passage.pairs[place] = Pair(reason, pair.question, pair.answer)
        return [text for text, original in zip(texts, found, strict=True) if original is None]

    def copied(self, texts: Sequence[str]) -> Sequence[bool]:
        """Return which texts occur in documents of the validation or the test split."""
        assert self.ctx.data.copied is not None
        return self.ctx.data.copied(texts)

    def examples(self, own: Sequence[_Passage]) -> tuple[Examples, list[int]]:
        """Return the accepted pairs of passages as examples, and the document of each."""
        task = cast(WritingTask, self.ctx.task)
        found = [
            (
                task.answered_item(self.prompt(passage.text, pair.question), pair.answer, ends=True),
                passage.document,
            )
            for passage in own
            for pair in passage.pairs
            if pair.reason == KEPT
        ]
        items = tuple(item for item, _ in found)
        return Examples.unlabelled(items), [place for _, place in found]


def written_pairs(ctx: StepContext, spec: DistillSpec, teacher: Artifact) -> Lessons:
    """Let a teacher write pairs about the training and the validation documents, and return the accepted ones.

    Raises:
        DataError, ModelError: the teacher cannot answer, or the validator fails.
        PassError: no passage can be cut, or too few pairs are accepted.
    """
    assert spec.sequence is not None
    assert spec.synthetic is not None
    reads = ctx.inputs.get("student", ctx.inputs["model"])
    writing = _PairGeneration(
        ctx, spec, spec.sequence, spec.synthetic, PromptCodec(teacher.path), PromptCodec(reads.path)
    )
    validator = _validator(ctx, spec.synthetic)
    held = writing.drawn(ctx.data.validation.texts, spec.synthetic.held_out)
    cut = writing.drawn(ctx.data.train.texts, spec.synthetic.passages)
    # A passage that occurs in several documents is used once, and not at all if it is held out.
    texts = [one.text for one in cut]
    copies = zip(find_duplicates(texts, (), spec.synthetic.alike), writing.copied(texts), strict=True)
    learnt = [
        one for one, (original, copied) in zip(cut, copies, strict=True) if original is None and not copied
    ]
    if not learnt or not held:
        raise _no_passages(spec.synthetic, "training" if held else "validation")
    asked = [writing.asked(one.text) for one in (*held, *learnt)]
    found, cost = answers_to(
        ctx, spec.sequence.server or teacher, asked, writing.written, "the teacher writes"
    )
    answers = [answer for one in (*held, *learnt) for answer in writing.judge(one, found, validator)]
    known = writing.leave_out_copies(held, ())
    writing.leave_out_copies(learnt, known)
    examples, documents = writing.examples(learnt)
    counts = _counted(learnt)
    if not len(examples):
        raise _nothing_kept(counts)
    source, read = source_of(spec.sequence, teacher), tokens_read(answers)
    facts: dict[str, Any] = {
        **source,
        "documents": len(set(documents)),
        "prompts": len(learnt),
        **({"passages_left_out": len(cut) - len(learnt)} if len(cut) > len(learnt) else {}),
        "answers": sum(counts.values()),
        "by_reason": counts,
        "prompts_left_out": sum(all(pair.reason != KEPT for pair in one.pairs) for one in learnt),
        "held_out": {"prompts": len(held), "by_reason": _counted(held)},
        "tokens": tokens_drawn(answers),
        **({"prompt_tokens": read} if read else {}),
        **cost,
    }
    return Lessons(
        writing.task, examples, 0, source, facts, _samples(learnt), _halves(writing, held, spec.synthetic)
    )


def drawn(documents: Sequence[str], cut: Callable[[str], list[str]], most: int, seed: int) -> list[_Passage]:
    """Draw up to `most` passages in random order: one of each document, then a second of each, and so on.

    Args:
        cut: splits a document into passages.
    """
    random = np.random.default_rng(seed)
    own: list[tuple[int, list[str]]] = []
    for place in random.permutation(len(documents)).tolist():
        # Blank lines separate the examples in the teacher's prompt.
        if found := [re.sub(r"\s*\n\s*", "\n", one) for one in cut(documents[place])]:
            own.append((place, [found[one] for one in random.permutation(len(found))]))
        if len(own) == most:
            break

    def rounds() -> Iterator[_Passage]:
        for number in range(max((len(found) for _, found in own), default=0)):
            yield from (_Passage(place, found[number]) for place, found in own if number < len(found))

    return list(islice(rounds(), most))


def _halves(writing: _PairGeneration, held: Sequence[_Passage], spec: SyntheticSpec) -> HeldOut:
    """Split the held-out pairs by document: one half selects weights, the other is scored.

    Raises:
        PassError: fewer than two documents are left in the scored half.
    """
    left = [one for one in held if any(pair.reason == KEPT for pair in one.pairs)]
    number = {document: place for place, document in enumerate(dict.fromkeys(one.document for one in left))}
    halves = [[one for one in left if number[one.document] % 2 == half] for half in range(2)]
    chooses, (scored, documents) = writing.examples(halves[0])[0], writing.examples(halves[1])
    if len(set(documents)) < 2:
        raise PassError(
            f"pairs from only {len(number)} validation documents are kept, and four are needed: half of them choose "
            f"among the student's weights, half are scored",
            where="synthetic.held_out",
            hint="Raise it, or provide more validation documents.",
        )
    places = np.unique(documents, return_inverse=True)[1]
    return HeldOut(writing.task, chooses, scored, places)


def _tokens(writer: PromptCodec, text: str) -> int:
    return len(writer.encoded(text, begins=False))


def _validator(ctx: StepContext, spec: SyntheticSpec) -> Validator | None:
    if spec.validator is None:
        return None
    if spec.validator.startswith(REGEX):
        pattern = pattern_of(spec.validator)
        return lambda question, passage, answer: pattern.search(answer) is not None
    found = validator_of(spec.validator, ctx.base, allow_code=ctx.allow_code, where="synthetic.validator")
    for one in spec.examples[:1]:
        # Detect broken validator code before anything is generated.
        found(one.question, one.passage, one.answer)
    return found


def _counted(own: Sequence[_Passage]) -> dict[str, int]:
    return by_reason((pair.reason for one in own for pair in one.pairs), PAIR_REASONS)


def _samples(own: Sequence[_Passage]) -> list[dict[str, str]]:
    """Return the first pairs for each reason, with their passages."""
    pairs = ((one.text, pair) for one in own for pair in one.pairs)
    first = first_of_each(pairs, lambda found: found[1].reason, lambda why: SHOWN if why == KEPT else _OTHERS)
    return [
        {"why": pair.reason, "prompt": pair.question, "answer": pair.answer, "passage": passage}
        for passage, pair in first
    ]


def _no_passages(spec: SyntheticSpec, split: str) -> PassError:
    fewest, most = spec.passage_tokens
    return PassError(
        f"the {split} documents contain no passage of {fewest} to {most} tokens",
        where="synthetic.passage_tokens",
        hint="Lower the minimum, or provide longer documents.",
    )


def _nothing_kept(counts: dict[str, int]) -> PassError:
    often = max(counts, key=counts.__getitem__)
    hint = "Check what the teacher writes, `synthetic.ask` and `synthetic.examples`."
    if often == UNSUPPORTED:
        hint += " `synthetic.support` sets how much of an answer must be in its passage."
    if often == LONG:
        hint = "Raise `data.max_length`, or lower `synthetic.passage_tokens`."
    return PassError(
        f"none of the {sum(counts.values())} pairs that the teacher wrote is kept: {in_words(counts.items())}",
        where="synthetic",
        hint=hint,
    )
