"""Contrast between representations."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.core.spec import Positive
from compress.losses.contract import LossKind, LossSpec


class ContrastiveLoss(LossSpec):
    """The student's representation of an example must tell the teacher's of the same example from those of others
    (Tian et al. 2020, CRD)."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosines."""
    dimensions: Positive = 128
    """Both representations are projected to so many dimensions."""
    negatives: Annotated[int, Field(ge=0)] = 1024
    """Remembered teacher representations of other examples, beside those of the batch."""


CONTRASTIVE = LossKind(ContrastiveLoss, "compress.losses.contrastive.term:ContrastiveTerm")
