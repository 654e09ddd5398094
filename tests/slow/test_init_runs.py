"""What `compress init` writes runs: pairs of a model and data as they come, through init, validate and run.

Models are built from a config and a seed, tokenizers trained here. Each profile is run as it was written, at one epoch.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

pytestmark = pytest.mark.slow

COMPRESS = Path(sys.executable).with_name("compress")
TOPICS = {
    "garden": ["soil", "seed", "tulip", "rake", "spade", "compost", "bloom", "hedge", "lawn", "petal"],
    "kitchen": [
        "oven",
        "flour",
        "saucepan",
        "whisk",
        "butter",
        "simmer",
        "pastry",
        "ladle",
        "garlic",
        "broth",
    ],
    "harbour": ["anchor", "ferry", "tide", "quay", "sailor", "rope", "buoy", "hull", "mast", "cargo"],
}
FILLERS = [
    "the",
    "a",
    "we",
    "saw",
    "some",
    "near",
    "with",
    "old",
    "new",
    "big",
    "small",
    "my",
    "your",
    "then",
    "later",
    "again",
    "today",
    "slowly",
    "very",
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
}

Row = tuple[str, str]


def texts(
    count: int = 180, seed: int = 0, weights: tuple[float, ...] = (1, 1, 1), words: int = 12
) -> list[Row]:
    """Texts whose words tell their topic; no two are the same."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        topic = list(TOPICS)[number] if number < 3 else rng.choices(list(TOPICS), weights)[0]
        chosen = [
            rng.choice(TOPICS[topic] if rng.random() < 0.5 else FILLERS) for _ in range(rng.randint(4, words))
        ]
        rows.append((f"{' '.join(chosen)} {number}", topic))
    return rows


CORPUS = [text for text, _ in texts(400, 99)]


def word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return tokenizer


def byte_pairs(special: tuple[str, ...] = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=list(special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    first, last = special[0], special[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)],
    )
    return tokenizer


def unigrams() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return tokenizer


BRACKETS = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ANGLES = {
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
}
ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}


