"""Which layer of the student learns from which layer of the teacher."""

from __future__ import annotations

from compress.core.errors import ModelError
from compress.losses.contract import LayerMap


def layer_pairs(wanted: LayerMap, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Pairs (student layer, teacher layer), 0 the lowest.

    `uniform` pairs layer i of m with layer (i + 1) * n // m - 1 of n (Jiao et al., TinyBERT, 2020, arXiv:1909.10351):
    evenly spread, the last with the last. A student with more layers than its teacher is paired the other way round,
    so that each layer of the teacher teaches one of the student's.

    Args:
        student, teacher: how many layers each has, at least 1.

    Raises:
        ModelError: a given pair names a layer that one of them has not.
    """
    if wanted == "last":
        return ((student - 1, teacher - 1),)
    if wanted == "uniform":
        if student <= teacher:
            return tuple((i, (i + 1) * teacher // student - 1) for i in range(student))
        return tuple(((i + 1) * student // teacher - 1, i) for i in range(teacher))
    for mine, theirs in wanted:
        for layer, count, who in ((mine, student, "student"), (theirs, teacher, "teacher")):
            if layer >= count:
                raise ModelError(
                    f"the pair [{mine}, {theirs}] names layer {layer} of the {who}, whose layers are 0 to {count - 1}",
                    hint="Give pairs [student layer, teacher layer], or `uniform` or `last`.",
                )
    return wanted
