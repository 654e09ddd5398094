"""Registry of the losses; installed distributions add theirs through the entry point group `compress.losses`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel

from compress.core.entries import Entry, SingleKeyUnion
from compress.core.plugins import Table
from compress.losses.contract import LossKind, LossSpec

LOSSES = Table(
    "compress.losses",
    LossKind,
    {
        "logits": "compress.losses.logits.spec:LOGITS",
        "labels": "compress.losses.labels.spec:LABELS",
        "masked_lm": "compress.losses.masked_lm.spec:MASKED_LM",
        "hidden": "compress.losses.hidden.spec:HIDDEN",
        "embedding": "compress.losses.embedding.spec:EMBEDDING",
        "attention": "compress.losses.attention.spec:ATTENTION",
        "relation": "compress.losses.relation.spec:RELATION",
        "similarity": "compress.losses.similarity.spec:SIMILARITY",
        "next_token": "compress.losses.next_token.spec:NEXT_TOKEN",
        "contrastive": "compress.losses.contrastive.spec:CONTRASTIVE",
        "output": "compress.losses.output.spec:OUTPUT",
    },
)
LOSS_ENTRIES: SingleKeyUnion[LossSpec] = SingleKeyUnion(
    Entry[LossSpec], {name: kind.spec for name, kind in LOSSES.items()}
)
LossEntry = Annotated[Entry[LossSpec], LOSS_ENTRIES]


def name_of(loss: LossSpec) -> str:
    """Return the name of a loss in profiles."""
    return next(name for name, kind in LOSSES.items() if kind.spec is type(loss))


def losses_in(value: object) -> Iterator[LossSpec]:
    """Yield every loss in a section of a profile, at any depth."""
    if isinstance(value, LossSpec):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from losses_in(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from losses_in(item)
