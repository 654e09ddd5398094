"""Contrastive loss between representations."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compress.core.spec import Positive
from compress.losses.contract import LossKind, LossSpec


class ContrastiveLoss(LossSpec):
    """The student's representation of an example must single out the teacher's of the same example among those of
    others (CRD, Tian et al. 2020)."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosine similarities."""
    dimensions: Positive = 128
    """Number of dimensions that both representations are projected to."""
    negatives: Annotated[int, Field(ge=0)] = 1024
    """Number of teacher representations remembered from earlier examples as negatives, in addition to those of the
    batch."""


CONTRASTIVE = LossKind(ContrastiveLoss, "compress.losses.contrastive.term:ContrastiveTerm")
