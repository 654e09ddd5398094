"""The bundle reads images as training does: the same bytes, whatever the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compress.data.images.framing import apply_framing
from compress.data.images.pixels import load_pixels
from compress.encoding.images import ImageFormat, ImageInputs
from compress.measuring import outputs_scorer
from compress.measuring.results import load_answers
from compress.runtimes import runner
from tests.tiny_onnx import GREY, write_halves_artifact

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
COLOUR = {"size": [5, 7], "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def picture(mode: str, height: int, width: int, seed: int = 0) -> Image.Image:
    """Random pixels, transparent ones among them where the mode has such."""
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 2**16, (height, width), np.uint16))
    rgba = Image.fromarray(generator.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    return rgba if mode == "RGBA" else rgba.convert(mode)


def check_alike(file: Path, size: tuple[int, int], channels: int) -> None:
    read = runner.read_image(file)
    trained = load_pixels(file)
    np.testing.assert_array_equal(read, trained)
    ours = runner.frame_image(read, {"size": size, "channels": channels})
    theirs = apply_framing(trained, size, channels)
    assert ours.dtype == theirs.dtype == np.uint8
    assert ours.shape == theirs.shape == (*size, channels)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_png_is_read_as_in_training(mode: str, channels: int, tmp_path: Path):
    for number, (height, width) in enumerate([(5, 7), (1, 1), (3, 40), (64, 33)]):
        file = tmp_path / f"{number}.png"
        picture(mode, height, width, number).save(file)
        for size in ((5, 7), (height, width), (16, 16)):
            check_alike(file, size, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_a_palette_is_white(channels: int, tmp_path: Path):
    image = picture("P", 9, 9)
    image.save(tmp_path / "p.png", transparency=image.getpixel((4, 4)))
    check_alike(tmp_path / "p.png", (9, 9), channels)
    read = runner.read_image(tmp_path / "p.png")
    assert read[4, 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize("ending", ["jpg", "bmp", "webp", "tiff", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_formats_are_read_as_in_training(ending: str, channels: int, tmp_path: Path):
    file = tmp_path / f"picture.{ending}"
    picture("RGB", 20, 31).save(file)
    check_alike(file, (8, 8), channels)


def test_a_print_of_four_inks_is_read_as_in_training(tmp_path: Path):
    picture("RGB", 12, 10).convert("CMYK").save(tmp_path / "cmyk.jpg")
    check_alike(tmp_path / "cmyk.jpg", (6, 6), 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_that_was_turned_is_heeded(orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture("RGB", 20, 31).save(tmp_path / "turned.jpg", exif=exif)
    check_alike(tmp_path / "turned.jpg", (10, 12), 3)
    turned = runner.read_image(tmp_path / "turned.jpg").shape[:2]
    assert turned == ((31, 20) if orientation >= 5 else (20, 31))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.sampled_from([(), (1,), (3,)]),
    st.sampled_from([GREY, COLOUR]),
    st.integers(0, 2**32 - 1),
)
def test_pixels_become_the_models_input_as_in_training(height, width, last, image, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (2, height, width, *last), np.uint8)
    form = ImageFormat(tuple(image["size"]), image["channels"], tuple(image["mean"]), tuple(image["std"]))
    expected = ImageInputs(list(pixels), form).batch([0, 1])
    encoded = runner.encode_images(list(pixels), {"input_names": ["pixel_values"], "image": image})
    assert list(encoded) == list(expected) == ["pixel_values"]
    assert encoded["pixel_values"].dtype == np.float32
    assert encoded["pixel_values"].tobytes() == expected["pixel_values"].tobytes()


def test_an_image_classifier_predicts_labels_with_their_probability(tmp_path: Path):
    folder = str(write_halves_artifact(tmp_path / "m").path)
    bright_left = np.zeros((6, 8), np.uint8)
    bright_left[:, :4] = 255
    Image.fromarray(bright_left[:, ::-1]).save(tmp_path / "right.png")
    classify = runner.open_predictor(folder)
    assert isinstance(classify, runner.Classifier)
    # White is (1 - 0.5) / 0.25 = 2 and black is -2.
    np.testing.assert_allclose(classify.outputs([bright_left]), [[2, -2]], atol=1e-6)
    (first, second) = classify([bright_left, str(tmp_path / "right.png")])
    assert (first[0], second[0]) == ("left", "right")
    assert first[1] == pytest.approx(1 / (1 + np.exp(-4)))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n then nothing"])
def test_what_is_no_image_is_an_error_that_names_the_file(content: bytes, tmp_path: Path):
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(runner.RunnerError, match=r"cannot read .*odd\.png as an image"):
        runner.read_image(tmp_path / "odd.png")


def test_a_damaged_image_is_an_error(tmp_path: Path):
    picture("RGB", 40, 40).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(runner.RunnerError, match=r"cut\.png"):
        runner.read_image(tmp_path / "cut.png")


def test_the_jobs_take_images(tmp_path: Path):
    artifact = write_halves_artifact(tmp_path / "m")
    inputs = ImageInputs(
        list(np.random.default_rng(0).integers(0, 256, (5, 6, 8), np.uint8)),
        ImageFormat((6, 8), 1, (0.5,), (0.25,)),
    )
    runner.write_batches(str(tmp_path / "f.npz"), [inputs.batch([0, 1, 2]), inputs.batch([3, 4])])
    read = runner.read_batches(str(tmp_path / "f.npz"))
    assert [batch["pixel_values"].shape for batch in read] == [(3, 1, 6, 8), (2, 1, 6, 8)]
    assert {batch["pixel_values"].dtype for batch in read} == {np.dtype(np.float32)}
    common = {"feeds": str(tmp_path / "f.npz"), "threads": 1, "device": "cpu"}
    job = {
        **common,
        "model": str(artifact.model_file),
        "scorer": outputs_scorer.__file__,
        "settings": {},
        "outputs": str(tmp_path / "o.npz"),
    }
    assert runner.score_job(job, runner.OnnxRuntime())["examples"] == 5
    expected = runner.open_predictor(str(artifact.path)).outputs(inputs.items)
    np.testing.assert_allclose(load_answers(tmp_path / "o.npz")["outputs"], expected, atol=1e-6)
    timed = {
        "models": [job["model"]] * 2,
        "load_order": [0, 1],
        "scenarios": [{"feeds": [common["feeds"]] * 2}],
        "seconds": 0.01,
        "rounds": 3,
        "share": [0, 1],
    }
    (scenario,) = runner.latency_job({**common, **timed}, runner.OnnxRuntime())["scenarios"]
    assert all(len(times) >= 3 for times in scenario["samples_ns"])
    memory = runner.memory_job(job, runner.OnnxRuntime())
    assert memory["peak_bytes"] >= memory["before_load_bytes"] > 0
