from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import word_embeddings_of
from compress.models.text.sentence import SentenceEncoder
from compress.models.text.vocabulary import (
    check_can_trim,
    choose_tokens,
    id_table,
    read_vocabulary,
    trim_embeddings,
    trim_tokenizer,
)
from tests.tiny import SPECIAL, WORDS, tiny_bert, tiny_tokenizer

TEXTS = ["the red cat runs", "a blue bird sings", "dogs and cats sleeping", "Zebra!", ""]
texts = st.lists(st.sampled_from([*[w.removeprefix("##") for w in WORDS], "zebra", "cats", "["]), max_size=8)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    return path


def encoded(tokenizer: Path, every: list[str]) -> list[np.ndarray]:
    return [np.array(e.ids) for e in Tokenizer.from_file(str(tokenizer)).encode_batch(every)]


def test_the_vocabulary_is_read(tokenizer: Path) -> None:
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.kind == "WordPiece"
    assert vocabulary.unknown == 1
    assert vocabulary.special == {0, 1, 2, 3, 4}
    assert vocabulary.size == len(SPECIAL) + len(WORDS)


def test_used_tokens_special_tokens_and_the_margin_are_kept(tokenizer: Path) -> None:
    vocabulary = read_vocabulary(tokenizer)
    used = encoded(tokenizer, ["the cats"])
    none, two = choose_tokens(vocabulary, used, 0), choose_tokens(vocabulary, used, 2)
    names = {number: token for token, number in vocabulary.ids.items()}
    assert [names[number] for number in none] == [*SPECIAL, "cat", "##s", "the"]
    # "red" and "green" are the first words that are not used
    assert set(two) - set(none) == {vocabulary.ids["red"], vocabulary.ids["green"]}


def test_the_margin_takes_words_alone(tokenizer: Path) -> None:
    kept = choose_tokens(read_vocabulary(tokenizer), [], 1000)
    names = {number: token for token, number in read_vocabulary(tokenizer).ids.items()}
    left_out = set(names) - set(kept.tolist())
    assert {names[number] for number in left_out} == {"##s", "a"}


@given(texts, texts, st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_trimmed_tokenizer_cuts_texts_as_before(
    tokenizer: Path, seen: list[str], other: list[str], margin: int
) -> None:
    vocabulary = read_vocabulary(tokenizer)
    kept = choose_tokens(vocabulary, encoded(tokenizer, [" ".join(seen)]), margin)
    table = id_table(vocabulary, kept)
    trimmed = Tokenizer.from_str(trim_tokenizer(tokenizer, table))
    for text in (" ".join(seen), " ".join(other)):
        assert trimmed.encode(text).ids == table[encoded(tokenizer, [text])[0]].tolist()
    assert trimmed.token_to_id("[UNK]") == table[1]
    assert table.max() == len(kept) - 1
    assert all(
        table[number] == table[1] for number in range(vocabulary.size) if number not in set(kept.tolist())
    )


def test_texts_of_known_tokens_keep_every_token(tokenizer: Path) -> None:
    vocabulary = read_vocabulary(tokenizer)
    used = encoded(tokenizer, TEXTS[:2])
    kept = choose_tokens(vocabulary, used, 0)
    trimmed = Tokenizer.from_str(trim_tokenizer(tokenizer, id_table(vocabulary, kept)))
    for text, ids in zip(TEXTS[:2], used, strict=True):
        assert kept[trimmed.encode(text).ids].tolist() == ids.tolist()


@pytest.mark.parametrize(
    "processor",
    [
        processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.Sequence(
            [processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])]
        ),
    ],
)
def test_every_post_processor_is_renumbered(tmp_path: Path, processor: processors.PostProcessor) -> None:
    old = tiny_tokenizer(("one", "two"))
    # special tokens that do not come first, so that their numbers change
    body = json.loads(old.to_str())
    order = ["one", *SPECIAL, "two"]
    body["model"]["vocab"] = {token: place for place, token in enumerate(order)}
    for token in body["added_tokens"]:
        token["id"] = order.index(token["content"])
    body["post_processor"] = json.loads(processor.__getstate__())
    text = (
        json.dumps(body["post_processor"]).replace("3]", "4]").replace("[2]", "[3]").replace(", 2]", ", 3]")
    )
    body["post_processor"] = json.loads(text)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(body))
    vocabulary = read_vocabulary(path)
    before = Tokenizer.from_file(str(path)).encode("two")
    table = id_table(vocabulary, choose_tokens(vocabulary, [np.array(before.ids)], 0))
    after = Tokenizer.from_str(trim_tokenizer(path, table)).encode("two")
    assert after.ids == table[before.ids].tolist()
    assert after.tokens[0] == "[CLS]"


