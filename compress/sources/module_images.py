"""Detection of the image size and channels that a module accepts, by running it."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.errors import ModelError
from compress.data.splits import Item
from compress.encoding.images import common_channels, median_size
from compress.encoding.preprocessing import DeclaredImages
from compress.models.io.plain import UserModule, image_outputs

_COMMON_SIDES = (
    *(
        8,
        16,
        24,
        28,
        32,
        48,
        56,
        64,
        84,
        96,
        112,
        128,
        160,
        192,
        224,
        227,
        240,
        256,
        260,
        299,
        300,
        320,
        331,
        336,
    ),
    *(380, 384, 448, 456, 512),
)
"""Common input sides of image networks, in pixels."""


def accepted_preprocessing(
    model: UserModule, declared: DeclaredImages, items: Sequence[Item], where: str
) -> tuple[DeclaredImages, list[str]]:
    """Complete the declared preprocessing with channels and a size that the module accepts, and return notes on them.

    The channels and size of the data are tried first; if the module rejects them, the smallest common size that it
    accepts is used.

    Raises:
        ModelError: the module accepts none of them.
    """
    data_size, note = (declared.size, None) if declared.size is not None else median_size(items)
    channel_candidates = (
        (declared.channels,) if declared.channels is not None else _channel_candidates(common_channels(items))
    )
    for channels in channel_candidates:
        if _accepts(model, channels, data_size):
            return declared.with_size(data_size).with_channels(channels), [] if note is None else [note]
    if declared.size is None:
        for side in _COMMON_SIDES:
            for channels in channel_candidates:
                if _accepts(model, channels, (side, side)):
                    resize_note = (
                        f"{where} rejects images of {data_size[0]} x {data_size[1]}: they are "
                        f"resized to {side} x {side}"
                    )
                    return declared.with_size((side, side)).with_channels(channels), [resize_note]
    image_outputs(model, channel_candidates[0], data_size, where)  # raises the module's error
    raise ModelError("the module accepts images one time and rejects them another", where=where)


def _channel_candidates(channels: int) -> tuple[int, ...]:
    return (channels, 4 - channels)


def _accepts(model: UserModule, channels: int, size: tuple[int, int]) -> bool:
    try:
        image_outputs(model, channels, size, model.origin.source)
    except ModelError:
        return False
    return True
