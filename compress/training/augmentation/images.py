"""New images out of a batch: mirrored, shifted, blended in pairs, with patches of each other. Pure, torch.

The teacher labels what comes out, so labels are never mixed. Mixup: Zhang et al. 2018 (arXiv:1710.09412); cutmix: Yun
et al. 2019 (arXiv:1905.04899); both with a share drawn evenly from 0 to 1, which is Beta(1, 1). That a teacher who
sees the very image that the student sees teaches best is of Beyer et al. 2022 (arXiv:2106.05237).
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
"""Top, bottom, left and right of a patch; bottom and right are past its end."""


def move_images(pixels: Tensor, spec: AugmentSpec, generator: torch.Generator | None) -> Tensor:
    """A batch mirrored and shifted, as the image keys of `spec` ask for; each image keeps its label.

    Args:
        pixels: (n, channels, height, width), any float type; it is not changed.
        generator: where everything is drawn from, on the CPU; None: torch's own. Equal states give equal images.
    """
    count, _, height, width = pixels.shape
    if spec.flip:
        pixels = flip(pixels, torch.rand(count, generator=generator) < spec.flip)
    if spec.crop:
        pixels = shift(
            pixels,
            _whole(count, int(spec.crop * height), generator),
            _whole(count, int(spec.crop * width), generator),
        )
    return pixels


def blend_images(pixels: Tensor, spec: AugmentSpec, generator: torch.Generator | None) -> Tensor | None:
    """A batch blended by mixup or cutmix, as their shares have it; None where this batch is left as it is.

    Mixup and cutmix never meet in one batch: cutmix has what its share leaves of those without mixup. What is blended
    is no longer of one class: only a teacher can label it.

    Args:
        pixels: (n, channels, height, width), any float type; it is not changed.
        generator: as for `move_images`.
    """
    if not (spec.mixup or spec.cutmix):
        return None
    count, _, height, width = pixels.shape
    lot, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    partners = torch.randperm(count, generator=generator)
    across, down = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if lot < spec.mixup:
        return mixup(pixels, partners, share)
    if lot < spec.mixup + spec.cutmix:
        return cutmix(pixels, partners, cut_box(height, width, share, down * height, across * width))
    return None


def flip(pixels: Tensor, chosen: Tensor) -> Tensor:
    """The images (n, c, h, w) with those mirrored left to right where `chosen`, bool (n,), is true."""
    return torch.where(chosen.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels)


def shift(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The images (n, c, h, w) moved by whole pixels, int64 (n,) each; what is uncovered repeats the edge.

    It is a random crop of the image padded by its edge.
    """
    height, width = pixels.shape[-2:]
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1).to(pixels.device)
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1).to(pixels.device)
    which = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    # Indices that a slice stands between come first: (n, h, w, c).
    return pixels[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def mixup(pixels: Tensor, partners: Tensor, share: float) -> Tensor:
    """`share` of each image and the rest of its partner: share * x + (1 - share) * x[partners].

    Args:
        pixels: (n, c, h, w).
        partners: int64 (n,).
        share: 0 to 1; lambda in the paper.
    """
    return pixels * share + pixels[partners.to(pixels.device)] * (1 - share)


def cut_box(height: int, width: int, share: float, middle_down: float, middle_across: float) -> Box:
    """The patch that leaves `share` of an image: sides sqrt(1 - share) of the image's, cut off at its edge.

    Args:
        share: 0 to 1; lambda in the paper.
        middle_down: row of the patch's middle, 0 to height.
        middle_across: column of it, 0 to width.
    """
    side = (1 - share) ** 0.5
    top, bottom = _span(height, side, middle_down)
    left, right = _span(width, side, middle_across)
    return top, bottom, left, right


def cutmix(pixels: Tensor, partners: Tensor, box: Box) -> Tensor:
    """The images (n, c, h, w) with the patch at `box` taken from the partner, `partners` int64 (n,)."""
    top, bottom, left, right = box
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[partners.to(pixels.device), :, top:bottom, left:right]
    return mixed


@dataclass(frozen=True, eq=False)
class AugmentedImages:
    """Images that come out moved anew each time they are asked for, drawn from torch's own random state.

    Training keeps that state in its checkpoints, so that a training that was killed goes on with the same images.
    """

    inputs: ImageInputs
    spec: AugmentSpec

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example: 1."""
        return self.inputs.lengths

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model."""
        return self.inputs.input_names

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The images at `indices`, moved: `pixel_values` float32 (len(indices), channels, height, width)."""
        pixels = torch.from_numpy(self.inputs.batch(indices)[PIXEL_VALUES])
        return {PIXEL_VALUES: move_images(pixels, self.spec, None).numpy()}

    def digest(self) -> str:
        """sha256 over the images that all are drawn from, and over how they are."""
        return hashlib.sha256(f"{self.inputs.digest()} {self.spec.model_dump_json()}".encode()).hexdigest()


def _whole(count: int, most: int, generator: torch.Generator | None) -> Tensor:
    """Whole numbers from -most to most, int64 (count,)."""
    return torch.randint(-most, most + 1, (count,), generator=generator)


def _span(size: int, side: float, middle: float) -> tuple[int, int]:
    half = int(size * side) // 2
    whole = int(middle)
    return max(whole - half, 0), min(whole + half, size)
