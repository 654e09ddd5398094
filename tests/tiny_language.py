"""A folder with a tiny language model, its tokenizer and chat template, and texts in three splits."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from compress.core.artifacts import Artifact, seal
from compress.core.disk.files import copy_file, write_json
from compress.core.forms import TORCH_FLOAT
from compress.data.splits import UNLABELLED, Examples
from compress.models.io.checkpoints import save_model
from compress.tasks.base import TrainingData
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel

Taught = tuple[Artifact, CausalLanguageModel, TrainingData]
"""A model in torch form, its task, and the texts that it learnt."""

BEGIN, END = "<begin>", "<end>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = ["red", "blue", "cat", "dog", "runs", "sees", "the", "a", "big", "small", "house", "tree"]
SIZES: dict[str, int] = {"train": 60, "validation": 8, "test": 12}


def byte_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> Tokenizer:
    """Two special tokens, every byte one, and what `merges` make."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [BEGIN, END, *letters, *("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([BEGIN, END])
    return made


def write_model(folder: Path, merges: Sequence[tuple[str, str]] = ()) -> None:
    """A tiny Llama with tied embeddings, as transformers saves it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(merges),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        model_max_length=128,
    )
    tokenizer.chat_template = CHATML
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=260 + len(merges),
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_texts(folder: Path) -> None:
    """Sentences of a few words, each once."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(0)
    for split, count in SIZES.items():
        rows = [" ".join(drawn.choice(WORDS) for _ in range(drawn.randint(4, 30))) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def profile(**changed: Any) -> dict[str, Any]:
    """A profile for both."""
    return {
        "name": "tiny-lm",
        "task": "causal-lm",
        "data": {"path": "data", "max_length": 64},
        "teacher": {"model": "model", "finetune": {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}},
        "passes": [{"export": {"golden": 4}}],
        "targets": [{"device": "cpu", "sequence_lengths": [16]}],
        "measure": {"examples": 4, "min_seconds": 0.05, "min_rounds": 4, "patience_s": 0},
        **changed,
    }


def toy(file: Path, **changed: Any) -> dict[str, Any]:
    """A shipped profile of SmolLM2 with all its keys, for the tiny model and its texts in the same folder."""
    body: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    body["data"] |= {"path": "data", "max_length": 64}
    body["teacher"]["model"] = "model"
    body["teacher"]["finetune"] |= {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}
    for one in body["passes"]:
        if "prune" in one:
            one["prune"]["remove"]["layers"] = 0.5
            one["prune"] |= {"round_to": 8, "importance_batches": 2}
            one["prune"]["recover"] |= {"epochs": 0.9, "learning_rate": 3e-3}
        if "quantize" in one:
            one["quantize"]["block_size"] = 16
        if "export" in one:
            one["export"]["golden"] = 2
    body["targets"][0]["sequence_lengths"] = [16]
    body["budget"] = {"size_mb": 1}
    body["measure"] = profile()["measure"]
    return {**body, **changed}


def taught(folder: Path, max_length: int = 32, rounds: int = 24, **described: Any) -> Taught:
    """A tiny language model that has learnt its texts a little, as a profile's source step leaves one; `described`: of
    its `task.json`."""
    write_model(folder / "model")
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "model")
    drawn = np.random.default_rng(0)
    texts = tuple(" ".join(drawn.choice(WORDS, 8)) for _ in range(48))
    tokenizer = byte_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for start in [*range(0, 48, 8)] * rounds:
        ids = [torch.tensor(tokenizer.encode(text).ids[:32]) for text in texts[start : start + 8]]
        batch = torch.stack([one for one in ids if len(one) == 32])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model.eval(), folder / "torch")
    copy_file(folder / "model" / "tokenizer.json", folder / "torch" / "tokenizer.json")
    described = {
        "task": "causal-lm",
        "labels": [],
        "input_names": ["input_ids", "attention_mask"],
        "output_names": ["logits"],
        "max_length": max_length,
        "words": 260,
        "pad_id": 259,
        "begin_id": None,
        "end_id": 259,
        "chat_template": None,
        "special_tokens": {},
        **described,
    }
    write_json(folder / "torch" / "task.json", described)
    examples = Examples(texts, np.full(len(texts), UNLABELLED, np.int64))
    artifact = seal(folder / "torch", TORCH_FLOAT, {"parameters": 0})
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x.jsonl", "max_length": max_length}))
    return artifact, task, TrainingData(examples, examples, ())
