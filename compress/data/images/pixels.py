"""Images: from files, bytes and arrays to pixels of one form, and what two equal images share.

An image stays where it is, in its file or its data set, until it is asked for; no pixels are kept.
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
from compress.data.faults import all_of
from compress.data.images.framing import AS_USUAL, Framing, Pixels, Transparency, framed
from compress.data.rows import Rows
from compress.data.splits import Item, StoredImage

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif")
"""The endings of image files, in lower case."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
_KEY_BYTES = 16
_FROM_16_BITS = 257
_ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations of EXIF that swap height and width."""
# What opening and decoding raise for damaged files; Pillow's plugins let struct and zlib errors through as well.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError)


def is_image(path: Path) -> bool:
    """Whether the file's ending is that of an image that can be read."""
    return path.suffix.lower() in IMAGE_ENDINGS


def pixels_of(item: Item, where: str = "image", transparency: Transparency = "white") -> Pixels:
    """An image's pixels, uint8: (height, width) if it is grey, else (height, width, 3), red first.

    Of several frames the first; turned as its EXIF data says; 16 bits a value become 8; palettes and CMYK become RGB;
    what is transparent is laid on white. Arrays are taken as they are, one channel squeezed.

    Args:
        where: what an error calls the image, unless it is a file.
        transparency: `drop` shows the colours that transparent pixels hide.

    Raises:
        DataError: it is empty, damaged, of another format than its ending may have, or too large.
        TypeError: it is a text.
    """
    if isinstance(item, np.ndarray):
        return item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    if isinstance(item, Path):
        return _decoded(item, str(item), transparency)
    if isinstance(item, StoredImage):
        return _decoded(io.BytesIO(item.read()), where, transparency)
    raise TypeError(f"{type(item).__name__} is no image")


def image_key(pixels: Pixels) -> bytes:
    """What two images share when they count as the same: size and RGB values, whatever the format; 16 bytes."""
    height, width = pixels.shape[:2]
    coloured = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    digest = hashlib.blake2b(f"{height} {width}\0".encode(), digest_size=_KEY_BYTES)
    digest.update(coloured.tobytes())
    return digest.digest()


def check_images(rows: Rows) -> tuple[tuple[Item, ...], list[bytes]]:
    """The images of a split and the key of each; every one is decoded once, and none is kept.

    Raises:
        DataError: an image is missing, damaged, or not an image at all.
    """

    def checked(i: int, value: object) -> tuple[Item, bytes]:
        item = _image(value, rows, i)
        return item, image_key(pixels_of(item, rows.place(i)))

    found = all_of(checked, range(len(rows)), rows.texts)
    return tuple(item for item, _ in found), [key for _, key in found]


def pixel_statistics(
    items: Sequence[Item], size: tuple[int, int], channels: int, framing: Framing = AS_USUAL
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels of the framed images, as fractions of 255.

    Read once, one image at a time; sums are whole numbers, so that the order changes nothing. A channel that never
    changes has the standard deviation 1.
    """
    count = 0
    total = np.zeros(channels, np.int64)
    squares = np.zeros(channels, np.int64)
    for item in items:
        pixels = framed(pixels_of(item, transparency=framing.transparency), size, channels, framing)
        values = pixels.reshape(-1, channels).astype(np.int64)
        count += len(values)
        total += values.sum(axis=0)
        squares += (values * values).sum(axis=0)
    mean = total / count
    variance = np.maximum(squares / count - mean * mean, 0.0)
    deviation = np.where(variance > 0, np.sqrt(variance) / 255.0, 1.0)
    return (mean / 255.0).tolist(), deviation.tolist()


def _image(value: object, rows: Rows, i: int) -> Item:
    if isinstance(value, (Path, StoredImage)):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size and _is_plain(value.shape):
        return value
    if value is None:
        raise DataError("the image is missing", where=rows.place(i), code="image-missing")
    raise DataError(
        f"expected an image, found {type(value).__name__}",
        where=rows.place(i),
        hint="Is `data.image_column` the right column?",
        code="image-type",
    )


def _is_plain(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def image_size(item: Item) -> tuple[int, int]:
    """An image's height and width, turned as its EXIF data says; of a file only the head is read.

    Raises:
        DataError: as `pixels_of`.
    """
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    if not isinstance(item, (Path, StoredImage)):
        raise TypeError(f"{type(item).__name__} is no image")
    source, where = (item, str(item)) if isinstance(item, Path) else (io.BytesIO(item.read()), "image")
    with _opened(source, where) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        return (image.width, image.height) if turned else (image.height, image.width)


def _decoded(source: Any, where: str, transparency: Transparency) -> Pixels:
    with _opened(source, where) as image:
        image.load()
        if image.format == "TIFF" and image.mode in ("I", "F"):
            raise ValueError("its values have 32 bits; save it with 8 or 16")
        return _plain(ImageOps.exif_transpose(image), transparency)


@contextmanager
def _opened(source: Any, where: str) -> Iterator[Image.Image]:
    """An image while it is looked at; whatever is wrong with it becomes an error of the data."""
    try:
        with warnings.catch_warnings():
            # A warning about size is an error: an image may not fill the memory.
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
    except _DAMAGE as error:
        raise DataError(f"the image is damaged: {error}", where=where, code="image-damaged") from error


def _plain(image: Image.Image, transparency: Transparency) -> Pixels:
    """8 bits a value, grey or RGB."""
    if image.mode.startswith(("I", "F")):
        # Of the others only 16-bit files open so; Pillow's own conversion would clip them.
        wide = np.asarray(image).astype(np.float64) / _FROM_16_BITS
        return np.clip(np.rint(wide), 0, 255).astype(np.uint8)
    wanted = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    see_through = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if see_through and transparency == "white":
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert(wanted), np.uint8)
