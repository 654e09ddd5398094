"""Tokens that end an answer, which models define in several places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.text.chat import PLACEHOLDER, Render


def end_of(said: int | list[int] | None, tokenizer: Tokenizer, special: Mapping[str, str]) -> int | None:
    """Return the token that ends a training text: the tokenizer's end token, else that of the model's config."""
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
    """Return all tokens that end an answer, without duplicates.

    These are the tokens that end texts and turns in training, and those named by the model's config, its
    `generation_config.json` and `further`: chat models end a turn by another token than a text, and only some of these
    places name it.
    """
    configs = (model.config, getattr(model, "generation_config", None))
    said = [getattr(config, "eos_token_id", None) for config in configs]
    named = [one for ids in said for one in (ids if isinstance(ids, list) else [ids])]
    found = dict.fromkeys([end, _end_of_turn(render, tokenizer), *named, *further])
    return [one for one in found if one is not None and 0 <= one < model.config.vocab_size]


def _end_of_turn(render: Render | None, tokenizer: Tokenizer) -> int | None:
    """Return the special token that a chat template appends to an assistant message; None if there is none."""
    if render is None:
        return None
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": PLACEHOLDER}]
    # A template that rejects such a plain conversation raises again when a real one is trained on.
    with suppress(ModelError):
        behind = tokenizer.encode(render(talk, False).partition(PLACEHOLDER)[2], add_special_tokens=False).ids
        added = tokenizer.get_added_tokens_decoder()
        return next((one for one in behind if one in added and added[one].special), None)
    return None
