"""Prompts that nobody asked: the teacher writes them itself.

An instruct model that is given the part of its chat template before a user's words writes what a user would say (Xu et
al., Magpie, 2024, arXiv:2406.08464). Plain texts begin behind the token that begins texts (Liu et al., LLM-QAT, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from compress.core.artifacts import Artifact
from compress.core.errors import ModelError
from compress.generation.answers import Answer, tokens_drawn
from compress.generation.copies import originals
from compress.generation.prompts import Writer
from compress.generation.reasons import WITHHELD, by_reason
from compress.generation.writing import How, cost_of, key_of
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
    """The texts of those that are kept; each with why it is or is not; what is told of them all; tokens that a server
    was `spent` on them."""

    kept: list[str]
    judged: list[tuple[str, str]]
    told: dict[str, Any]
    spent: int


def written_prompts(
    ctx: StepContext,
    free: DataFreeSpec,
    model: Artifact | ServerSpec,
    writer: Writer,
    *,
    room: int,
    goes_on: bool,
) -> Prompts:
    """Let a teacher write prompts, and keep those that serve.

    Args:
        writer: how the model takes texts.
        room: tokens that a prompt has room for.
        goes_on: plain texts are to begin; else users to ask.

    Raises:
        DataError: the model has no chat template, which says where a user speaks.
        ModelError: no token begins its texts, or what is behind the server is not what the template is of.
    """
    prompt: Prompt = writer.nothing if goes_on else UNWRITTEN
    stops = () if goes_on else writer.behind(UNWRITTEN)
    seed = ctx.seed if free.seed is None else free.seed
    how = How(min(free.most, room), Sampling(free.temperature, 0, free.top_p, seed), stops, free.examples)
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
    return Prompts(kept, judged, told, sum(cost_of(answer, how) for answer in written))


def check_tokenizer(answer: Answer, writer: Writer, server: ServerSpec) -> None:
    """Refuse a server whose model cuts the prompt of an answer into another number of tokens.

    Raises:
        ModelError: it does (`server-tokenizer`).
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
    """Why each is kept or left out, and its text."""
    # What a text begins with is kept as it is: it is gone on with.
    judged = [(_reason(one, goes_on), one.text if goes_on else one.text.strip()) for one in written]
    texts = [text for reason, text in judged if reason == KEPT]
    assert ctx.data.copied is not None
    copies = iter(zip(originals(texts), ctx.data.copied(texts), strict=True))

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
