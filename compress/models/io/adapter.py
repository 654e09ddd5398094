"""peft adapters: loading one and merging it into the weights of its model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.io.offline import offline
from compress.profile.model_checks.adapters import ADAPTER_WEIGHTS

_TOLERANCE = 1e-4
"""Allowed difference of merged and adapted outputs relative to the largest: float32 sums in another order."""
_SHAPE = (4, 16)
"""Shape of the random token ids whose logits are compared."""


def merge_adapter(model: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Merge the adapter in a folder into a decoder's weights, in place; returns the decoder and facts.

    The base model that the adapter names is not looked up. Hu et al.: LoRA, 2021 (arXiv:2106.09685).

    Raises:
        ModelError: the adapter does not fit, or the outputs of the merged model differ from those of the adapted
            one.
    """
    where = str(folder)
    with quiet_peft(), torch.random.fork_rng(devices=[]), torch.no_grad():
        from peft import PeftModel, get_peft_model_state_dict
        from safetensors import SafetensorError

        torch.manual_seed(0)
        ids = torch.randint(model.config.vocab_size, _SHAPE)
        try:
            saved = load_file(folder / ADAPTER_WEIGHTS)
            adapted = PeftModel.from_pretrained(model, where, torch_device="cpu").eval()
        except (
            OSError,
            ValueError,
            RuntimeError,
            KeyError,
            TypeError,
            AttributeError,
            SafetensorError,
        ) as error:
            raise _adapter_error(f"this adapter does not fit the model: {error}", where) from error
        has_embeddings = any(".base_layer." in name for name in saved)
        loaded = get_peft_model_state_dict(adapted, save_embedding_layers=has_embeddings)
        for name, values in saved.items():
            if not _same(loaded.get(name), values):
                raise _adapter_error(f"this adapter changes {name!r}, which the model does not have", where)
        if lacking := sorted(loaded.keys() - saved.keys()):
            raise _adapter_error(f"this adapter lacks {lacking[0]!r}", where)
        adapted_logits = adapted(input_ids=ids).logits
        merged = adapted.merge_and_unload(safe_merge=True)
        # As in a saved file: tied weights are one tensor.
        merged.tie_weights()
        difference, apart = max_difference(merged(input_ids=ids).logits, adapted_logits)
    if apart:
        raise _adapter_error(
            f"with this adapter merged into its weights the model gives different outputs than with the adapter "
            f"applied separately: they differ by {difference:.2g}",
            where,
        )
    return merged.requires_grad_(True), {"merged_difference": difference}


def max_difference(merged: Tensor, adapted: Tensor) -> tuple[float, bool]:
    """Return the largest difference of two outputs, and whether it exceeds what summation order explains."""
    difference = float((merged - adapted).abs().max())
    return difference, not difference <= _TOLERANCE * max(1.0, float(adapted.abs().max()))


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Import peft without requests or warnings.

    peft imports bitsandbytes, which looks for optional kernels, on the hub too, and warns about those it does not
    find.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _same(loaded: Tensor | None, saved: Tensor) -> bool:
    return loaded is not None and loaded.shape == saved.shape and torch.equal(loaded.float(), saved.float())


def _adapter_error(message: str, where: str) -> ModelError:
    return ModelError(message, where=where, code="adapter")
