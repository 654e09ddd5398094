"""Which images a module takes, found by running it: nothing else shows that from outside."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.errors import ModelError
from compress.data.splits import Item
from compress.encoding.images import usual_channels, usual_size
from compress.encoding.preprocessing import DeclaredImages
from compress.models.io.plain import PlainModel, image_outputs

_USUAL_SIDES = (
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
"""Sides that networks of images are made for."""


def images_taken(
    model: PlainModel, declared: DeclaredImages, items: Sequence[Item], where: str
) -> tuple[DeclaredImages, list[str]]:
    """What is declared, with channels and size that the module takes, and notes on what nobody declared.

    The images' own channels and size are tried first; where the module takes no such size, the smallest usual one.

    Raises:
        ModelError: it takes none of them.
    """
    own, note = (declared.size, None) if declared.size is not None else usual_size(items)
    colours = (declared.channels,) if declared.channels is not None else _in_turn(usual_channels(items))
    for channels in colours:
        if _takes(model, channels, own):
            return declared.sized(own).with_channels(channels), [] if note is None else [note]
    if declared.size is None:
        for side in _USUAL_SIDES:
            for channels in colours:
                if _takes(model, channels, (side, side)):
                    words = (
                        f"{where} rejects images of {own[0]} x {own[1]}: they are resized to {side} x {side}"
                    )
                    return declared.sized((side, side)).with_channels(channels), [words]
    image_outputs(model, colours[0], own, where)  # says what the module says
    raise ModelError("the module accepts images one time and rejects them another", where=where)


def _in_turn(channels: int) -> tuple[int, ...]:
    return (channels, 4 - channels)


def _takes(model: PlainModel, channels: int, size: tuple[int, int]) -> bool:
    try:
        image_outputs(model, channels, size, model.origin.source)
    except ModelError:
        return False
    return True
