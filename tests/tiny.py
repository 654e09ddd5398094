"""Tiny models and tokenizers from a config and a seed, shared by the tests. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import AutoModelForSequenceClassification, BertConfig, PretrainedConfig, PreTrainedModel

from compress.core.artifacts import STRUCTURE, TASK, TOKENIZER, Artifact, seal
from compress.core.disk.files import write_json, write_text
from compress.core.forms import TORCH_FLOAT, Structure
from compress.models.io.checkpoints import count_parameters, save_model
from compress.profile.schema import DataSpec
from compress.tasks.text_classification.task import TextClassification

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "bird",
    "runs",
    "sleeps",
    "sings",
    "##s",
    "##ing",
    "the",
    "a",
    "and",
)
LABELS = ("colour", "animal", "verb")


def tiny_classifier(
    config: PretrainedConfig, labels: Sequence[str] = LABELS, seed: int = 0
) -> PreTrainedModel:
    """A classifier of any architecture with random weights that tell its inputs apart, in eval mode."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def tiny_bert(
    vocab: int = len(SPECIAL) + len(WORDS),
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    ffn: int = 64,
    labels: Sequence[str] = LABELS,
    seed: int = 0,
) -> PreTrainedModel:
    """A BERT classifier with random weights, in eval mode."""
    config = BertConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=64,
    )
    return tiny_classifier(config, labels, seed)


def tiny_tokenizer(words: Sequence[str] = WORDS) -> Tokenizer:
    """A WordPiece tokenizer of BERT's kind; the special tokens are 0 to 4, `words` follow."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def text_task(max_length: int) -> TextClassification:
    """Text classification of texts of so many tokens."""
    return TextClassification(DataSpec(path="unused", max_length=max_length))


def write_torch_artifact(
    out: Path,
    model: PreTrainedModel | None = None,
    tokenizer: Tokenizer | None = None,
    max_length: int = 32,
) -> Artifact:
    """Write a sealed torch-form artifact: weights, config, structure, tokenizer.json and task.json."""
    model = tiny_bert() if model is None else model
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    save_model(model, out)
    write_text(out / TOKENIZER, tokenizer.to_str())
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    write_json(
        out / TASK,
        {
            "task": "text-classification",
            "max_length": max_length,
            "labels": labels,
            "input_names": names,
            "output_names": ["logits"],
            "pad_id": tokenizer.token_to_id("[PAD]"),
            "unk_id": tokenizer.token_to_id("[UNK]"),
            "mask_id": tokenizer.token_to_id("[MASK]"),
        },
    )
    return sealed(out, model)


def sealed(out: Path, model: torch.nn.Module) -> Artifact:
    """The artifact of a torch model whose files are in `out`."""
    form = TORCH_FLOAT.with_fields(structure=Structure.PRUNED) if (out / STRUCTURE).exists() else TORCH_FLOAT
    return seal(out, form, {"parameters": count_parameters(model)})
