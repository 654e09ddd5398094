"""How a model writes what another one learns, and what of it is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.disk.package_paths import CODE
from compress.core.spec import PassSpecBase, Positive
from compress.profile.specs.license import LicensedSpec
from compress.profile.specs.server import ServerSpec
from compress.profile.specs.validator import REGEX, ValidatorName, pattern_of

PROMPT = "{prompt}"
"""What stands for the prompt in `ask`."""
PASSAGE, QUESTION = "{passage}", "{question}"
"""What stand for a passage and for a question in the texts of `synthetic`."""
PROMPT_TOKENS = 32
"""Of a plain text, that are a prompt where nobody says how many."""


class SequenceSpec(LicensedSpec):
    """The teacher writes answers to the prompts of the training split, and the student learns those in the place of
    the data's own (Kim and Rush 2016). Teachers of any tokenizer serve where `next_token` is the only loss."""

    server: ServerSpec | None = None
    """Let a model behind a server write in the place of the teacher."""
    most: Positive = 64
    """Tokens of an answer, at most. Prompts beside which they have no room in `data.max_length` are not asked."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: always the likeliest token."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw among so many of the likeliest tokens; 0: among all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    samples: Positive = 1
    """Answers to each prompt; equal ones are learnt once."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds what is drawn; unset: the profile's."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts before which an answer ends, where the teacher does not end it itself."""
    ask: str = PROMPT
    """What the teacher is asked, `{prompt}` in the place of the prompt, or of the last message of a conversation. The
    student is shown the prompt alone."""
    prompt_tokens: Positive = PROMPT_TOKENS
    """Where examples are plain texts: so many of its first tokens are the prompt of each."""
    own_answers: bool = False
    """Learn the data's own answers, too."""

    @model_validator(mode="after")
    def _draws(self) -> SequenceSpec:
        if self.temperature == 0:
            if self.samples > 1:
                raise ValueError(
                    "the likeliest answer is always the same: several `samples` need a `temperature`"
                )
            for name in ("top_k", "top_p"):
                if name in self.model_fields_set:
                    raise ValueError(f"a `temperature` of 0 draws nothing: leave `{name}` out, or set one")
        if self.server is not None and self.top_k:
            raise ValueError("the protocol of a server has no `top_k`: leave it out, or let `top_p` do it")
        if PROMPT not in self.ask:
            raise ValueError(f"`ask` must hold {PROMPT}, in whose place the prompt stands")
        return self


class RejectionSpec(PassSpecBase):
    """Of several answers to a prompt those that are right are learnt, each once (RFT, Yuan et al. 2023; STaR, Zelikman
    et al. 2022). Prompts without a right answer are left out."""

    validator: ValidatorName
    """Which answers are right, as `data.answers.validator`."""
    candidates: Annotated[int, Field(ge=1)] = 4
    """Answers to each prompt."""
    keep: Positive | None = None
    """So many right answers of a prompt, at most, the first ones; unset: all."""

    def code(self) -> tuple[str, ...]:
        """The function of the user's that judges."""
        return (self.validator,) if self.validator.startswith(CODE) else ()


class ReasoningSpec(PassSpecBase):
    """The teacher writes how it comes to its answers, and the student learns that too (Hsieh et al. 2023). Answers in
    which the pattern finds nothing are left out."""

    answer: str
    """`regex:PATTERN` with a group: the pattern finds the answer in what is written. What stands before it is the
    trace, what stands behind it is cut off; an empty group is no answer. With `control: answers_only` another student
    learns, of the same texts, what the pattern finds alone."""

    @model_validator(mode="after")
    def _finds_an_answer(self) -> ReasoningSpec:
        if not self.answer.startswith(REGEX):
            raise ValueError(f"`answer` is a pattern, `{REGEX}PATTERN`, as in `{REGEX}####\\s*(.*)`")
        if not pattern_of(self.answer).groups:
            raise ValueError("the pattern of `answer` needs a group, which is the answer")
        return self


class PairSpec(PassSpecBase):
    """A question with its answer, which a passage gives."""

    passage: Annotated[str, Field(min_length=1)]
    """The passage."""
    question: Annotated[str, Field(min_length=1)]
    """The question."""
    answer: Annotated[str, Field(min_length=1)]
    """The answer."""


