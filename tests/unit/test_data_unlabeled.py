"""Unlabelled examples: distinct, without what is held out, and part of the data's fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.core.errors import DataError
from compress.data.sources import fingerprint, load
from compress.data.splits import Splits
from compress.data.splitting import text_key
from compress.profile.schema import DataSpec

PAIRS = [(f"text {name} {i}", name) for name in ("a", "b") for i in range(10)]


def spec(data: str = "data.csv", **unlabeled: Any) -> DataSpec:
    return DataSpec.model_validate({"path": data, "unlabeled": {"path": "more.csv", **unlabeled}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"{text},{name}\n" for text, name in PAIRS))
    return tmp_path


def write(folder: Path, *texts: str) -> None:
    (folder / "more.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))


def loaded(folder: Path, **keys: Any) -> Splits:
    return load(spec(**keys), folder, seed=0, task="text-classification")


def texts(splits: Splits) -> list[str]:
    assert splits.unlabeled is not None
    assert splits.unlabeled.labels.tolist() == [-1] * len(splits.unlabeled)
    return list(splits.unlabeled.texts)


def test_no_column_of_labels_is_needed_and_repeats_count_once(folder: Path) -> None:
    write(folder, "one", "two", "ONE", "three")
    splits = loaded(folder)
    assert texts(splits) == ["one", "two", "three"]
    assert splits.notes == ()
    assert load(DataSpec(path="data.csv"), folder, seed=0, task="text-classification").unlabeled is None


def test_what_is_held_out_and_what_is_trained_on_is_dropped_and_counted(folder: Path) -> None:
    plain = load(DataSpec(path="data.csv"), folder, seed=0, task="text-classification")
    held = [*plain.validation.texts, *plain.test.texts]
    write(folder, "new", *(text.upper() for text in held), *plain.train.texts[:3], "newer")
    splits = loaded(folder)
    assert texts(splits) == ["new", "newer"]
    assert splits.notes == (
        "6 of 11 unlabelled texts dropped: they are also in validation or test",
        "3 of 11 unlabelled texts dropped: they are also in the training split",
    )


def test_a_limit_takes_the_first_by_hash_in_the_order_of_the_source(folder: Path) -> None:
    names = [f"word {number}" for number in range(30)]
    write(folder, *names)
    chosen = texts(loaded(folder, limit=7))
    assert chosen == sorted(sorted(names, key=text_key)[:7], key=names.index)
    write(folder, *reversed(names))
    assert set(texts(loaded(folder, limit=7))) == set(chosen)
    assert len(texts(loaded(folder, limit=100))) == 30


def test_folders_need_no_class_folders(folder: Path) -> None:
    for number, place in enumerate(("more", "more/deep", "more/deep/deeper")):
        (folder / place).mkdir()
        (folder / place / f"{number}.txt").write_text(f"note {number}")
    assert set(texts(loaded(folder, path="more"))) == {"note 0", "note 1", "note 2"}
    (folder / "more" / "train").mkdir()
    (folder / "more" / "train" / "3.txt").write_text("note 3")
    assert texts(loaded(folder, path="more")) == ["note 3"]


def test_another_split_may_be_named(folder: Path) -> None:
    (folder / "more").mkdir()
    for name in ("train", "extra"):
        (folder / "more" / f"{name}.csv").write_text(f"text\nfrom {name}\n")
    assert texts(loaded(folder, path="more", split="extra")) == ["from extra"]
    with pytest.raises(DataError) as caught:
        loaded(folder, path="more", split="extro")
    assert caught.value.message == "no split 'extro'; did you mean 'extra'?"
    assert caught.value.hint == "Set `data.unlabeled.split`; the splits are: 'extra', 'train'."


def test_nothing_left_is_refused(folder: Path) -> None:
    write(folder, "Text a 1", "text b 2")
    with pytest.raises(DataError) as caught:
        loaded(folder)
    assert caught.value.message == "no unlabelled text is left: all of them are also in the labelled data"
    assert caught.value.where == str(folder / "more.csv")
    write(folder)
    with pytest.raises(DataError, match="no unlabelled text is left: the split is empty"):
        loaded(folder)
    write(folder, "fine", " ")
    with pytest.raises(DataError, match="the text is blank") as caught:
        loaded(folder)
    assert caught.value.where == f"{folder / 'more.csv'}:3"


def test_the_fingerprint_covers_both(folder: Path) -> None:
    write(folder, "one")
    first = fingerprint(spec(), folder, "text-classification")
    assert first != fingerprint(DataSpec(path="data.csv"), folder, "text-classification")
    assert first == fingerprint(spec(limit=3), folder, "text-classification")
    write(folder, "two")
    assert fingerprint(spec(), folder, "text-classification") != first


def test_unlabelled_images_are_known_by_their_pixels(tmp_path: Path) -> None:
    def save(path: str, seed: int) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8)).save(file)

    for number in range(5):
        save(f"images/a/{number}.png", number)
        save(f"images/b/{number}.png", 100 + number)
    plain = load(DataSpec(path="images"), tmp_path, 0, "image-classification")
    held = int(plain.test.items[0].stem) + 100 * (plain.test.items[0].parent.name == "b")
    for name, seed in (("held.bmp", held), ("new.bmp", 500), ("new.webp", 501)):
        save(f"more/{name}", seed)
    splits = load(spec("images", path="more"), tmp_path, 0, "image-classification")
    assert [item.name for item in splits.unlabeled.items] == ["new.bmp", "new.webp"]
    assert splits.notes == ("1 of 3 unlabelled images dropped: it is also in validation or test",)
