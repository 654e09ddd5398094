"""Images as inputs: normalised by hand, read when asked for, described in task.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.core.errors import DataError, ModelError
from compress.data.splits import Examples
from compress.encoding.images import ImageFormat, ImageInputs
from compress.encoding.preprocessing import DeclaredImages
from compress.profile.schema import DataSpec
from compress.tasks.base import Truth, answers_of, score_of, task_of

TASK = task_of("image-classification", DataSpec(path="unused"))
GREY = ImageFormat((2, 2), 1, (0.5,), (0.25,))


def test_a_batch_is_normalised_as_worked_out_by_hand() -> None:
    pixels = np.array([[0, 51], [102, 255]], np.uint8)
    batch = ImageInputs([pixels, 255 - pixels], GREY).batch([1, 0])["pixel_values"]
    assert (batch.shape, batch.dtype) == ((2, 1, 2, 2), np.float32)
    np.testing.assert_allclose(batch[1, 0], [[-2.0, -1.2], [-0.4, 2.0]], atol=1e-6)
    np.testing.assert_allclose(batch[0], -batch[1], atol=1e-6)


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    colours = np.array([[[255, 0, 51]]], np.uint8)
    image = ImageFormat((1, 1), 3, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    batch = ImageInputs([colours], image).batch([0])["pixel_values"]
    np.testing.assert_allclose(batch.reshape(3), [1.0, -2.0, 0.1], rtol=1e-6)


def test_files_of_mixed_sizes_and_modes_form_one_batch(tmp_path: Path) -> None:
    for name, size, mode in (("a.png", (3, 7), "RGB"), ("b.png", (9, 2), "L"), ("c.png", (2, 2), "RGBA")):
        Image.new(mode, size, "white").save(tmp_path / name)
    image = ImageFormat((4, 6), 3, (0.0,) * 3, (1.0,) * 3)
    inputs = ImageInputs([tmp_path / name for name in ("a.png", "b.png", "c.png")], image)
    batch = inputs.batch([0, 1, 2])["pixel_values"]
    assert batch.shape == (3, 3, 4, 6)
    assert (batch == 1.0).all()
    assert inputs.lengths.tolist() == [1, 1, 1]
    assert inputs.input_names == ("pixel_values",)


def test_files_are_read_at_each_batch_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    inputs = ImageInputs([path], GREY)
    with pytest.raises(DataError) as caught:
        inputs.batch([0])
    assert caught.value.where == str(path)
    for level in (0, 255):
        Image.new("L", (2, 2), level).save(path)
        assert inputs.batch([0])["pixel_values"].flat[0] == (-2 if level == 0 else 2)


def test_a_digest_tells_content_and_normalisation_apart(tmp_path: Path) -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    other = pixels + 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png")
    inputs = ImageInputs([pixels, other], GREY)
    digests = {
        inputs.digest(),
        ImageInputs([other, pixels], GREY).digest(),
        ImageInputs([pixels], GREY).digest(),
        ImageInputs([pixels, other], ImageFormat((2, 2), 1, (0.5,), (0.5,))).digest(),
    }
    assert len(digests) == 4
    assert inputs.digest() == ImageInputs([pixels.copy(), other], GREY).digest()
    files = [ImageInputs([tmp_path / name], GREY).digest() for name in ("a.png", "b.png")]
    assert files[0] == files[1]
    assert len(files[0]) == 64


def test_what_a_model_does_not_say_comes_from_the_training_images() -> None:
    images = [np.full((3, 5), level, np.uint8) for level in (0, 255)]
    found = DeclaredImages().to_format(images, 1)
    assert found == ImageFormat((3, 5), 1, (0.5,), (0.5,))
    assert DeclaredImages((2, 2)).to_format(images, 3) == ImageFormat((2, 2), 3, (0.5,) * 3, (0.5,) * 3)
    declared = DeclaredImages(normalisation=((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))).to_format(images, 1)
    assert declared.mean == pytest.approx((0.5,))
    assert declared.std == pytest.approx((0.2,))
    spread = DeclaredImages(normalisation=((0.4,), (0.1,))).to_format(images, 3)
    assert (spread.mean, spread.std) == ((0.4,) * 3, (0.1,) * 3)


def test_the_task_reads_the_format_that_an_artifact_declares(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"image": GREY.as_dict()}))
    examples = Examples((np.zeros((2, 2), np.uint8),), np.array([0]))
    encoded = TASK.encode(examples, tmp_path)
    assert (encoded.format, len(encoded)) == (GREY, 1)
    assert not TASK.needs_reference(examples)
    truth = Truth(np.array([1, 0, -1]))
    outputs = np.array([[0, 1], [0, 1], [1, 0]], np.float32)
    assert (score_of(TASK, outputs, truth).metric.name, score_of(TASK, outputs, truth).value) == (
        "accuracy",
        0.5,
    )
    assert answers_of(TASK, outputs)["label"].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "image",
    [
        None,
        {},
        {**GREY.as_dict(), "channels": 4},
        {**GREY.as_dict(), "std": [0.0]},
        {**GREY.as_dict(), "mean": [0.1, 0.2]},
        {**GREY.as_dict(), "size": [8]},
    ],
)
def test_a_damaged_description_is_a_model_error(image: Any, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({} if image is None else {"image": image}))
    with pytest.raises(ModelError, match="cannot read the model's inputs") as caught:
        ImageFormat.read(tmp_path / "task.json")
    assert caught.value.where == str(tmp_path / "task.json")
