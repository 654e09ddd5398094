"""Which texts a record keeps, and how much of them."""

from __future__ import annotations

import numpy as np

from compress.core.records import StepRecord
from compress.data.splits import Examples
from compress.engine.excerpts import MAX_CHARACTERS, MAX_EXCERPTS, beginning, excerpts
from tests.records import accuracy, bert_run, change_step, embedding_run


def steps(
    before: tuple[int, ...], after: tuple[int, ...], confidence: tuple[float, ...] = ()
) -> tuple[StepRecord, StepRecord]:
    run = bert_run()
    for name, made in (("baseline", before), ("export", after)):
        (found,) = next(step for step in run.steps if step.step == name).measurements
        scored = accuracy(made, (0,) * len(made), None).model_copy(update={"confidence": confidence})
        run = change_step(run, name, measurements=(found.model_copy(update={"accuracy": scored}),))
    return run.steps[0], run.steps[-1]


def test_texts_whose_answer_changed_the_surest_first() -> None:
    test = Examples(("a", "b", "c", "d"), np.zeros(4, np.int64))
    found = excerpts(*steps((0, 1, 2, 0), (0, 0, 1, 1), (0.9, 0.5, 0.7, 0.6)), test)
    assert list(found.items()) == [(2, "c"), (3, "d"), (1, "b")]
    assert excerpts(*steps((0, 1, 2, 0), (0, 1, 2, 0)), test) == {}
    embeddings = embedding_run().steps
    assert excerpts(embeddings[0], embeddings[-1], test) == {}


def test_images_have_none() -> None:
    images = Examples(tuple(np.zeros((2, 2), np.uint8) for _ in range(2)), np.zeros(2, np.int64))
    assert excerpts(*steps((0, 0), (1, 1)), images) == {}


def test_no_more_than_so_many() -> None:
    count = MAX_EXCERPTS + 5
    sure = tuple(float(place) for place in range(count))
    test = Examples(tuple(map(str, range(count))), np.zeros(count, np.int64))
    found = excerpts(*steps((0,) * count, (1,) * count, sure), test)
    assert set(found) == set(range(5, count))


def test_the_beginning_is_one_line() -> None:
    assert beginning("two  lines\n of\ttext ") == "two lines of text"
    assert beginning("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    assert beginning("x" * (MAX_CHARACTERS + 1)) == "x" * (MAX_CHARACTERS - 1) + "…"
    assert beginning("a" + " " * 10 * MAX_CHARACTERS + "b") == "a…"
