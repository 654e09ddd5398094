"""No request to the hub while a model is read from its files, whatever these ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants


@contextmanager
def offline() -> Iterator[None]:
    """Requests of huggingface_hub fail inside, and so do those of transformers."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
