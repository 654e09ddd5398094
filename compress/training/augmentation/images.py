"""Image augmentation: flips, shifts, mixup and cutmix. Pure functions of torch tensors.

The teacher labels the augmented images, so labels are never mixed. Mixup: Zhang et al. 2018 (arXiv:1710.09412);
cutmix: Yun et al. 2019 (arXiv:1905.04899); both with a mixing ratio uniform in 0..1, which is Beta(1, 1). Beyer
et al. 2022 (arXiv:2106.05237): distillation works best if the teacher sees exactly the image that the student
sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.encoding.images import PIXEL_VALUES, ImageInputs
from compress.encoding.inputs import Batch
from compress.profile.specs.examples import AugmentSpec

Box = tuple[int, int, int, int]
"""Top, bottom, left and right of a patch; bottom and right are exclusive."""


def flip_and_shift(pixels: Tensor, spec: AugmentSpec, generator: torch.Generator | None) -> Tensor:
    """Flip and shift the images of a batch at random, as `spec` asks; labels stay valid.

    Args:
        pixels: (n, channels, height, width), any float type; not modified.
        generator: CPU random generator; None: torch's global one. Equal states give equal images.
    """
    count, _, height, width = pixels.shape
    if spec.flip:
        pixels = flip(pixels, torch.rand(count, generator=generator) < spec.flip)
    if spec.crop:
        pixels = shift(
            pixels,
            _random_offsets(count, int(spec.crop * height), generator),
            _random_offsets(count, int(spec.crop * width), generator),
        )
    return pixels


def blend_images(pixels: Tensor, spec: AugmentSpec, generator: torch.Generator | None) -> Tensor | None:
    """Blend a batch by mixup or cutmix with the probabilities of `spec`; return None if this batch is left unchanged.

    A batch gets at most one of the two: cutmix with its probability, but no more than mixup leaves. A blended
    image no longer belongs to one class: only a teacher can label it.

    Args:
        pixels: (n, channels, height, width), any float type; not modified.
        generator: as for `flip_and_shift`.
    """
    if not (spec.mixup or spec.cutmix):
        return None
    count, _, height, width = pixels.shape
    choice, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    partners = torch.randperm(count, generator=generator)
    horizontal, vertical = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if choice < spec.mixup:
        return mixup(pixels, partners, share)
    if choice < spec.mixup + spec.cutmix:
        return cutmix(pixels, partners, cut_box(height, width, share, vertical * height, horizontal * width))
    return None


def flip(pixels: Tensor, selected: Tensor) -> Tensor:
    """Mirror images (n, c, h, w) left to right where `selected`, bool (n,), is true."""
    return torch.where(selected.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels)


def shift(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift images (n, c, h, w) by whole pixels, int64 (n,) each; uncovered pixels repeat the edge.

    Equivalent to a random crop of the edge-padded image.
    """
    height, width = pixels.shape[-2:]
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1).to(pixels.device)
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1).to(pixels.device)
    image_indices = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    # Advanced indices separated by a slice come first: (n, h, w, c).
    return pixels[image_indices, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def mixup(pixels: Tensor, partners: Tensor, share: float) -> Tensor:
    """Return share * x + (1 - share) * x[partners].

    Args:
        pixels: (n, c, h, w).
        partners: int64 (n,).
        share: 0 to 1; lambda in the paper.
    """
    return pixels * share + pixels[partners.to(pixels.device)] * (1 - share)


def cut_box(height: int, width: int, share: float, center_row: float, center_column: float) -> Box:
    """Return the patch to replace so that `share` of the image remains.

    Its sides are sqrt(1 - share) of the image's, clipped at the image's edges.

    Args:
        share: 0 to 1; lambda in the paper.
        center_row: row of the patch's center, 0 to height.
        center_column: column of the patch's center, 0 to width.
    """
    side = (1 - share) ** 0.5
    top, bottom = _span(height, side, center_row)
    left, right = _span(width, side, center_column)
    return top, bottom, left, right


def cutmix(pixels: Tensor, partners: Tensor, box: Box) -> Tensor:
    """Return images (n, c, h, w) with the patch at `box` taken from the partners, `partners` int64 (n,)."""
    top, bottom, left, right = box
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[partners.to(pixels.device), :, top:bottom, left:right]
    return mixed


@dataclass(frozen=True, eq=False)
class AugmentedImages:
    """Image inputs that are flipped and shifted anew at every access, drawn from torch's global random state.

    Checkpoints hold that state, so a resumed training gets the same images.
    """

    inputs: ImageInputs
    spec: AugmentSpec

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each example: 1."""
        return self.inputs.lengths

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs."""
        return self.inputs.input_names

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the augmented images at `indices`: `pixel_values` float32 (n, channels, height, width)."""
        pixels = torch.from_numpy(self.inputs.batch(indices)[PIXEL_VALUES])
        return {PIXEL_VALUES: flip_and_shift(pixels, self.spec, None).numpy()}

    def digest(self) -> str:
        """Return the sha256 over the source images and the augmentation settings."""
        return hashlib.sha256(f"{self.inputs.digest()} {self.spec.model_dump_json()}".encode()).hexdigest()


def _random_offsets(count: int, max_offset: int, generator: torch.Generator | None) -> Tensor:
    """Return uniform random integers from -most to most, int64 (count,)."""
    return torch.randint(-max_offset, max_offset + 1, (count,), generator=generator)


def _span(size: int, side: float, center: float) -> tuple[int, int]:
    half = int(size * side) // 2
    center_pixel = int(center)
    return max(center_pixel - half, 0), min(center_pixel + half, size)
