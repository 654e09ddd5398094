"""A tiny sentence encoder from a config and a seed, and its artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertModel

from compress.core.artifacts import TASK, TOKENIZER, Artifact
from compress.core.disk.files import write_json, write_text
from compress.models.io.checkpoints import save_model
from compress.models.text.sentence import SentenceEncoder
from tests.tiny import SPECIAL, WORDS, sealed, tiny_tokenizer


def encoder(pooling: Any, seed: int = 0, words: Sequence[str] = WORDS) -> SentenceEncoder:
    """32 numbers a text."""
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inside = BertModel(config)
        for parameter in inside.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    return SentenceEncoder(inside, pooling, normalize=True).eval()


def write_sentence_artifact(out: Path, model: nn.Module, words: Sequence[str] = WORDS) -> Artifact:
    """The model with its tokenizer and `task.json`."""
    save_model(model, out)
    tokenizer = tiny_tokenizer(words)
    write_text(out / TOKENIZER, tokenizer.to_str())
    body = {
        "task": "sentence-embedding",
        "max_length": 16,
        "labels": [],
        "input_names": ["input_ids", "attention_mask", "token_type_ids"],
        "output_names": ["embedding"],
        "width": 32,
        "pad_id": tokenizer.token_to_id("[PAD]"),
        "unk_id": tokenizer.token_to_id("[UNK]"),
        "mask_id": tokenizer.token_to_id("[MASK]"),
    }
    write_json(out / TASK, body)
    return sealed(out, model)
