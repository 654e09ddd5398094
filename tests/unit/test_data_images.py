"""Image data: found in every layout, decoded to one form, split without leaks, refused with its place."""

from __future__ import annotations

import gc
import io
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from compress.core.errors import DataError, DataErrors
from compress.data.images.framing import apply_framing
from compress.data.images.pixels import image_key, load_pixels, pixel_statistics
from compress.data.sources import fingerprint, load
from compress.data.splits import Examples, Splits, StoredImage
from compress.profile.schema import DataSpec

TASK = "image-classification"


def picture(seed: int, size: tuple[int, int] = (6, 5), channels: int = 3) -> np.ndarray:
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_folder(folder: Path, count: int = 8, start: int = 0) -> None:
    for number in range(count):
        for offset, name in enumerate(("cat", "dog")):
            save(folder / name / f"{number}.png", picture(start + 1000 * offset + number))


def spec(path: str = "images", **keys: Any) -> DataSpec:
    return DataSpec.model_validate({"path": path, **keys})


def loaded(folder: Path, seed: int = 0, **keys: Any) -> Splits:
    return load(spec(**keys), folder, seed, TASK)


def keys_of(part: Examples) -> list[bytes]:
    return [image_key(load_pixels(item)) for item in part.items]


def refused(folder: Path, **keys: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        loaded(folder, **keys)
    assert caught.value.exit_code == 4
    error = caught.value
    return error.faults[0] if isinstance(error, DataErrors) else error


# Where images come from.


def test_a_folder_of_class_folders_is_split_class_by_class(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", count=10)
    splits = loaded(tmp_path)
    assert splits.labels == ("cat", "dog")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [14, 2, 4]
    assert np.bincount(splits.test.labels).tolist() == [2, 2]
    for part in (splits.train, splits.validation, splits.test):
        assert [item.parent.name for item in part.items] == [splits.labels[i] for i in part.labels]
    assert splits.notes == ()
    other = loaded(tmp_path, seed=1)
    assert set(other.test.items) != set(splits.test.items)
    assert set(loaded(tmp_path).test.items) == set(splits.test.items)


def test_split_folders_are_kept_as_they_are(tmp_path: Path) -> None:
    write_folder(tmp_path / "images" / "train", count=4)
    write_folder(tmp_path / "images" / "val", count=2, start=50)
    write_folder(tmp_path / "images" / "test", count=3, start=80)
    splits = loaded(tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 4, 6]
    assert {item.parents[1].name for item in splits.validation.items} == {"val"}


def test_every_ending_is_an_example_and_other_files_are_not(tmp_path: Path) -> None:
    for number, ending in enumerate((".png", ".JPG", ".jpeg", ".bmp", ".webp")):
        for name in ("a", "b"):
            save(tmp_path / "images" / name / f"{number}{ending}", picture(number + 10 * (name == "b")))
    (tmp_path / "images" / "a" / "notes.txt").write_text("not an image")
    splits = loaded(tmp_path)
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 10


def test_the_digits_of_scikit_learn_are_grey_bytes_with_names() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    splits = load(spec("sklearn://digits"), Path.cwd(), 0, TASK)
    assert splits.labels == tuple("0123456789")
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == 1797
    pixels = np.stack([item for part in parts for item in part.items])
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1797, 8, 8), np.uint8, 0, 255)
    # The same images with the same names, in another order: 16 grey values, evenly spread over 0..255.
    shown = sorted(
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), str(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    )
    ours = sorted(
        (item.tobytes(), splits.labels[label])
        for part in parts
        for item, label in zip(part.items, part.labels, strict=True)
    )
    assert ours == shown
    counts = np.bincount(splits.test.labels)
    assert counts.min() >= 33
    assert counts.max() <= 38


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn is not installed") as caught:
        load(spec("sklearn://digits"), Path.cwd(), 0, TASK)
    assert caught.value.where == "sklearn://digits"
    assert caught.value.hint == "Install it here: `pip install scikit-learn`."


