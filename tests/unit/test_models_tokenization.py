"""A model's texts are cut into tokens as transformers and sentence-transformers cut them, or the setting is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import write_json, write_text
from compress.core.errors import ModelError
from compress.encoding.tokens import encode_texts
from compress.models.text.sentence_settings import read_sentence_settings
from compress.models.text.text_format import TextFormat
from compress.models.text.tokenization import PROBE_TEXTS, Tokenization, from_transformers, read_tokenization
from compress.models.text.vocabulary import id_table, read_vocabulary, trim_tokenizer
from compress.profile.model_checks.tokenizers import SENTENCE_SETTING, TOKENIZER_MISSING, TOKENIZER_SETTING
from compress.runtimes import runner

CORPUS = [
    "The garden has roses, Tulips and a hedge.",
    "Butter, flour and garlic simmer in the Saucepan",
    "the ferry leaves the quay at noon; sailors pull the rope",
    *PROBE_TEXTS[:40],
]
BERT = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


def word_pieces(lowercase: bool = True) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


def byte_pairs() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return made


def unigrams() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=None, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


KINDS = {
    "bert": (word_pieces, BERT, "bert"),
    "roberta": (byte_pairs, ROBERTA, "roberta"),
    "xlm-roberta": (unigrams, ROBERTA, "xlm-roberta"),
}


def write_folder(folder: Path, kind: str = "bert", **settings: Any) -> Path:
    """A folder as `save_pretrained` writes it, with further settings in its tokenizer_config.json."""
    make, special, model_type = KINDS[kind]
    PreTrainedTokenizerFast(tokenizer_object=make(), **special).save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps({"model_type": model_type, "max_position_embeddings": 512})
    )
    edit(folder / "tokenizer_config.json", **settings)
    return folder


def edit(file: Path, **changes: Any) -> None:
    said = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**said, **changes}))


def carried(tokenization: Tokenization, out: Path, max_length: int = 64) -> Path:
    """What a source step writes of it."""
    out.mkdir()
    write_text(out / TOKENIZER, tokenization.text)
    task = {"max_length": max_length, "input_names": ["input_ids", "attention_mask"], "pad_id": 0}
    write_json(out / TASK, task | tokenization.format.section())
    return out


def ours(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids that training and measuring see; those of a bundle must be the same."""
    inputs = encode_texts(texts, folder / TOKENIZER, folder / TASK)
    task = json.loads((folder / TASK).read_text())
    tokenizer = runner.load_tokenizer(
        str(folder), task["max_length"], task.get("texts", {}).get("cut", "right")
    )
    for text, ids in zip(texts, inputs.ids, strict=True):
        (row,) = runner.encode(tokenizer, [text], task)["input_ids"]
        np.testing.assert_array_equal(row, ids)
    return [ids.tolist() for ids in inputs.ids]


SETTINGS = [
    ("bert", {}),
    ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
    ("bert", {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True}),
    ("bert", {"tokenizer_class": "BertTokenizer", "strip_accents": False}),
    ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True}),
    ("bert", {"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}),
    ("bert", {"tokenizer_class": "BertTokenizer", "sep_token": "[MASK]"}),
    ("bert", {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}),
    ("bert", {"tokenizer_class": "ElectraTokenizer"}),
    ("bert", {"truncation_side": "left"}),
    ("bert", {"padding_side": "left"}),
    ("bert", {"clean_up_tokenization_spaces": True, "model_input_names": ["input_ids"]}),
    ("roberta", {}),
    ("roberta", {"truncation_side": "left"}),
    ("roberta", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}),
    (
        "roberta",
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "truncation_side": "left"},
    ),
    ("roberta", {"tokenizer_class": "GPT2Tokenizer"}),
    ("roberta", {"add_bos_token": False, "add_eos_token": True}),
    ("xlm-roberta", {}),
    ("xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"}),
    ("xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False}),
    ("xlm-roberta", {"truncation_side": "left", "padding_side": "left"}),
]


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=str)
@pytest.mark.parametrize("max_length", [9, 64])
def test_the_ids_are_those_of_transformers(
    tmp_path: Path, kind: str, settings: dict[str, Any], max_length: int
) -> None:
    folder = write_folder(tmp_path / "model", kind, **settings)
    tokenization = read_tokenization(folder, sentences=False)
    expected = AutoTokenizer.from_pretrained(folder)(
        [*PROBE_TEXTS, *CORPUS], truncation=True, max_length=max_length
    )
    out = carried(tokenization, tmp_path / "out", max_length)
    assert ours(out, [*PROBE_TEXTS, *CORPUS]) == expected["input_ids"]
    assert tokenization.verify(CORPUS, max_length, "here") >= len(PROBE_TEXTS) + len(CORPUS)