def save(folder: Path, model: Any, tokenizer: Tokenizer, names: dict[str, str]) -> None:
    model.eval().save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def made(family: str, head: str = "Model", **config: Any) -> Callable[[Path], None]:
    """A writer of a model of random weights and its tokenizer."""

    def write(folder: Path) -> None:
        torch.manual_seed(0)
        tokenizer, names, own = {
            "Bert": (word_pieces, BRACKETS, {}),
            "DistilBert": (word_pieces, BRACKETS, {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}),
            "Electra": (word_pieces, BRACKETS, {"embedding_size": 16}),
            "MPNet": (word_pieces, BRACKETS, {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
            "Roberta": (byte_pairs, ANGLES, ROBERTA),
            "XLMRoberta": (unigrams, ANGLES, ROBERTA),
            "ModernBert": (
                lambda: byte_pairs(("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")),
                BRACKETS,
                {
                    "pad_token_id": 1,
                    "cls_token_id": 0,
                    "sep_token_id": 2,
                    "bos_token_id": 0,
                    "eos_token_id": 2,
                },
            ),
        }[family]
        cut = tokenizer()
        sizes = {"max_position_embeddings": 130} if family == "DistilBert" else SIZES
        body = {"vocab_size": cut.get_vocab_size(), **sizes, **own, **config}
        settings = getattr(transformers, f"{family}Config")(**body)
        save(folder, getattr(transformers, family + head)(settings), cut, names)

    return write


def sentence_encoder(family: str, **config: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        made(family, **config)(folder)
        kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
        modules = [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (kind, path) in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        width = config.get("hidden_size", SIZES["hidden_size"])
        pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

    return write


def table(
    name: str, header: tuple[str, ...], rows: list[tuple[Any, ...]], mark: str = ",", encoding: str = "utf-8"
) -> Callable[[Path], str]:
    """A writer of a table; it gives the table's name."""

    def write(folder: Path) -> str:
        if name.endswith(".csv"):
            with (folder / name).open("w", newline="", encoding=encoding) as file:
                csv.writer(file, delimiter=mark).writerows([header, *rows])
        elif name.endswith(".parquet"):
            pd.DataFrame(rows, columns=list(header)).to_parquet(folder / name)
        else:
            lines = (json.dumps(dict(zip(header, row, strict=True))) for row in rows)
            (folder / name).write_text("\n".join(lines))
        return name

    return write


def class_folders(folder: Path) -> str:
    for split, seed in (("Train", 0), ("Testing", 5)):
        for number, (text, topic) in enumerate(texts(90, seed)):
            file = folder / "corpus" / split / topic / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return "corpus"


def pairs_of_texts() -> list[tuple[Any, ...]]:
    both = zip(texts(120, 1), texts(120, 2), strict=True)
    return [
        (one, other, 1.0 if topic == its else 0.1 + number % 7 / 20)
        for number, ((one, topic), (other, its)) in enumerate(both)
    ]


NUMBERS = {"garden": 0, "kitchen": 1, "harbour": 2}
IN_GERMAN = {"garden": "Gärten", "kitchen": "Küche", "harbour": "Häfen"}


@dataclass(frozen=True)
class Pair:
    """A model, data, and the passes that are expected; none where init refuses."""

    name: str
    model: Callable[[Path], None]
    data: Callable[[Path], str]
    passes: tuple[str, ...]
    keys: dict[str, Any]


WHOLE = ("quantize", "export")
ALL = ("distill", "prune", *WHOLE)
PAIRS = [
    Pair(
        "bert, imbalanced",
        made("Bert", hidden_size=144, num_attention_heads=12, intermediate_size=288),
        table("d.csv", ("text", "label"), texts(240, weights=(0.9, 0.07, 0.03))),
        ALL,
        {},
    ),
    Pair(
        "distilbert, semicolons and umlauts",
        made("DistilBert"),
        table(
            "d.csv",
            ("Nr", "Kommentar", "Kategorie"),
            [(i, f"{text}, schön; größer", IN_GERMAN[topic]) for i, (text, topic) in enumerate(texts())],
            ";",
            "cp1252",
        ),
        ALL,
        {"text_column": "Kommentar", "label_column": "Kategorie"},
    ),
    Pair(
        "roberta, numbers for labels",
        made("Roberta"),
        table(
            "d.csv",
            ("id", "review", "sentiment"),
            [(i, text, int(topic == "garden")) for i, (text, topic) in enumerate(texts())],
        ),
        ALL,
        {"text_column": "review", "label_column": "sentiment"},
    ),
    Pair(
        "xlm-roberta, tabs in a csv",
        made("XLMRoberta"),
        table("d.csv", ("intent", "utterance"), [(topic, text) for text, topic in texts()], "\t"),
        ALL,
        {"text_column": "utterance", "label_column": "intent"},
    ),
    Pair(
        "electra, fractions for labels",
        made("Electra"),
        table("d.jsonl", ("y", "x"), [(float(NUMBERS[topic]), text) for text, topic in texts()]),
        ALL,
        {"text_column": "x", "label_column": "y"},
    ),
    Pair(
        "mpnet, sentences",
        sentence_encoder("MPNet"),
        table("d.csv", ("sentence",), [(text,) for text, _ in texts()]),
        WHOLE,
        {"text_column": "sentence"},
    ),
    Pair("modernbert", made("ModernBert"), table("d.csv", ("text", "label"), texts()), (), {}),
    Pair(
        "a narrow teacher",
        made("Bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20),
        table("d.csv", ("text", "label"), texts()),
        ALL,
        {},
    ),
    Pair(
        "a classifier that names its outputs",
        made("DistilBert", "ForSequenceClassification", id2label=dict(enumerate(("bad", "good")))),
        table("d.csv", ("text", "label"), [(text, f"{int(topic == 'garden')}.0") for text, topic in texts()]),
        ALL,
        {"labels": ["bad", "good"]},
    ),
    Pair(
        "a sentence encoder and pairs",
        sentence_encoder("Bert", hidden_size=208),
        table("d.csv", ("first", "second", "score"), pairs_of_texts()),
        ("distill", *WHOLE),
        {"pair_columns": ["first", "second"]},
    ),
    Pair("mpnet, folders of texts", made("MPNet"), class_folders, WHOLE, {}),
    Pair(
        "roberta of few positions",
        made("Roberta", max_position_embeddings=34),
        table(
            "d.parquet",
            ("category", "split", "body"),
            [(topic, "all", text) for text, topic in texts(words=60)],
        ),
        ALL,
        {"text_column": "body", "label_column": "category", "max_length": 32},
    ),
]
ONE_EPOCH = {
    "finetune": "teacher.finetune.epochs=1",
    "distill": "passes.{at}.distill.epochs=1",
    "prune": "passes.{at}.prune.recover.epochs=1",
}
QUICK = ("measure.examples=8", "measure.min_seconds=0.1", "measure.min_rounds=3")


def compress(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COMPRESS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(COMPRESS), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_what_init_writes_runs(pair: Pair, tmp_path: Path):
    pair.model(tmp_path / "model")
    wrote = compress(tmp_path, "init", "model", pair.data(tmp_path))
    if not pair.passes:
        assert wrote.returncode == 4
        assert "[family-unsupported]" in wrote.stderr
        assert not (tmp_path / "compress.yaml").exists()
        return
    assert wrote.returncode == 0, wrote.stderr
    profile = yaml.safe_load((tmp_path / "compress.yaml").read_text())
    kinds = [next(iter(entry)) for entry in profile["passes"]]
    assert tuple(kinds) == pair.passes
    assert {key: profile["data"].get(key) for key in pair.keys} == pair.keys

    checked = compress(tmp_path, "validate", "compress.yaml")
    assert checked.returncode == 0, checked.stderr

    epochs = [ONE_EPOCH[kind].format(at=at) for at, kind in enumerate(kinds) if kind in ONE_EPOCH]
    epochs += [ONE_EPOCH["finetune"]] if "finetune" in profile["teacher"] else []
    words = [word for one in (*epochs, *QUICK) for word in ("--set", one)]
    ran = compress(tmp_path, "run", "compress.yaml", "--quiet", *words)
    assert ran.returncode in (0, 3), ran.stderr


def test_most_pairs_are_not_refused():
    assert len(PAIRS) == 12
    assert sum(not pair.passes for pair in PAIRS) <= 3