def test_other_data_of_scikit_learn_and_other_tasks_are_refused() -> None:
    with pytest.raises(DataError, match="has no such images") as caught:
        load(spec("sklearn://iris"), Path.cwd(), 0, TASK)
    assert caught.value.hint == "Only `sklearn://digits` is supported."
    with pytest.raises(DataError, match="these are images; this task takes texts"):
        load(spec("sklearn://digits"), Path.cwd(), 0, "text-classification")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("plain", [False, True], ids=["Image feature", "bytes"])
def test_images_of_a_parquet_file_stay_in_it(plain: bool, tmp_path: Path) -> None:
    import datasets

    raws = [encoded(picture(number)) for number in range(20)]
    column = datasets.Value("binary") if plain else datasets.Image()
    features = datasets.Features({"photo": column, "kind": datasets.ClassLabel(names=["x", "y"])})
    photos = raws if plain else [{"bytes": raw, "path": None} for raw in raws]
    table = datasets.Dataset.from_dict({"photo": photos, "kind": [0, 1] * 10}, features=features)
    table.to_parquet(tmp_path / "data.parquet")
    splits = loaded(tmp_path, path="data.parquet", image_column="photo", label_column="kind")
    assert splits.labels == ("x", "y")
    for part in (splits.train, splits.validation, splits.test):
        for item, label in zip(part.items, part.labels, strict=True):
            assert isinstance(item, StoredImage)
            number = raws.index(item.read())
            assert number % 2 == label
            np.testing.assert_array_equal(load_pixels(item), picture(number))


def test_a_hub_split_gives_its_images_and_the_names_of_its_classes() -> None:
    import datasets

    from compress.data.images.tables import read_image_split
    from compress.data.rows import Columns

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    rows = {"image": [Image.fromarray(picture(1)), None], "label": [1, 0]}
    split = datasets.Dataset.from_dict(rows, features=features)
    read = read_image_split(split, "me/toy, split test", Columns("image", "label"))
    assert (read.labels, read.label_names, read.items[1]) == ([1, 0], ("x", "y"), None)
    np.testing.assert_array_equal(load_pixels(read.items[0]), picture(1))
    assert read.location(1) == "me/toy, split test, row 1"


# One form for all.


def test_odd_modes_become_grey_or_rgb_of_eight_bits(tmp_path: Path) -> None:
    rgba = np.dstack([picture(0), np.full((6, 5), 255, np.uint8)])
    rgba[0, 0] = (9, 9, 9, 0)
    opaque = picture(0)
    opaque[0, 0] = 255
    np.testing.assert_array_equal(load_pixels(save(tmp_path / "rgba.png", rgba)), opaque)

    wide = np.array([[0, 257, 65535], [256, 32896, 12345]], np.uint16)
    save(tmp_path / "wide.png", wide)
    assert load_pixels(tmp_path / "wide.png").tolist() == [[0, 1, 255], [1, 128, 48]]

    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png")
    assert load_pixels(tmp_path / "palette.png")[0].tolist() == [[255, 0, 0], [0, 255, 0]]

    black = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    black.save(tmp_path / "cmyk.jpg")
    assert load_pixels(tmp_path / "cmyk.jpg").shape == (4, 4, 3)
    assert load_pixels(tmp_path / "cmyk.jpg").max() < 10

    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    bits.save(tmp_path / "bits.png")
    assert load_pixels(tmp_path / "bits.png").tolist() == [[0, 255]]

    grey = np.dstack([picture(3, channels=1), np.full((6, 5), 255, np.uint8)])
    Image.fromarray(grey, "LA").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_pixels(tmp_path / "grey.png"), picture(3, channels=1))


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = np.zeros((4, 8, 3), np.uint8)
    save(tmp_path / "turned.png", tall, exif=exif)
    assert load_pixels(tmp_path / "turned.png").shape == (8, 4, 3)


def test_an_image_that_has_the_size_already_is_left_alone() -> None:
    np.testing.assert_array_equal(apply_framing(picture(1), (6, 5), 3), picture(1))
    grey = picture(1, channels=1)
    np.testing.assert_array_equal(apply_framing(grey, (6, 5), 1), grey[..., None])
    np.testing.assert_array_equal(apply_framing(grey, (6, 5), 3), np.repeat(grey[..., None], 3, axis=2))