def test_a_setting_beside_the_file_changes_what_it_says(tmp_path: Path) -> None:
    """The tokenizer.json lowers letters, and the setting that does not is followed."""
    folder = write_folder(tmp_path / "model", tokenizer_class="BertTokenizer", do_lower_case=False)
    body = json.loads(read_tokenization(folder, sentences=False).text)
    assert body["normalizer"]["lowercase"] is False
    assert json.loads((folder / TOKENIZER).read_text())["normalizer"]["lowercase"] is True


def test_tokens_that_were_added_later(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.add_tokens(["🌱", "quay sailor"])
    loaded.add_special_tokens({"additional_special_tokens": ["<topic>"]})
    loaded.save_pretrained(folder)
    texts = ["a 🌱 b", "the quay sailor's rope", "<topic>garden", *PROBE_TEXTS]
    expected = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=32)["input_ids"]
    assert ours(carried(read_tokenization(folder, sentences=False), tmp_path / "out", 32), texts) == expected


def test_a_folder_of_old_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", tokenizer_class="BertTokenizer", do_lower_case=False)
    vocabulary = word_pieces().get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), "utf-8")
    (folder / TOKENIZER).unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": len(vocabulary)}))
    texts = ["<new> one", "Tulips", *PROBE_TEXTS]
    expected = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=32)["input_ids"]
    assert ours(carried(read_tokenization(folder, sentences=False), tmp_path / "out", 32), texts) == expected


def test_the_limit_that_the_maker_set(tmp_path: Path) -> None:
    assert read_tokenization(write_folder(tmp_path / "a"), sentences=False).max_length is None
    limited = write_folder(tmp_path / "b", model_max_length=24)
    assert read_tokenization(limited, sentences=False).max_length == 24


def test_special_tokens_that_are_read_as_text_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", split_special_tokens=True)
    with pytest.raises(ModelError, match="split_special_tokens") as caught:
        read_tokenization(folder, sentences=False)
    assert (caught.value.code, caught.value.where) == (TOKENIZER_SETTING, str(folder))


def test_what_the_file_cannot_say_fails_the_proof() -> None:
    """A tokenizer whose Python code changes texts: nothing of the file would show it."""

    class Shouting(PreTrainedTokenizerFast):
        def __call__(self, texts: Any, *args: Any, **names: Any) -> Any:
            return super().__call__([text.replace("a", "o") for text in texts], *args, **names)

    tokenization = from_transformers(Shouting(tokenizer_object=word_pieces(), **BERT), "here")
    with pytest.raises(ModelError) as caught:
        tokenization.verify(["a garden"], 32, "here")
    assert (caught.value.code, caught.value.where) == (TOKENIZER_SETTING, "here")


def test_segments_of_a_single_text_are_refused() -> None:
    made = word_pieces()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A:1 [SEP]", pair=None, special_tokens=special
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    with pytest.raises(ModelError) as caught:
        from_transformers(
            PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=names, **BERT), "here"
        )
    assert caught.value.code == TOKENIZER_SETTING


def test_a_tokenizer_of_another_library_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        from_transformers(object(), "here")
    assert caught.value.code == TOKENIZER_SETTING


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        read_tokenization(tmp_path, sentences=False)
    assert caught.value.code == TOKENIZER_MISSING