_EXAMPLES = (
    PairSpec(
        passage="The museum will open its new wing in June. It holds 200 paintings by Dutch artists, and entrance is "
        "free for children.",
        question="How many paintings does the new wing hold?",
        answer="It holds 200 paintings by Dutch artists.",
    ),
    PairSpec(
        passage="Shares in Norwell rose 4% on Tuesday after the firm said that its sales in Asia had doubled. Chief "
        "executive Anna Reed called the result a turning point.",
        question="What did Anna Reed say about the result?",
        answer="Chief executive Anna Reed called the result a turning point.",
    ),
)


class SyntheticSpec(PassSpecBase):
    """The data are documents. Of passages of them the teacher writes questions with their answers, as `sequence` says
    how, and the student learns those pairs that the passage supports, each once (as Alpaca and Phi were taught)."""

    passages: Positive = 1000
    """Passages of the training documents that are asked about: one of each document before any gives a second."""
    held_out: Annotated[int, Field(ge=8)] = 200
    """Passages of the validation documents that are asked about, too: the pairs of one half of these documents choose
    among the student's weights, those of the other half are scored and never learnt."""
    passage_tokens: tuple[Positive, Positive] = (32, 96)
    """Fewest and most tokens of a passage, whole sentences as far as they go."""
    ask: str = f"{PASSAGE}\n\nWrite a question about this text, and copy the sentence that answers it."
    """What the teacher is asked, `{passage}` in the place of the passage."""
    examples: tuple[PairSpec, ...] = _EXAMPLES
    """What the teacher is shown before, asked and answered in the same way."""
    prompt: str = f"{PASSAGE}\n\n{QUESTION}"
    """What the student is asked, `{question}` in the place of the question; where `{passage}` does not stand in it, it
    answers by heart."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Of the words that an answer adds to its question, the share that must stand in the passage, beside all numbers
    and names of both; 0: nothing must."""
    validator: ValidatorName | None = None
    """What must hold of a pair, too: `regex:PATTERN` finds something in the answer; `python:module:function`, from
    question, passage and answer, texts, to true or false (needs `--allow-code`)."""
    alike: Annotated[float, Field(ge=0.7, le=1)] = 0.8
    """Pairs that have so much in common (Jaccard, of three words each) are copies: the first is kept, and none of a
    pair that is held out."""

    @model_validator(mode="after")
    def _holds_its_places(self) -> SyntheticSpec:
        for key, place in (("ask", PASSAGE), ("prompt", QUESTION)):
            if place not in getattr(self, key):
                raise ValueError(f"`{key}` must hold {place}")
        if self.passage_tokens[0] > self.passage_tokens[1]:
            raise ValueError(
                f"the fewest tokens come first, then the most: `passage_tokens: {list(self.passage_tokens[::-1])}`"
            )
        if self.validator is not None and not self.validator.startswith((REGEX, CODE)):
            raise ValueError(
                f"`validator: {self.validator}` compares with an answer of the data, and documents hold none: name a "
                f"`{REGEX}` or a function"
            )
        return self

    def code(self) -> tuple[str, ...]:
        """The function of the user's that judges."""
        named = self.validator or ""
        return (named,) if named.startswith(CODE) else ()


class OnPolicySpec(PassSpecBase):
    """In a share of the steps the student itself writes the answers to the prompts of the training split, with its
    present weights, and the teacher, which runs along, judges each of its tokens, the end included (GKD, Agarwal et al.
    2023). In such a step those losses alone count that compare with the teacher. The last weights are kept, since
    validation has the data's own answers."""

    share: Annotated[float, Field(gt=0, le=1, alias="lambda")] = 0.5
    """Share of the steps in which the student writes; in the others it learns from the data, or from what `sequence`
    lets the teacher write."""
    most: Positive = 64
    """Tokens of an answer, at most. Prompts beside which they have no room in `data.max_length` are left out."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the student's logits where its tokens are drawn; 0: always the likeliest token."""
    prompt_tokens: Positive | None = None
    """Where examples are plain texts: so many of its first tokens are the prompt of each; unset: as in `sequence`, or
    32."""
