"""Loading models saved by transformers: complete, in float32, and never from a pickle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from compress.core.artifacts import TORCH_WEIGHTS
from compress.core.errors import ModelError
from compress.models.io.offline import offline
from compress.models.teacher.location import shards_of


def load_pretrained(
    model_class: Any, folder: Path, config: PretrainedConfig
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load a model in eval mode; also returns the weights that its files lack, which may only be those of a pooler.

    The global random state is preserved.

    Args:
        model_class: the class, or an auto class.

    Raises:
        ModelError: the files are damaged, do not fit the config, or lack a weight.
    """
    shards_of(folder)
    with quiet(), offline(), torch.random.fork_rng(devices=[]):
        try:
            model, loading_info = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
            raise ModelError(f"cannot load this model: {error}", where=str(folder)) from error
        except Exception as error:
            if type(error).__module__.startswith("safetensors"):
                where = str(folder / TORCH_WEIGHTS)
                raise ModelError(f"this file is damaged: {error}", where=where) from error
            raise
    # A BatchNorm batch counter missing from old files starts at 0 and is not a weight.
    untrained = frozenset(
        key for key in loading_info["missing_keys"] if not key.endswith("num_batches_tracked")
    )
    lacking = sorted(key for key in untrained if "pooler." not in key)
    if lacking:
        raise ModelError(
            f"its files lack {len(lacking)} weights of a {type(model).__name__}, for example {lacking[0]!r}",
            where=str(folder),
        )
    return model.eval(), untrained


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and loading reports of transformers; the loading info is checked here instead."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
