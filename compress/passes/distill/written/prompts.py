"""Prompts written by the teacher itself.

An instruct model that is given its chat template up to the user message writes what a user would say (Xu et
al., Magpie, 2024, arXiv:2406.08464). Plain texts begin after the beginning-of-text token (Liu et al., LLM-QAT,
2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from compress.core.artifacts import Artifact
from compress.core.errors import ModelError
from compress.generation.answers import Answer, count_generated_tokens
from compress.generation.copies import find_duplicates
from compress.generation.prompts import PromptCodec
from compress.generation.reasons import WITHHELD, count_by_reason
from compress.generation.writing import GenerationSettings, answer_key, tokens_used
from compress.models.text.chat import EMPTY_USER_TURN, Prompt
from compress.passes.distill.written.kept import ACCEPTED, EMPTY, TRUNCATED
from compress.profile.specs.examples import DataFreeSpec
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import Sampling
from compress.step import StepContext
from compress.training.signals.written import cached_answers

ENDED_EARLY, NEAR_DUPLICATE, HELD_OUT_COPY = (
    "ended before the limit",
    "nearly a copy of another",
    "in the validation or test split",
)
REASONS = (ACCEPTED, TRUNCATED, ENDED_EARLY, *WITHHELD.values(), EMPTY, NEAR_DUPLICATE, HELD_OUT_COPY)


@dataclass(frozen=True)
class GeneratedPrompts:
    """The accepted prompts; the reason and text of all; their statistics; tokens that a server `server_tokens` on
    them."""

    accepted: list[str]
    judged: list[tuple[str, str]]
    facts: dict[str, Any]
    server_tokens: int


def write_prompts(
    ctx: StepContext,
    data_free: DataFreeSpec,
    model: Artifact | ServerSpec,
    writer: PromptCodec,
    *,
    max_tokens: int,
    continues_texts: bool,
) -> GeneratedPrompts:
    """Let a teacher write prompts, and return the accepted ones.

    Args:
        writer: tokenizer and template of the model.
        max_tokens: maximum tokens of a prompt.
        continues_texts: write beginnings of plain texts; else user messages.

    Raises:
        DataError: the model has no chat template, which marks the user's turn.
        ModelError: it has no beginning-of-text token, or the server's model does not match the template's tokenizer.
    """
    prompt: Prompt = writer.empty_prompt if continues_texts else EMPTY_USER_TURN
    stops = () if continues_texts else writer.message_stops(EMPTY_USER_TURN)
    seed = ctx.seed if data_free.seed is None else data_free.seed
    settings = GenerationSettings(
        min(data_free.most, max_tokens),
        Sampling(data_free.temperature, 0, data_free.top_p, seed),
        stops,
        data_free.examples,
    )
    if isinstance(model, ServerSpec):
        prompt = writer.render_without_bos(prompt)
        first, _ = cached_answers(
            ctx, model, [prompt], replace(settings, samples=1), "the teacher writes a prompt"
        )
        check_tokenizer(first[answer_key(prompt, 0)], writer, model)
    found, cost = cached_answers(ctx, model, [prompt], settings, "the teacher writes prompts")
    prompt_answers = [found[answer_key(prompt, sample)] for sample in range(data_free.examples)]
    judged = _judge_prompts(ctx, prompt_answers, continues_texts)
    facts = {
        "prompts": len(prompt_answers),
        "by_reason": count_by_reason((reason for reason, _ in judged), REASONS),
        "tokens": count_generated_tokens(prompt_answers),
        **cost,
    }
    accepted = [text for reason, text in judged if reason == ACCEPTED]
    return GeneratedPrompts(
        accepted, judged, facts, sum(tokens_used(answer, settings) for answer in prompt_answers)
    )


def check_tokenizer(answer: Answer, writer: PromptCodec, server: ServerSpec) -> None:
    """Check that a server's model tokenizes the prompt of an answer to the same number of tokens.

    Raises:
        ModelError: it does not (`server-tokenizer`).
    """
    server_count, own_count = (answer.used or {}).get("prompt"), len(writer.encode_prompt(answer.prompt))
    if server_count is not None and server_count != own_count:
        raise ModelError(
            f"the server counts {server_count} tokens where the teacher's tokenizer counts {own_count}: its "
            "model has a different "
            "tokenizer, so the teacher's chat template does not fit it",
            where=server.url,
            hint="Set `teacher.model` to a model with the same tokenizer and template as the server's model.",
            code="server-tokenizer",
        )


def _judge_prompts(
    ctx: StepContext, prompt_answers: list[Answer], continues_texts: bool
) -> list[tuple[str, str]]:
    """Return the reason why each is accepted or rejected, and its text."""
    # The beginning of a plain text is kept unstripped, since it will be continued.
    judged = [
        (_reason(one, continues_texts), one.text if continues_texts else one.text.strip())
        for one in prompt_answers
    ]
    texts = [text for reason, text in judged if reason == ACCEPTED]
    assert ctx.data.is_heldout_copy is not None
    copies = iter(zip(find_duplicates(texts), ctx.data.is_heldout_copy(texts), strict=True))

    def against_others(reason: str) -> str:
        if reason != ACCEPTED:
            return reason
        original, copied = next(copies)
        return HELD_OUT_COPY if copied else ACCEPTED if original is None else NEAR_DUPLICATE

    return [(against_others(reason), text) for reason, text in judged]


def _reason(answer: Answer, continues_texts: bool) -> str:
    if answer.ended in WITHHELD:
        return WITHHELD[answer.ended]
    if not answer.text.strip():
        return EMPTY
    if continues_texts:
        return ACCEPTED if answer.ended == "length" else ENDED_EARLY
    return TRUNCATED if answer.ended == "length" else ACCEPTED
