"""Image processors of transformers, carried over: pixel values equal the processor's, or the processor is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image, ImageOps

from compress.core.errors import ModelError
from compress.data.images.pixels import load_pixels
from compress.encoding.preprocessing import (
    DeclaredImages,
    declared_images,
    declared_in_profile,
    declared_in_task,
)
from compress.profile.specs.preprocess import PreprocessSpec
from compress.runtimes import runner

SQUARE = {"height": 20, "width": 24}
WITHIN = {"max_height": 30, "max_width": 25}
PADDED = {"do_pad": True, "pad_size": {"height": 32, "width": 40}}
SIGNED = {"rescale_offset": True, "rescale_factor": 1 / 127.5}
EDGE = {"shortest_edge": 26}
CROP = {"height": 22, "width": 18}
GRID: list[tuple[str, dict[str, Any]]] = [
    ("ViTImageProcessor", {"size": SQUARE, "resample": 2}),
    ("ViTImageProcessor", {"size": 21, "resample": 0, "do_normalize": False}),
    ("ViTImageProcessor", {"size": SQUARE, "resample": 1, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.5]}),
    ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False, "image_mean": 100.0, "image_std": 50.0}),
    ("ViTImageProcessor", {"size": SQUARE, "rescale_factor": 1 / 127.5, "do_convert_rgb": True}),
    ("ViTImageProcessor", {"size": WITHIN, "do_center_crop": True, "crop_size": CROP}),
    ("ViTImageProcessor", {"size": WITHIN, **PADDED}),
    ("ViTImageProcessor", {"size": {"shortest_edge": 20, "longest_edge": 33}, "do_center_crop": True, "crop_size": 20}),
    ("ViTImageProcessor", {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 31, "width": 30}}),
    ("DeiTImageProcessor", {"size": {"height": 32, "width": 30}, "crop_size": CROP}),
    ("BeitImageProcessor", {"size": SQUARE}),
    ("BeitImageProcessor", {"size": SQUARE, "do_center_crop": True, "crop_size": CROP, "resample": 4}),
    ("ConvNextImageProcessor", {"size": EDGE, "crop_pct": 0.8}),
    ("ConvNextImageProcessor", {"size": 25}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ("EfficientNetImageProcessor", {"size": SQUARE}),
    ("EfficientNetImageProcessor", {"size": SQUARE, **SIGNED, "include_top": False}),
    ("EfficientNetImageProcessor", {"size": SQUARE, "do_center_crop": True, "crop_size": CROP}),
    ("MobileNetV1ImageProcessor", {"size": EDGE, "crop_size": CROP}),
    ("MobileNetV2ImageProcessor", {"size": EDGE, "crop_size": {"height": 29, "width": 33}}),
    ("MobileViTImageProcessor", {"size": EDGE, "crop_size": CROP}),
    ("MobileViTImageProcessor", {"size": EDGE, "crop_size": CROP, "do_flip_channel_order": False}),
    ("CLIPImageProcessor", {"size": EDGE, "crop_size": CROP}),
    ("BitImageProcessor", {"size": EDGE, "crop_size": CROP, "resample": 5}),
    ("SiglipImageProcessor", {"size": SQUARE}),
    ("LevitImageProcessor", {"size": EDGE, "crop_size": CROP}),
    ("PoolFormerImageProcessor", {"size": EDGE, "crop_size": CROP}),
    ("PvtImageProcessor", {"size": SQUARE}),
    ("SegformerImageProcessor", {"size": SQUARE}),
]  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of odd sizes and every mode that a photograph has."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)

    def drawn(height: int, width: int, channels: int = 3) -> Image.Image:
        rough = Image.fromarray(random.integers(0, 256, (5, 7, 4), np.uint8)).resize((width, height))
        noisy = np.asarray(rough, np.int64) + random.integers(-30, 30, (height, width, 4))
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        return Image.fromarray(pixels if channels == 4 else pixels[..., :3])

    turned = Image.Exif()
    turned[0x0112] = 6
    drawn(47, 31).save(folder / "upright.png")
    drawn(19, 101).save(folder / "panorama.png")
    drawn(3, 5).save(folder / "tiny.png")
    drawn(700, 523).save(folder / "large.jpg")
    drawn(40, 61).save(folder / "turned.jpg", exif=turned)
    drawn(33, 40).convert("L").save(folder / "grey.png")
    drawn(28, 36).quantize(40).save(folder / "palette.png")
    drawn(30, 41, 4).save(folder / "transparent.png")
    return sorted(folder.iterdir())


def saved(name: str, settings: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    """A processor of transformers, and the file that it writes."""
    processor = getattr(transformers, f"{name}Pil")(**settings)
    processor.save_pretrained(folder)
    return processor, json.loads((folder / "preprocessor_config.json").read_text())


@pytest.mark.parametrize(("name", "settings"), GRID)
def test_pixel_values_are_those_of_the_processor(
    name: str, settings: dict[str, Any], photographs: list[Path], tmp_path: Path
):
    processor, said = saved(name, settings, tmp_path)
    found = declared_images({"num_channels": 3}, said)
    assert found.unsupported is None
    form = found.to_format((), 3)
    task = {"input_names": ["pixel_values"], "image": json.loads(json.dumps(form.as_dict()))}
    assert declared_in_task(task["image"]).to_format((), 3) == form
    for file in photographs:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
        shown = image if processor.do_convert_rgb else image.convert("RGB")
        (expected,) = processor(images=shown, return_tensors="np")["pixel_values"]
        trained = form.pixel_values(load_pixels(file, transparency=form.framing.transparency))
        assert trained.shape == expected.shape
        assert np.abs(trained - expected).max() <= 1 / 255, file.name
        (bundled,) = runner.encode_images([str(file)], task)["pixel_values"]
        np.testing.assert_array_equal(bundled, trained)


def test_what_the_file_leaves_open_is_what_the_class_says():
    for said in (
        {"image_processor_type": "DeiTImageProcessor"},
        {"feature_extractor_type": "DeiTFeatureExtractor"},
    ):
        found = declared_images({}, said)
        assert (found.size, found.framing.resize_to, found.framing.interpolation) == (
            (224, 224),
            (256, 256),
            "bicubic",
        )
        assert found.normalisation == ((0.5,) * 3, (0.5,) * 3)
    fast = declared_images({}, {"image_processor_type": "ViTImageProcessorFast"})
    assert fast.normalisation == ((0.5,) * 3, (0.5,) * 3)
    assert (
        declared_images({"model_type": "mobilevit"}, {"size": {"shortest_edge": 256}}).framing.order == "bgr"
    )


def test_a_model_of_grey_images_has_its_processor_tried_on_such(tmp_path: Path):
    _, said = saved("ViTImageProcessor", {"size": 12, "image_mean": [0.2], "image_std": [0.4]}, tmp_path)
    found = declared_images({"num_channels": 1}, said)
    assert (found.unsupported, found.channels, found.normalisation) == (None, 1, ((0.2,), (0.4,)))


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"image_processor_type": "PerceiverImageProcessor"}, "224, 224"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "`patch_size`"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "`do_color_quantize`"),
        ({"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}, "different sizes"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "different sizes"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "`pad_size`"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}},
            "shortest_edge",
        ),
        ({"image_processor_type": "ViTImageProcessor", "size": {"sides": 9}}, "rejects its settings"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 99}, "resample: 99"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 10**7}}, "`size`"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": -3, "width": 4}}, "`size`"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0, 0, 0]}, "std"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 10, "crop_pct": 0}, "division by zero"),
        ({"image_processor_type": "TimmWrapperImageProcessor"}, "not installed"),
        ({"image_processor_type": "pipeline"}, "transformers has no pipeline"),
        ({"image_processor_type": "BertModel"}, "transformers has no BertModel"),
        ({"image_processor_type": 5}, "names its class"),
        ({}, "names its class"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(said: dict[str, Any], what: str):
    found = declared_images({"num_channels": 3}, said, where="here")
    assert isinstance(found.unsupported, ModelError)
    assert (found.unsupported.code, found.unsupported.where) == ("image-processor", "here")
    assert what in found.unsupported.message
    assert found.normalisation is None


def test_foreign_code_that_a_processor_names_is_not_looked_for():
    said = {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "stranger/repo--code.Own"}}
    refusal = declared_images({}, said).unsupported
    assert refusal is not None
    assert "transformers has no Own" in refusal.message


def test_nothing_said_is_nothing_declared():
    assert declared_images({}, None) == DeclaredImages()
    assert declared_images({"image_size": 9, "num_channels": 1}, None) == DeclaredImages((9, 9), 1)
    assert declared_images({"vision_config": {"num_channels": 3}}, None).channels == 3
    with pytest.raises(ValueError, match="not an image size"):
        declared_images({"image_size": "large"}, None)


# What a profile declares.


def test_a_profile_declares_the_values_that_its_words_give():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    spec = {"size": 20, "resize": "shortest", "crop": [16, 18], "interpolation": "bicubic"}
    middle = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BICUBIC))[2:18, 6:24]
    found = declared_in_profile(PreprocessSpec(**spec, mean=(1, 2, 3), std=2, scale=255, channels="bgr"))
    expected = (middle[..., ::-1].astype(np.float64) - [1, 2, 3]) / 2
    np.testing.assert_allclose(
        found.to_format((), 3).pixel_values(pixels), expected.transpose(2, 0, 1), rtol=1e-4, atol=1e-4
    )
    plain = declared_in_profile(PreprocessSpec(size=(9, 8))).to_format((), 3)
    squashed = np.asarray(Image.fromarray(pixels).resize((8, 9), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(plain.pixel_values(pixels), squashed.transpose(2, 0, 1), atol=1e-6)
    assert plain.as_dict() == {"size": [9, 8], "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    deit = declared_in_profile(PreprocessSpec(size=10, crop=8)).to_format((), 3)
    assert deit.as_dict()["resize_to"] == [10, 10]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [4, 5], "resize": "shortest"},
        {"std": 0},
        {"std": [1, 0, 1]},
        {"mean": [1, 2]},
        {"scale": 128},
        {"interpolation": "cubic"},
        {"channels": "gbr"},
        {"crop": 0},
    ],
)
def test_a_declaration_that_makes_no_sense_is_a_fault(changes: dict[str, Any]):
    with pytest.raises(ValueError, match="PreprocessSpec"):
        PreprocessSpec.model_validate({"size": 8, **changes})


def test_another_size_keeps_the_share_that_is_cropped():
    framing = declared_images({}, {"image_processor_type": "DeiTImageProcessor"}).with_size((112, 112))
    assert (framing.size, framing.framing.resize_to) == ((112, 112), (128, 128))
    clip = declared_images({}, {"image_processor_type": "MobileNetV2ImageProcessor"}).with_size((56, 112))
    assert clip.framing.resize_to == (64,)
