"""Decode images from files, bytes and arrays into uniform pixel arrays, and compute keys that identify equal images.

Images stay in their file or data set and are decoded on every access; pixels are not cached.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from compress.core.errors import DataError
from compress.data.faults import map_all
from compress.data.images.framing import DEFAULT_FRAMING, Framing, Pixels, Transparency, apply_framing
from compress.data.rows import Rows
from compress.data.splits import Item, StoredImage

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif")
"""Extensions of image files, in lower case."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
_KEY_BYTES = 16
_SCALE_16_TO_8 = 257
_SWAPPED_AXES = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
# Exceptions of Pillow for damaged files; its plugins let errors of struct and zlib through as well.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError)


def is_image(path: Path) -> bool:
    """Whether the extension of a file is that of a readable image format."""
    return path.suffix.lower() in IMAGE_EXTENSIONS


def load_pixels(item: Item, where: str = "image", transparency: Transparency = "white") -> Pixels:
    """Return the pixels of an image, uint8: (height, width) if it is greyscale, else (height, width, 3) in RGB order.

    The first of several frames is used; EXIF orientation is applied; 16-bit values are reduced to 8 bits; palettes and
    CMYK are converted to RGB; transparent pixels are composited on white. Arrays are returned unchanged, except that a
    single channel is squeezed.

    Args:
        where: name of the image in errors, unless it is a file.
        transparency: `drop` keeps the colours that transparent pixels hide.

    Raises:
        DataError: the image is empty, damaged, of an unsupported format, or too large.
        TypeError: the item is a text.
    """
    if isinstance(item, np.ndarray):
        return item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    if isinstance(item, Path):
        return _decode(item, str(item), transparency)
    if isinstance(item, StoredImage):
        return _decode(io.BytesIO(item.read()), where, transparency)
    raise TypeError(f"{type(item).__name__} is no image")


def image_key(pixels: Pixels) -> bytes:
    """Return the key that equal images share: a hash of size and RGB values, whatever the format; 16 bytes."""
    height, width = pixels.shape[:2]
    coloured = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    digest = hashlib.blake2b(f"{height} {width}\0".encode(), digest_size=_KEY_BYTES)
    digest.update(coloured.tobytes())
    return digest.digest()


def check_images(rows: Rows) -> tuple[tuple[Item, ...], list[bytes]]:
    """Return the images of a split and the key of each; every image is decoded once, and no pixels are kept.

    Raises:
        DataError: an image is missing or damaged, or a value is not an image.
    """

    def check_one(i: int, value: object) -> tuple[Item, bytes]:
        item = _check_item(value, rows, i)
        return item, image_key(load_pixels(item, rows.location(i)))

    pairs = map_all(check_one, range(len(rows)), rows.items)
    return tuple(item for item, _ in pairs), [key for _, key in pairs]


def pixel_statistics(
    items: Sequence[Item], size: tuple[int, int], channels: int, framing: Framing = DEFAULT_FRAMING
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels of the framed images, as fractions of 255.

    Images are read once, one at a time; the sums are integers, so the result does not depend on their order. A constant
    channel has the standard deviation 1.
    """
    count = 0
    total = np.zeros(channels, np.int64)
    squares = np.zeros(channels, np.int64)
    for item in items:
        pixels = apply_framing(load_pixels(item, transparency=framing.transparency), size, channels, framing)
        values = pixels.reshape(-1, channels).astype(np.int64)
        count += len(values)
        total += values.sum(axis=0)
        squares += (values * values).sum(axis=0)
    mean = total / count
    variance = np.maximum(squares / count - mean * mean, 0.0)
    deviation = np.where(variance > 0, np.sqrt(variance) / 255.0, 1.0)
    return (mean / 255.0).tolist(), deviation.tolist()


def _check_item(value: object, rows: Rows, i: int) -> Item:
    if isinstance(value, (Path, StoredImage)):
        return value
    if (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.size
        and _is_image_shape(value.shape)
    ):
        return value
    if value is None:
        raise DataError("the image is missing", where=rows.location(i), code="image-missing")
    raise DataError(
        f"expected an image, found {type(value).__name__}",
        where=rows.location(i),
        hint="Is `data.image_column` the right column?",
        code="image-type",
    )


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def image_size(item: Item) -> tuple[int, int]:
    """Return the height and width of an image after EXIF orientation; only the header of a file is read.

    Raises:
        DataError: as `load_pixels`.
    """
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    if not isinstance(item, (Path, StoredImage)):
        raise TypeError(f"{type(item).__name__} is no image")
    source, where = (item, str(item)) if isinstance(item, Path) else (io.BytesIO(item.read()), "image")
    with _open_image(source, where) as image:
        is_rotated = image.getexif().get(ExifTags.Base.Orientation) in _SWAPPED_AXES
        return (image.width, image.height) if is_rotated else (image.height, image.width)


def _decode(source: Any, where: str, transparency: Transparency) -> Pixels:
    with _open_image(source, where) as image:
        image.load()
        if image.format == "TIFF" and image.mode in ("I", "F"):
            raise ValueError("its values have 32 bits; save it with 8 or 16")
        return _to_8_bit(ImageOps.exif_transpose(image), transparency)


@contextmanager
def _open_image(source: Any, where: str) -> Iterator[Image.Image]:
    """Open an image for the duration of the context; any failure becomes a DataError."""
    try:
        with warnings.catch_warnings():
            # The size warning is an error, so that no image can exhaust the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(source, formats=_FORMATS) as image:
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image is too large: {error}", where=where, code="image-large") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"not a readable image: it is empty, damaged, or none of {', '.join(_FORMATS)}",
            where=where,
            code="image-unreadable",
        ) from error
    except _DECODE_ERRORS as error:
        raise DataError(f"the image is damaged: {error}", where=where, code="image-damaged") from error


def _to_8_bit(image: Image.Image, transparency: Transparency) -> Pixels:
    """Convert an image to 8 bits per value, greyscale or RGB."""
    if image.mode.startswith(("I", "F")):
        # Only 16-bit files remain in these modes; Pillow's own conversion would clip their values.
        scaled = np.asarray(image).astype(np.float64) / _SCALE_16_TO_8
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent and transparency == "white":
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert(mode), np.uint8)
