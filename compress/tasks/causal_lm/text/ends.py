"""The tokens that end an answer, as whoever made a model says it in several places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.text.chat import PLACEHOLDER, Render


def end_of(said: int | list[int] | None, tokenizer: Tokenizer, special: Mapping[str, str]) -> int | None:
    """The token that stands behind a text that is learnt: what the tokenizer calls its end, else what the model's
    config says."""
    if "eos_token" in special and (found := tokenizer.token_to_id(special["eos_token"])) is not None:
        return int(found)
    return said[0] if isinstance(said, list) else said


def ends_of(
    model: PreTrainedModel,
    further: Sequence[int],
    end: int | None,
    render: Render | None,
    tokenizer: Tokenizer,
) -> list[int]:
    """All tokens that end an answer, each once: those that texts and turns are taught to end with, and those that the
    model's config, its `generation_config.json` and `further` name.

    Chat models end a turn by another token than a text, and only some of these places say so.
    """
    configs = (model.config, getattr(model, "generation_config", None))
    said = [getattr(config, "eos_token_id", None) for config in configs]
    named = [one for ids in said for one in (ids if isinstance(ids, list) else [ids])]
    found = dict.fromkeys([end, _end_of_turn(render, tokenizer), *named, *further])
    return [one for one in found if one is not None and 0 <= one < model.config.vocab_size]


def _end_of_turn(render: Render | None, tokenizer: Tokenizer) -> int | None:
    """The special token that a chat template puts behind what the assistant says; None where it puts none."""
    if render is None:
        return None
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": PLACEHOLDER}]
    # A template that refuses so plain a conversation will say so where one is to be learnt.
    with suppress(ModelError):
        behind = tokenizer.encode(render(talk, False).partition(PLACEHOLDER)[2], add_special_tokens=False).ids
        added = tokenizer.get_added_tokens_decoder()
        return next((one for one in behind if one in added and added[one].special), None)
    return None