def test_trimmed_embeddings_are_rows_of_the_old_ones(tokenizer: Path) -> None:
    model = tiny_bert()
    rows = word_embeddings_of(model).weight.detach().clone()
    vocabulary = read_vocabulary(tokenizer)
    kept = choose_tokens(vocabulary, encoded(tokenizer, TEXTS[:1]), 1)
    trim_embeddings(model, id_table(vocabulary, kept), kept)
    words = word_embeddings_of(model)
    assert (words.weight == rows[kept]).all()
    assert words.num_embeddings == model.config.vocab_size == len(kept)
    assert model.config.pad_token_id == 0


def test_a_trimmed_sentence_encoder_embeds_known_texts_as_before(tokenizer: Path) -> None:
    model = SentenceEncoder(tiny_bert().base_model, "mean", True).eval()
    vocabulary = read_vocabulary(tokenizer)
    used = encoded(tokenizer, TEXTS[:1])
    kept = choose_tokens(vocabulary, used, 0)
    table = id_table(vocabulary, kept)

    def embed(ids: np.ndarray) -> torch.Tensor:
        row = torch.from_numpy(ids)[None]
        with torch.no_grad():
            found: torch.Tensor = model(input_ids=row, attention_mask=torch.ones_like(row))
        return found

    before = embed(used[0])
    trim_embeddings(model, table, kept)
    assert word_embeddings_of(model).num_embeddings == model.config.vocab_size == len(kept)
    assert torch.equal(embed(table[used[0]]), before)


def test_the_mask_token_is_always_kept(tokenizer: Path) -> None:
    vocabulary = read_vocabulary(tokenizer)
    kept = choose_tokens(vocabulary, [], 0)
    table = id_table(vocabulary, kept)
    trimmed = Tokenizer.from_str(trim_tokenizer(tokenizer, table))
    assert trimmed.token_to_id("[MASK]") == table[vocabulary.ids["[MASK]"]] != table[1]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=60))
    return tokenizer


def test_a_byte_level_tokenizer_is_refused_because_nothing_stands_for_a_dropped_token(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level().to_str(), encoding="utf-8")
    with pytest.raises(ModelError, match=r"BPE.*there is no unknown token for") as error:
        check_can_trim(read_vocabulary(path))
    assert "vocabulary: keep" in str(error.value)


def bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(special_tokens=["[UNK]"], vocab_size=60))
    return tokenizer


def unigram() -> Tokenizer:
    return Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0))


@pytest.mark.parametrize(("make", "kind"), [(bpe, "BPE"), (unigram, "Unigram")])
def test_tokenizers_whose_tokens_cannot_share_an_id_are_refused(
    tmp_path: Path, make: object, kind: str
) -> None:
    path = tmp_path / "tokenizer.json"
    assert callable(make)
    path.write_text(make().to_str(), encoding="utf-8")
    assert read_vocabulary(path).unknown == 0
    with pytest.raises(ModelError, match=f"{kind}.*cannot share"):
        check_can_trim(read_vocabulary(path))


def test_a_byte_pair_tokenizer_with_shared_ids_would_cut_texts_otherwise(tmp_path: Path) -> None:
    """The reason why they are refused, as the installed tokenizers library has it."""
    body = json.loads(bpe().to_str())
    pieces = ["sing", "sleepcat", "birdred", "runsblue", "dogand", "inging", "sleesing"]
    before = [encoding.ids for encoding in Tokenizer.from_str(json.dumps(body)).encode_batch(pieces)]
    table = {number: number if len(token) == 1 else 0 for token, number in body["model"]["vocab"].items()}
    body["model"]["vocab"] = {token: table[number] for token, number in body["model"]["vocab"].items()}
    after = [encoding.ids for encoding in Tokenizer.from_str(json.dumps(body)).encode_batch(pieces)]
    assert after != [[table[number] for number in ids] for ids in before]


def test_a_vocabulary_without_an_unknown_token_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    body = json.loads(tokenizer.read_text())
    body["model"]["unk_token"] = "[NONE]"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(body))
    with pytest.raises(ModelError, match="unknown token"):
        check_can_trim(read_vocabulary(path))


def test_an_unreadable_tokenizer_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path / "tokenizer.json")
