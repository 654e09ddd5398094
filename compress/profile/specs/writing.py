"""How a model generates training texts for another model, and which of them are kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.disk.source_uris import CODE_PREFIX
from compress.core.spec import PassSpecBase, Positive, Seed
from compress.profile.specs.license import LicensedSpec
from compress.profile.specs.server import ServerSpec
from compress.profile.specs.validator import REGEX, ValidatorName, pattern_of

PROMPT = "{prompt}"
"""Placeholder of the prompt in `ask`."""
PASSAGE, QUESTION = "{passage}", "{question}"
"""Placeholders of a passage and of a question in the texts of `synthetic`."""
PROMPT_TOKENS = 32
"""Default number of tokens of a plain text that serve as its prompt."""


class SequenceSpec(LicensedSpec):
    """Sequence-level distillation (Kim and Rush 2016), for language models: the teacher writes answers to the prompts
    of the training split, and the student learns these instead of the data's own. With `next_token` as the only loss,
    the teacher may have any tokenizer."""

    server: ServerSpec | None = None
    """Let a model behind a server write instead of the teacher."""
    most: Positive = 64
    """Maximum tokens of an answer. Prompts that leave no room for it within `data.max_length` are skipped."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature; 0: greedy decoding."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many of the most likely tokens; 0: from all. Needs a `temperature`; not with `server`."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: sample from the most likely tokens whose probabilities add up to this; 1: from all. Needs a
    `temperature`."""
    samples: Positive = 1
    """Answers per prompt; identical ones are learnt once. Several need a `temperature`."""
    seed: Seed | None = None
    """Seed of the sampling; unset: the profile's."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end an answer, and are cut from it, where the teacher does not end it itself."""
    ask: str = PROMPT
    """What the teacher is asked; `{prompt}` is replaced by the prompt, or by the last message of a conversation. The
    student sees the prompt alone."""
    prompt_tokens: Positive = PROMPT_TOKENS
    """Plain texts only: number of tokens at the beginning of each that are its prompt."""
    own_answers: bool = False
    """Also learn the data's own answers."""

    @model_validator(mode="after")
    def _check_sampling(self) -> SequenceSpec:
        if self.temperature == 0:
            if self.samples > 1:
                raise ValueError(
                    "greedy decoding always gives the same answer: several `samples` need a `temperature`"
                )
            for name in ("top_k", "top_p"):
                if name in self.model_fields_set:
                    raise ValueError(
                        f"a `temperature` of 0 does not sample: leave `{name}` out, or set a temperature"
                    )
        if self.server is not None and self.top_k:
            raise ValueError("the API of a server has no `top_k`: leave it out, or use `top_p`")
        if PROMPT not in self.ask:
            raise ValueError(f"`ask` must contain {PROMPT}, which the prompt replaces")
        return self


class RejectionSpec(PassSpecBase):
    """Of several answers to a prompt, only the correct ones are learnt, each once (RFT, Yuan et al. 2023; STaR,
    Zelikman et al. 2022). Prompts without a correct answer are left out."""

    validator: ValidatorName
    """Which answers are correct, as in `data.answers.validator`."""
    candidates: Annotated[int, Field(ge=1)] = 4
    """Answers per prompt; several need a `sequence.temperature`."""
    keep: Positive | None = None
    """Maximum number of correct answers to keep per prompt, the first ones; unset: all."""

    def code(self) -> tuple[str, ...]:
        """Return the user's validator function (`python:module:function`), if it is one."""
        return (self.validator,) if self.validator.startswith(CODE_PREFIX) else ()


class ReasoningSpec(PassSpecBase):
    """The teacher writes out its reasoning, and the student learns it along with the answer (Hsieh et al. 2023).
    Answers that the pattern does not match are left out."""

    answer: str
    """`regex:PATTERN` with a group: the pattern finds the answer in what the teacher writes. The text before the match
    is the reasoning trace, the text after it is cut off; an empty group is no answer. With `control: answers_only`, a
    second student learns from the same texts only what the pattern matches."""

    @model_validator(mode="after")
    def _check_answer_pattern(self) -> ReasoningSpec:
        if not self.answer.startswith(REGEX):
            raise ValueError(f"`answer` must be a pattern, `{REGEX}PATTERN`, as in `{REGEX}####\\s*(.*)`")
        if not pattern_of(self.answer).groups:
            raise ValueError("the pattern of `answer` needs a group that captures the answer")
        return self


