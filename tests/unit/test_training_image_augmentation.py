"""Moved and blended images against numpy, and against boxes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compress.encoding.images import ImageFormat, ImageInputs
from compress.profile.specs.examples import AugmentSpec
from compress.training.augmentation.images import (
    AugmentedImages,
    blend_images,
    cut_box,
    cutmix,
    flip,
    flip_and_shift,
    mixup,
    shift,
)


def batch(count: int = 6, height: int = 5, width: int = 7) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).normal(size=(count, 3, height, width)).astype(np.float32)
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_the_chosen_images_are_mirrored() -> None:
    pixels = batch(3)
    flipped = flip(pixels, torch.tensor([True, False, True])).numpy()
    np.testing.assert_array_equal(flipped[[0, 2]], pixels.numpy()[[0, 2], :, :, ::-1])
    np.testing.assert_array_equal(flipped[1], pixels[1])


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, -3), (-1, 2), (4, 6)])
def test_a_shift_is_a_crop_of_the_image_padded_by_its_edge(down: int, right: int) -> None:
    pixels = batch(2)
    shifted = shift(pixels, torch.tensor([down, 0]), torch.tensor([right, 0]))
    padded = np.pad(pixels[0].numpy(), ((0, 0), (8, 8), (8, 8)), mode="edge")
    expected = padded[:, 8 - down : 13 - down, 8 - right : 15 - right]
    np.testing.assert_array_equal(shifted[0], expected)
    np.testing.assert_array_equal(shifted[1], pixels[1])
    assert shifted.is_contiguous()


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    pixels, partners = batch(4), torch.tensor([1, 2, 3, 0])
    mixed = mixup(pixels, partners, 0.3).numpy()
    expected = 0.3 * pixels.numpy() + 0.7 * pixels.numpy()[[1, 2, 3, 0]]
    np.testing.assert_allclose(mixed, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(mixup(pixels, partners, 1.0), pixels)


def test_cutmix_takes_the_patch_from_the_partner_and_nothing_else() -> None:
    pixels, partners = batch(3), torch.tensor([2, 0, 1])
    before = pixels.clone()
    mixed = cutmix(pixels, partners, (1, 4, 2, 7)).numpy()
    expected = before.numpy().copy()
    expected[:, :, 1:4, 2:7] = before.numpy()[[2, 0, 1], :, 1:4, 2:7]
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    ("share", "middle", "box"),
    [
        # sqrt(1 - 0.75) = 0.5 of 8 x 12 is 4 x 6, around the middle.
        (0.75, (4, 6), (2, 6, 3, 9)),
        # The corner cuts half of it off on each side.
        (0.75, (0, 0), (0, 2, 0, 3)),
        (0.75, (7.9, 11.9), (5, 8, 8, 12)),
        (1.0, (4, 6), (4, 4, 6, 6)),
        (0.0, (4, 6), (0, 8, 0, 12)),
    ],
)
def test_a_patch_has_the_sides_and_the_place_of_the_paper(share, middle, box) -> None:
    assert cut_box(8, 12, share, *middle) == box


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 40), st.integers(1, 40))
def test_a_patch_never_leaves_the_image_nor_exceeds_its_share(share, down, across, height, width) -> None:
    top, bottom, left, right = cut_box(height, width, share, down * height, across * width)
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    assert (bottom - top) * (right - left) <= (1 - share) * height * width + 1e-9


def test_equal_seeds_move_and_blend_alike_and_others_do_not() -> None:
    spec = AugmentSpec(flip=0.5, crop=0.4, mixup=0.5, cutmix=0.5)
    pixels = batch(16)
    before = pixels.clone()
    first, again, other = (flip_and_shift(pixels, spec, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first, again = (blend_images(pixels, spec, seeded(1)) for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert torch.equal(pixels, before)


def test_a_spec_that_asks_for_nothing_changes_nothing() -> None:
    pixels = batch()
    spec = AugmentSpec(flip=0, crop=0)
    assert flip_and_shift(pixels, spec, seeded(0)) is pixels
    assert blend_images(pixels, spec, seeded(0)) is None


def test_shares_say_how_often_each_kind_is_drawn() -> None:
    """Mixup leaves no pixel as it was, cutmix leaves each as it was or as the partner's."""
    spec = AugmentSpec(mixup=0.3, cutmix=0.5)
    pixels = torch.arange(8.0).reshape(2, 1, 2, 2) ** 2
    generator, counts = seeded(0), {"none": 0, "mixup": 0, "cutmix": 0}
    for _ in range(600):
        blended = blend_images(pixels, spec, generator)
        if blended is None:
            counts["none"] += 1
        else:
            counts["cutmix" if torch.isin(blended, pixels).all() else "mixup"] += 1
    # Mixup with an image itself looks like cutmix: half of the permutations of two are the identity.
    assert counts["none"] == pytest.approx(120, abs=40)
    assert counts["mixup"] == pytest.approx(90, abs=35)


def test_moved_images_follow_torchs_random_state() -> None:
    items = [np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8) for seed in range(4)]
    plain = ImageInputs(items, ImageFormat((8, 8), 1, (0.0,), (1.0,)))
    moved = AugmentedImages(plain, AugmentSpec())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = torch.get_rng_state()
        first, second = (moved.batch([0, 1])["pixel_values"] for _ in range(2))
        torch.set_rng_state(state)
        again = moved.batch([0, 1])["pixel_values"]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert (len(moved), moved.input_names) == (4, ("pixel_values",))
    assert moved.digest() != plain.digest()
