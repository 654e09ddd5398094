"""How it is told why texts that a model wrote are kept or left out."""

from __future__ import annotations

from compress.generation.reasons import count_by_reason, format_counts, limit_per_kind


def test_reasons_are_counted_in_an_order_of_all():
    assert list(count_by_reason(["b", "a", "b"], ("a", "b", "c")).items()) == [("a", 1), ("b", 2)]
    assert count_by_reason([], ("a",)) == {}
    assert format_counts({"wrong": 2, "kept": 1}.items()) == "2 wrong, 1 kept"


def test_the_first_of_each_kind_are_shown_as_they_came():
    seen = [("a", 0), ("b", 1), ("a", 2), ("a", 3), ("b", 4)]
    found = limit_per_kind(seen, lambda one: one[0], {"a": 2, "b": 1}.__getitem__)
    assert list(found) == [("a", 0), ("b", 1), ("a", 2)]