def test_scaling_by_half_weights_each_pixel_by_the_triangle_that_it_lies_under() -> None:
    row = np.array([[0, 40, 80, 200]], np.uint8)
    # The support of a filter that halves is 4 pixels wide: weights 0.75, 0.75, 0.25 at the left end, normalised.
    expected = [(0 * 0.75 + 40 * 0.75 + 80 * 0.25) / 1.75, (40 * 0.25 + 80 * 0.75 + 200 * 0.75) / 1.75]
    assert apply_framing(row, (1, 2), 1).ravel() == pytest.approx(expected, abs=1)


def test_luma_weighs_green_most() -> None:
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert apply_framing(primaries, (1, 3), 1).ravel() == pytest.approx(
        [0.299 * 255, 0.587 * 255, 0.114 * 255], abs=1
    )


# Duplicates and splits.


def test_equal_pixels_are_one_image_whatever_the_file(tmp_path: Path) -> None:
    pixels = picture(0, channels=1)
    same = [
        save(tmp_path / "a.png", pixels),
        save(tmp_path / "b.bmp", pixels),
        save(tmp_path / "c.png", np.repeat(pixels[..., None], 3, axis=2)),
    ]
    assert len({image_key(load_pixels(path)) for path in same}) == 1
    changed = pixels.copy()
    changed[0, 0] ^= 1
    assert image_key(changed) != image_key(pixels)
    assert image_key(pixels.reshape(5, 6)) != image_key(pixels)


