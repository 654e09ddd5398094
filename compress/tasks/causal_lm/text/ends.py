"""Tokens that end an answer, which models define in several places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.text.chat import PLACEHOLDER, Render


def end_token_of(
    config_end_id: int | list[int] | None, tokenizer: Tokenizer, special: Mapping[str, str]
) -> int | None:
    """Return the token that ends a training text: the tokenizer's end token, else that of the model's config."""
    if "eos_token" in special and (token_id := tokenizer.token_to_id(special["eos_token"])) is not None:
        return int(token_id)
    return config_end_id[0] if isinstance(config_end_id, list) else config_end_id


def answer_end_tokens(
    model: PreTrainedModel,
    extra_ids: Sequence[int],
    end_id: int | None,
    render: Render | None,
    tokenizer: Tokenizer,
) -> list[int]:
    """Return all tokens that end an answer, without duplicates.

    These are the tokens that end texts and turns in training, and those named by the model's config, its
    `generation_config.json` and `extra_ids`: chat models end a turn by another token than a text, and only some of
    these places name it.
    """
    configs = (model.config, getattr(model, "generation_config", None))
    config_ids = [getattr(config, "eos_token_id", None) for config in configs]
    flat_ids = [token_id for ids in config_ids for token_id in (ids if isinstance(ids, list) else [ids])]
    unique_ids = dict.fromkeys([end_id, _end_of_turn(render, tokenizer), *flat_ids, *extra_ids])
    return [
        token_id
        for token_id in unique_ids
        if token_id is not None and 0 <= token_id < model.config.vocab_size
    ]


def _end_of_turn(render: Render | None, tokenizer: Tokenizer) -> int | None:
    """Return the special token that a chat template appends to an assistant message; None if there is none."""
    if render is None:
        return None
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": PLACEHOLDER}]
    # A template that rejects such a plain conversation raises again when a real one is trained on.
    with suppress(ModelError):
        suffix_ids = tokenizer.encode(
            render(messages, False).partition(PLACEHOLDER)[2], add_special_tokens=False
        ).ids
        added = tokenizer.get_added_tokens_decoder()
        return next(
            (token_id for token_id in suffix_ids if token_id in added and added[token_id].special), None
        )
    return None
