"""Encoding, padding and scoring of text classification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from compress.core.errors import ModelError
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs, encode_texts, unknown_token_ratio
from compress.profile.schema import DataSpec
from compress.tasks.base import Task, Truth, answers_of, score_of, task_of
from tests.tiny import write_torch_artifact

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three")
BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_artifact(folder: Path, **changes: Any) -> Path:
    """A tokenizer of whole words that adds [CLS] and [SEP], saved with padding and truncation on."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    task = {"max_length": 5, "input_names": BERT_INPUTS, "pad_id": 0, "unk_id": 1, **changes}
    (folder / "task.json").write_text(json.dumps(task))
    return folder


def text_task() -> Task:
    return task_of("text-classification", DataSpec(path="unused", max_length=5))


def encode(folder: Path, *texts: str) -> Any:
    return text_task().encode(Examples(texts, np.zeros(len(texts), np.int64)), folder)


def test_texts_are_cut_with_their_special_tokens_and_not_padded(tmp_path: Path) -> None:
    inputs = encode(write_artifact(tmp_path), "one", "one two three one two", "")
    assert [ids.tolist() for ids in inputs.ids] == [[2, 4, 3], [2, 4, 5, 6, 3], [2, 3]]
    assert inputs.lengths.tolist() == [3, 5, 2]
    assert len(inputs) == 3


def test_a_batch_is_padded_to_its_longest(tmp_path: Path) -> None:
    inputs = encode(write_artifact(tmp_path, pad_id=6), "one two three", "one", "two")
    batch = inputs.batch([2, 1])
    assert batch["input_ids"].tolist() == [[2, 5, 3], [2, 4, 3]]
    batch = inputs.batch(np.array([1, 0]))
    assert batch["input_ids"].tolist() == [[2, 4, 3, 6, 6], [2, 4, 5, 6, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0] * 5] * 2
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert tuple(batch) == BERT_INPUTS


def test_only_the_inputs_that_the_model_has_in_its_order(tmp_path: Path) -> None:
    inputs = encode(write_artifact(tmp_path, input_names=["attention_mask", "input_ids"]), "one")
    assert tuple(inputs.batch([0])) == ("attention_mask", "input_ids")


def test_share_of_unknown_tokens_leaves_special_tokens_out(tmp_path: Path) -> None:
    inputs = encode(write_artifact(tmp_path), "one four", "five", "two")
    assert unknown_token_ratio(inputs, unk_id=1) == pytest.approx(2 / 4)
    assert unknown_token_ratio(encode(tmp_path, ""), unk_id=1) == 0.0


@given(st.lists(st.lists(st.integers(1, 9), max_size=7), min_size=1, max_size=9), st.data())
def test_a_batch_holds_exactly_the_chosen_examples(rows: list[list[int]], data: Any) -> None:
    inputs = TokenInputs([np.array(row, np.int64) for row in rows], BERT_INPUTS, pad_id=0)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    batch = inputs.batch(chosen)
    for i, ids, mask in zip(chosen, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask == 1].tolist() == rows[i]
        assert not ids[mask == 0].any()
    assert batch["input_ids"].shape[1] == max(len(rows[i]) for i in chosen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_names": ["pixel_values"]}, "the model needs the input 'pixel_values'"),
        ({"max_length": 2}, "max_length 2 is not possible for texts with 2 special tokens"),
        ({"pad_id": None}, "cannot read the model's inputs"),
    ],
)
def test_a_task_file_that_cannot_be_used(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        encode(write_artifact(tmp_path, **changes), "one")
    assert caught.value.where == str(tmp_path / "task.json")


def test_a_tokenizer_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="the tokenizer") as raised:
        encode_texts(["one"], folder / "tokenizer.json", folder / "task.json")
    assert raised.value.where == str(folder / "tokenizer.json")


def test_score_is_the_accuracy_of_labelled_examples() -> None:
    outputs = np.array([[1, 0], [0, 1], [0, 1], [5, 4]], np.float32)
    score = score_of(text_task(), outputs, Truth(np.array([0, 1, 0, -1], np.int64)))
    assert (score.metric.name, score.value) == ("accuracy", pytest.approx(2 / 3))
    assert answers_of(text_task(), outputs)["label"].tolist() == [0, 1, 1, 0]


def test_outputs_that_are_not_numbers_have_no_score() -> None:
    with pytest.raises(ModelError, match="not finite"):
        score_of(text_task(), np.array([[np.nan, 1]], np.float32), Truth(np.array([0], np.int64)))


def test_no_score_without_labels_or_with_other_shapes() -> None:
    with pytest.raises(ValueError, match="no example has a label"):
        score_of(text_task(), np.zeros((1, 2), np.float32), Truth(np.array([-1], np.int64)))
    with pytest.raises(ValueError, match="shape"):
        score_of(text_task(), np.zeros((2, 2), np.float32), Truth(np.array([0], np.int64)))


class Texts(Sequence[str]):
    """Texts that are made when they are read, and never more than a few thousand at once."""

    def __init__(self, places: range) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            assert len(self.places[index]) <= 4096
            return Texts(self.places[index])
        return "red " * (self.places[index] % 5)


def test_many_texts_are_encoded_a_few_at_a_time(tmp_path: Path) -> None:
    write_torch_artifact(tmp_path)
    inputs = encode_texts(Texts(range(10_000)), tmp_path / "tokenizer.json", tmp_path / "task.json")
    assert inputs.lengths.tolist() == [place % 5 + 2 for place in range(10_000)]
    assert inputs.ids[9_999].tolist() == [2, 5, 5, 5, 5, 3]


def test_equal_inputs_have_equal_digests() -> None:
    def digest(rows: list[list[int]], names: tuple[str, ...] = BERT_INPUTS, pad_id: int = 0) -> str:
        return TokenInputs([np.array(row) for row in rows], names, pad_id).digest()

    first = digest([[2, 4, 3], [2, 3]])
    assert digest([[2, 4, 3], [2, 3]]) == first
    others = [
        digest([[2, 4], [3, 2, 3]]),
        digest([[2, 3], [2, 4, 3]]),
        digest([[2, 4, 3], [2, 3]], BERT_INPUTS[:2]),
        digest([[2, 4, 3], [2, 3]], pad_id=1),
    ]
    assert len({first, *others}) == 5