def test_a_folder_of_ours_is_read_as_it_stands(tmp_path: Path) -> None:
    """Tokens that were trimmed away share an id; a file that was written anew would lose them."""
    folder = carried(
        from_transformers(PreTrainedTokenizerFast(tokenizer_object=word_pieces(), **BERT), ""), tmp_path / "m"
    )
    vocabulary = read_vocabulary(folder / TOKENIZER)
    trimmed = trim_tokenizer(folder / TOKENIZER, id_table(vocabulary, np.arange(40)))
    write_text(folder / TOKENIZER, trimmed)
    edit(folder / TASK, texts={"prefix": "query: ", "cut": "left"})
    found = read_tokenization(folder, sentences=False)
    assert found.format == TextFormat("query: ", truncation_side="left")
    before = Tokenizer.from_file(str(folder / TOKENIZER))
    assert [found.tokenizer().encode(text).ids for text in CORPUS] == [
        before.encode(text).ids for text in CORPUS
    ]


# sentence-transformers: what `encode` does to a text is written down in its documentation, and done by hand here.


def sentence_folder(folder: Path, kind: str = "bert", prompts: Any = None, **settings: Any) -> Path:
    write_folder(folder, kind)
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    edit(folder / "sentence_bert_config.json", max_seq_length=64, do_lower_case=False)
    edit(folder / "sentence_bert_config.json", **settings)
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


PROMPTS = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("prompts", [None, PROMPTS, {**PROMPTS, "default_prompt_name": None}], ids=str)
def test_texts_are_prepared_as_sentence_transformers_does(
    tmp_path: Path, kind: str, lowercase: bool, prompts: Any
) -> None:
    folder = sentence_folder(tmp_path / "model", kind, prompts, do_lower_case=lowercase)
    prefix = "query: " if prompts == PROMPTS else ""
    tried = [*PROBE_TEXTS, *CORPUS]
    given = [(prefix + text).strip() for text in tried]
    given = [text.lower() for text in given] if lowercase else given
    expected = AutoTokenizer.from_pretrained(folder)(given, truncation="longest_first", max_length=64)
    tokenization = read_tokenization(folder, sentences=True)
    assert ours(carried(tokenization, tmp_path / "out"), tried) == expected["input_ids"]
    assert tokenization.max_length == 64
    tokenization.verify(CORPUS, 64, "here")


def test_a_classifier_takes_no_prompt(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model", prompts=PROMPTS, do_lower_case=True)
    assert read_tokenization(folder, sentences=False).format == TextFormat()


def test_other_names_of_the_file(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model", "roberta")
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    assert read_sentence_settings(folder).max_length == 64


@pytest.mark.parametrize(
    ("changes", "prompts"),
    [
        ({"tokenizer_args": {"padding_side": "left"}}, None),
        ({"do_lower_case": "yes"}, None),
        ({"max_seq_length": -3}, None),
        ({}, {"prompts": {"query": "q: "}, "default_prompt_name": "passage"}),
    ],
)
def test_settings_that_cannot_be_carried(tmp_path: Path, changes: dict[str, Any], prompts: Any) -> None:
    with pytest.raises(ModelError) as caught:
        read_sentence_settings(sentence_folder(tmp_path / "model", prompts=prompts, **changes))
    assert caught.value.code == SENTENCE_SETTING


def test_a_prompt_that_is_left_out_of_the_mean(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model", prompts=PROMPTS)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"include_prompt": False}))
    with pytest.raises(ModelError) as caught:
        read_sentence_settings(folder)
    assert caught.value.code == SENTENCE_SETTING


@pytest.mark.parametrize(
    "section", [{"prefix": 3}, {"cut": "middle"}, {"strip": "yes"}, {"upper": True}, [], "left"], ids=str
)
def test_a_damaged_section_of_the_task(section: Any) -> None:
    with pytest.raises(ModelError):
        TextFormat.of({"texts": section})