class PairSpec(PassSpecBase):
    """A question about a passage, with its answer."""

    passage: Annotated[str, Field(min_length=1)]
    """The passage."""
    question: Annotated[str, Field(min_length=1)]
    """The question."""
    answer: Annotated[str, Field(min_length=1)]
    """The answer."""


_FEW_SHOT_EXAMPLES = (
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
    """The data are documents. The teacher writes question-answer pairs about passages of them, decoded as in
    `sequence`, and the student learns the pairs that the passage supports, each once (as Alpaca and Phi were
    trained)."""

    passages: Positive = 1000
    """Number of passages of the training documents to ask about: one of each document before any gives a second."""
    held_out: Annotated[int, Field(ge=8)] = 200
    """Number of passages of the validation documents to ask about: the pairs of one half of these documents select the
    student's checkpoint, those of the other half are scored and never learnt."""
    passage_tokens: tuple[Positive, Positive] = (32, 96)
    """[minimum, maximum] tokens of a passage, in whole sentences where they fit."""
    ask: str = f"{PASSAGE}\n\nWrite a question about this text, and copy the sentence that answers it."
    """What the teacher is asked; `{passage}` is replaced by the passage."""
    examples: tuple[PairSpec, ...] = _FEW_SHOT_EXAMPLES
    """Few-shot examples for the teacher, asked and answered in the same way."""
    prompt: str = f"{PASSAGE}\n\n{QUESTION}"
    """What the student is asked; `{passage}` and `{question}` are replaced. Without `{passage}`, it answers from
    memory."""
    support: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Minimum fraction of the words that an answer adds to its question that must occur in the passage, together with
    all numbers and names of both; 0: no check."""
    validator: ValidatorName | None = None
    """A further check of pairs: `regex:PATTERN` must match in the answer; `python:module:function` maps question,
    passage and answer, as strings, to true or false (needs `--allow-code`). Unset: none."""
    alike: Annotated[float, Field(ge=0.7, le=1)] = 0.8
    """Pairs with at least this Jaccard similarity of word trigrams are duplicates: the first is kept, and no duplicate
    of a held-out pair."""

    @model_validator(mode="after")
    def _check_synthetic_keys(self) -> SyntheticSpec:
        for key, placeholder in (("ask", PASSAGE), ("prompt", QUESTION)):
            if placeholder not in getattr(self, key):
                raise ValueError(f"`{key}` must contain {placeholder}")
        if self.passage_tokens[0] > self.passage_tokens[1]:
            raise ValueError(
                f"give the fewest tokens first, then the most: `passage_tokens: {list(self.passage_tokens[::-1])}`"
            )
        if self.validator is not None and not self.validator.startswith((REGEX, CODE_PREFIX)):
            raise ValueError(
                f"`validator: {self.validator}` compares with an answer of the data, and documents have none: give a "
                f"`{REGEX}` or a function"
            )
        return self

    def code(self) -> tuple[str, ...]:
        """Return the user's validator function (`python:module:function`), if it is one."""
        validator = self.validator or ""
        return (validator,) if validator.startswith(CODE_PREFIX) else ()


class OnPolicySpec(PassSpecBase):
    """On-policy distillation (GKD, Agarwal et al. 2023): in a fraction of the steps the student, with its current
    weights, answers prompts of the training split, and the teacher, which runs alongside, scores each of its tokens,
    the end token included. In these steps only losses that compare with the teacher count. The last weights are kept,
    since validation uses the data's own answers."""

    share: Annotated[float, Field(gt=0, le=1, alias="lambda")] = 0.5
    """Fraction of the steps in which the student writes; in the others it learns from the data, or from what the
    teacher writes for `sequence`."""
    most: Positive = 64
    """Maximum tokens of an answer. Prompts that leave no room for it within `data.max_length` are left out."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature of the student; 0: greedy decoding."""
    prompt_tokens: Positive | None = None
    """Plain texts only: number of tokens at the beginning of each that are its prompt; unset: as in `sequence`, else
    32."""
