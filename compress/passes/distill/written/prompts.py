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
from compress.generation.answers import Answer, tokens_drawn
from compress.generation.copies import find_duplicates
from compress.generation.prompts import PromptCodec
from compress.generation.reasons import WITHHELD, by_reason
from compress.generation.writing import GenerationSettings, key_of, tokens_used
from compress.models.text.chat import UNWRITTEN, Prompt
from compress.passes.distill.written.kept import CUT, EMPTY, KEPT
from compress.profile.specs.examples import DataFreeSpec
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import Sampling
from compress.step import StepContext
from compress.training.signals.written import answers_to

ENDED, ALIKE, COPIED = (
    "ended before the limit",
    "nearly a copy of another",
    "in the validation or test split",
)
REASONS = (KEPT, CUT, ENDED, *WITHHELD.values(), EMPTY, ALIKE, COPIED)


@dataclass(frozen=True)
class Prompts:
    """The accepted prompts; the reason and text of all; their statistics; tokens that a server `spent` on them."""

    kept: list[str]
    judged: list[tuple[str, str]]
    told: dict[str, Any]
    spent: int


def written_prompts(
    ctx: StepContext,
    free: DataFreeSpec,
    model: Artifact | ServerSpec,
    writer: PromptCodec,
    *,
    room: int,
    goes_on: bool,
) -> Prompts:
    """Let a teacher write prompts, and return the accepted ones.

    Args:
        writer: tokenizer and template of the model.
        room: maximum tokens of a prompt.
        goes_on: write beginnings of plain texts; else user messages.

    Raises:
        DataError: the model has no chat template, which marks the user's turn.
        ModelError: it has no beginning-of-text token, or the server's model does not match the template's tokenizer.
    """
    prompt: Prompt = writer.nothing if goes_on else UNWRITTEN
    stops = () if goes_on else writer.turn_stops(UNWRITTEN)
    seed = ctx.seed if free.seed is None else free.seed
    how = GenerationSettings(
        min(free.most, room), Sampling(free.temperature, 0, free.top_p, seed), stops, free.examples
    )
    if isinstance(model, ServerSpec):
        prompt = writer.plain(prompt)
        first, _ = answers_to(ctx, model, [prompt], replace(how, samples=1), "the teacher writes a prompt")
        check_tokenizer(first[key_of(prompt, 0)], writer, model)
    found, cost = answers_to(ctx, model, [prompt], how, "the teacher writes prompts")
    written = [found[key_of(prompt, sample)] for sample in range(free.examples)]
    judged = _judged(ctx, written, goes_on)
    told = {
        "prompts": len(written),
        "by_reason": by_reason((reason for reason, _ in judged), REASONS),
        "tokens": tokens_drawn(written),
        **cost,
    }
    kept = [text for reason, text in judged if reason == KEPT]
    return Prompts(kept, judged, told, sum(tokens_used(answer, how) for answer in written))


def check_tokenizer(answer: Answer, writer: PromptCodec, server: ServerSpec) -> None:
    """Check that a server's model tokenizes the prompt of an answer to the same number of tokens.

    Raises:
        ModelError: it does not (`server-tokenizer`).
    """
    read, own = (answer.used or {}).get("prompt"), len(writer.tokens(answer.prompt))
    if read is not None and read != own:
        raise ModelError(
            f"the server counts {read} tokens where the teacher's tokenizer counts {own}: its model has a different "
            "tokenizer, so the teacher's chat template does not fit it",
            where=server.url,
            hint="Set `teacher.model` to a model with the same tokenizer and template as the server's model.",
            code="server-tokenizer",
        )


def _judged(ctx: StepContext, written: list[Answer], goes_on: bool) -> list[tuple[str, str]]:
    """Return the reason why each is accepted or rejected, and its text."""
    # The beginning of a plain text is kept unstripped, since it will be continued.
    judged = [(_reason(one, goes_on), one.text if goes_on else one.text.strip()) for one in written]
    texts = [text for reason, text in judged if reason == KEPT]
    assert ctx.data.copied is not None
    copies = iter(zip(find_duplicates(texts), ctx.data.copied(texts), strict=True))

    def against_others(reason: str) -> str:
        if reason != KEPT:
            return reason
        original, copied = next(copies)
        return COPIED if copied else KEPT if original is None else ALIKE

    return [(against_others(reason), text) for reason, text in judged]


def _reason(one: Answer, goes_on: bool) -> str:
    if one.ended in WITHHELD:
        return WITHHELD[one.ended]
    if not one.text.strip():
        return EMPTY
    if goes_on:
        return KEPT if one.ended == "length" else ENDED
    return CUT if one.ended == "length" else KEPT