def test_images_of_held_out_splits_are_dropped_from_train_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path / "images" / "train", count=4)
    write_folder(tmp_path / "images" / "test", count=3, start=80)
    save(tmp_path / "images" / "test" / "cat" / "known.bmp", picture(2))
    splits = loaded(tmp_path)
    assert not set(keys_of(splits.train)) & set(keys_of(splits.test))
    assert splits.notes == (
        "1 example of 8 dropped from 'train': the same image is also in a held-out split",
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(copies=st.lists(st.integers(0, 9), max_size=12), seed=st.integers(0, 99))
def test_no_image_on_two_sides_of_made_splits(copies: list[int], seed: int, tmp_path: Path) -> None:
    folder = tmp_path / f"{seed}-{'-'.join(map(str, copies))}"
    if not folder.exists():
        write_folder(folder / "images", count=5)
        for number, which in enumerate(copies):
            name = "dog" if which >= 5 else "cat"
            save(folder / "images" / name / f"copy{number}.bmp", picture(which % 5 + 1000 * (which >= 5)))
    splits = loaded(folder, seed=seed)
    sides = [set(keys_of(part)) for part in (splits.train, splits.validation, splits.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 10
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 10 + len(copies)


def test_a_fingerprint_follows_the_files_alone(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    first = fingerprint(spec(), tmp_path, TASK)
    (tmp_path / "images" / "cat" / "notes.txt").write_text("words")
    assert fingerprint(spec(image_size=(3, 3)), tmp_path, TASK) == first
    save(tmp_path / "images" / "cat" / "0.png", picture(77))
    assert fingerprint(spec(), tmp_path, TASK) != first
    digits = fingerprint(spec("sklearn://digits"), tmp_path, TASK)
    assert digits is not None
    assert digits != first


def test_what_is_left_out_of_a_class_is_counted(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    dog = tmp_path / "images" / "dog"
    for number in range(3):
        (dog / f"{number}.HEIC").write_bytes(b"phone")
        save(dog / "more" / f"{number}.png", picture(50 + number))
    (dog / "gone.png").symlink_to("nowhere")
    (dog / "empty.jpg").touch()
    (dog / "README").write_text("words")
    splits = loaded(tmp_path)
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 16
    (note,) = splits.notes
    assert note.startswith("9 entries in the class folders are not readable images, and are left out: ")
    counts = set(note.partition("left out: ")[2].split(", "))
    assert counts == {
        "3 .heic", "3 in sub-folders", "1 links to nothing", "1 empty", "1 without an ending"
    }  # fmt: skip


def test_scans_and_animations_are_read(tmp_path: Path) -> None:
    pixels = picture(5)
    save(tmp_path / "scan.tif", pixels)
    np.testing.assert_array_equal(load_pixels(tmp_path / "scan.tif"), pixels)
    save(tmp_path / "deep.tiff", (picture(6, channels=1).astype(np.uint16) * 257))
    np.testing.assert_array_equal(load_pixels(tmp_path / "deep.tiff"), picture(6, channels=1))
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (40, 90)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_pixels(tmp_path / "two.gif"), np.full((4, 4, 3), 40))


# Faults, before any training.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"words", "not a readable image: it is empty, damaged, or none of PNG, JPEG, BMP, WEBP, TIFF, GIF"),
        (
            encoded(picture(0), "PPM"),
            "not a readable image: it is empty, damaged, or none of PNG, JPEG, BMP, WEBP",
        ),
        (encoded(np.zeros((4, 4), np.float32), "TIFF"), "the image is damaged: its values have 32 bits"),
        (encoded(picture(0, (60, 60)))[:-3000], "the image is damaged: "),
        (encoded(picture(0, (60, 60)), "JPEG")[:-900], "the image is damaged: "),
    ],
    ids=["text", "other format", "32 bits", "cut png", "cut jpeg"],
)
def test_a_damaged_file_is_refused_by_its_path(content: bytes, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    bad = tmp_path / "images" / "dog" / "bad.png"
    bad.write_bytes(content)
    error = refused(tmp_path)
    assert error.message.startswith(message)
    assert error.where == str(bad)


def test_an_image_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "images")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert refused(tmp_path).message.startswith("the image is too large: ")


def test_a_class_folder_without_images_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    (tmp_path / "images" / "bird").mkdir()
    (tmp_path / "images" / "bird" / "1.heic").write_bytes(b"II*\0")
    (tmp_path / "images" / "bird" / "2.png").touch()
    error = refused(tmp_path)
    assert error.message.startswith("the class folder has no image file (.png, .jpg, ")
    assert error.where == str(tmp_path / "images" / "bird")


def test_a_class_too_small_to_split_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    for name in ("1", "2", "3"):
        save(tmp_path / "images" / "bird" / f"{name}.png", picture(999))
    error = refused(tmp_path)
    assert error.message == (
        "too few examples: each class needs 3 distinct images to make 3 splits; 'bird' has 1"
    )


def test_a_flat_folder_and_a_table_without_images_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png", picture(0))
    assert refused(tmp_path).message == "the folder has no data"
    (tmp_path / "data.csv").write_text("image,label\na.png,x\n")
    assert refused(tmp_path, path="data.csv").message == "a .csv file cannot hold images"


def test_a_table_whose_column_holds_no_images_is_refused(tmp_path: Path) -> None:
    import datasets

    rows = {"image": ["a.png", "b.png"], "label": ["x", "y"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data.parquet")
    error = refused(tmp_path, path="data.parquet")
    assert error.message == "expected an image, found str"
    assert error.where == f"{tmp_path / 'data.parquet'}, row 0"
    assert error.hint == "Is `data.image_column` the right column?"
    error = refused(tmp_path, path="data.parquet", image_column="photo")
    assert error.message == "no column 'photo'"
    assert error.hint == "Set `data.image_column`; the columns are: 'image', 'label'."


# Statistics and memory.


def test_mean_and_deviation_are_those_of_all_scaled_pixels() -> None:
    images = [picture(number, (4 + number, 5)) for number in range(6)]
    mean, deviation = pixel_statistics(images, (4, 4), 3)
    pixels = np.stack([apply_framing(image, (4, 4), 3) for image in images]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, pixels.std(axis=(0, 1, 2)), rtol=1e-9)
    assert pixel_statistics([np.full((2, 2), 51, np.uint8)], (2, 2), 1) == ([0.2], [1.0])


def test_no_decoded_image_is_kept(tmp_path: Path) -> None:
    """300 x 300 x 3 bytes each: 40 of them decoded would be 10 MB."""
    for number in range(20):
        for offset, name in enumerate(("a", "b")):
            save(tmp_path / "images" / name / f"{number}.bmp", picture(number + 100 * offset, (300, 300)))
    gc.collect()
    tracemalloc.start()
    try:
        splits = loaded(tmp_path)
        pixel_statistics(splits.train.items, (300, 300), 3)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(isinstance(item, Path) for item in splits.train.items)
    assert kept < 1_000_000
