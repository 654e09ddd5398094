"""Labels are matched by name, never by index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ModelError
from compress.models.teacher.labels import check_head, head_names, match_labels

CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("names", "labels", "order"),
    [
        (["neg", "pos"], ["neg", "pos"], (0, 1)),
        (["neg", "pos"], ["pos", "neg"], (1, 0)),
        (["NEGATIVE", "POSITIVE"], ["Positive", "negative"], (1, 0)),
        (["a", "A"], ["A", "a"], (1, 0)),
        (["a", "A"], ["a", "b"], None),
        (["a", "b"], ["a", "b", "c"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["LABEL_0", "LABEL_1"], ["neg", "pos"], None),
        (["a", "a"], ["a", "b"], None),
    ],
)
def test_match_labels(names: list[str], labels: list[str], order: tuple[int, ...] | None):
    assert match_labels(names, labels) == order


@given(st.permutations(["world", "Sport", "business", "TECH"]))
def test_any_order_is_found(labels: list[str]):
    names = ["tech", "business", "world", "sport"]
    order = match_labels(names, labels)
    assert order is not None
    assert [names[index] for index in order] == [label.lower() for label in labels]


def test_head_names():
    assert head_names({"architectures": ["BertModel"]}) is None
    assert head_names({}) is None
    assert head_names({**CLASSIFIER, "id2label": {"1": "b", "0": "a"}}) == ("a", "b")
    assert head_names(CLASSIFIER) == ("LABEL_0", "LABEL_1")
    assert head_names(CLASSIFIER, declared=("neg", "pos")) == ("neg", "pos")


@pytest.mark.parametrize("id2label", [{"0": "a", "2": "b"}, {"x": "a"}, ["a", "b"]])
def test_a_head_that_is_not_numbered_is_refused(id2label: object):
    with pytest.raises(ModelError, match="id2label"):
        head_names({**CLASSIFIER, "id2label": id2label})


def test_too_few_declared_names_are_refused():
    with pytest.raises(ModelError, match="3 names for a head of 2"):
        head_names(CLASSIFIER, declared=("a", "b", "c"))


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (None, "no classification head", "finetune"),
        (("LABEL_0", "LABEL_1"), "does not tell what they mean", "teacher.labels"),
        (("neg", "neutral"), "lacks 'pos'; the data lacks its 'neutral'", "finetune"),
        (("neg", "neg"), "lacks 'pos'", "finetune"),
    ],
)
def test_heads_that_do_not_fit(names: tuple[str, ...] | None, message: str, hint: str):
    with pytest.raises(ModelError, match=message) as caught:
        check_head(names, ("neg", "pos"), "the model")
    assert caught.value.exit_code == 4
    assert caught.value.where == "the model"
    assert hint in str(caught.value.hint)
