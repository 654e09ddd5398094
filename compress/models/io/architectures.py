"""Building a model object from a config: the architecture by its transformers class name, weights not loaded yet."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from optimum.exporters.tasks import TasksManager
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from compress.core.artifacts import MODEL_CONFIG, STRUCTURE
from compress.core.disk.reading import content_errors
from compress.core.errors import ModelError
from compress.models.anatomy.structure import apply_structure
from compress.models.io.offline import offline
from compress.models.io.weights import read_model_json
from compress.profile.model_checks.settings import custom_classes, fetching_settings, without_pinned
from compress.profile.model_checks.sizes import impossible_sizes

Attention = Literal["sdpa", "eager"]
"""Attention implementation; `eager` exports to the smaller graph."""

_CONSTRUCTION_ERRORS = (
    *(ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError, AttributeError),
    ImportError,  # of a package that this architecture needs
)


def read_config(path: Path) -> PretrainedConfig:
    """Read the config of a model directory without the settings that are pinned here.

    Code that the config refers to is never run.

    Raises:
        ModelError: the file is missing or damaged, its architecture is unknown or defined by custom code, or a
            setting would make transformers download something.
    """
    file = path / MODEL_CONFIG
    values = read_model_json(file)
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"the architecture {model_type!r} is unknown to transformers {transformers.__version__}",
            where=str(file),
            hint="`model_type` must be one that transformers knows; code from model folders is not run.",
        )
    for problem in (*fetching_settings(values), *impossible_sizes(values)):
        raise problem.error(str(file))
    for name in custom_classes(values):
        if not hasattr(transformers, name):
            raise ModelError(
                f"this model is defined by custom code, {name!r}, which is not run",
                where=str(file),
                hint="Name a model that transformers itself has, or a `python:module:function` that builds this one.",
                code="own-code",
            )
    try:
        with offline(), content_errors("this config", str(file)):
            return CONFIG_MAPPING[model_type].from_dict(without_pinned(values))
    except (StrictDataclassError, OSError, *_CONSTRUCTION_ERRORS) as error:
        raise ModelError(f"not a valid {model_type} config: {error}", where=str(file)) from error


def model_class(config: PretrainedConfig, path: Path) -> Any:
    """Return the class that `architectures` names, or the classifier of the architecture if it names none."""
    if not config.architectures:
        return classifier_class(config, path)
    name = config.architectures[0]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ModelError(
            f"the architecture {name!r} is unknown to transformers {transformers.__version__}",
            where=str(path / MODEL_CONFIG),
        )
    return found


def classifier_class(config: PretrainedConfig, path: Path) -> Any:
    """Return the text or image classifier class of an architecture; of several, the one that `architectures` names.

    Raises:
        ModelError: it has none.
    """
    named = (config.architectures or [""])[0]
    candidates: list[Any] = []
    for task in ("text-classification", "image-classification"):
        mapping = TasksManager.get_model_class_for_task(task, library="transformers")._model_mapping
        if type(config) in mapping:
            kinds = mapping[type(config)]
            candidates += kinds if isinstance(kinds, (list, tuple)) else [kinds]
    if not candidates:
        raise ModelError(
            f"{config.model_type!r} models have no classifier of texts or images in transformers",
            where=str(path / MODEL_CONFIG),
        )
    return next((kind for kind in candidates if kind.__name__ == named), candidates[0])


def build_model(
    kind: Any,
    config: PretrainedConfig,
    path: Path,
    attention: Attention = "sdpa",
    seed: int | None = None,
) -> PreTrainedModel:
    """Build a float32 model with a directory's structure; its weights are not loaded yet.

    The global random state is preserved.

    Args:
        seed: for the architecture's random initialisation; None: weights are left uninitialised.

    Raises:
        ModelError: the config's values are inconsistent.
    """
    config = copy.deepcopy(config)
    with torch.random.fork_rng(devices=[]), no_init_weights() if seed is None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        model = _construct(kind, config, path, attention)
        if seed is None:
            # With initialisation disabled transformers does not tie weights.
            model.tie_weights()
    if (path / STRUCTURE).exists():
        apply_structure(model, read_model_json(path / STRUCTURE), str(path / STRUCTURE))
    return model


def _construct(kind: Any, config: PretrainedConfig, path: Path, attention: Attention) -> PreTrainedModel:
    # Convolutional models have no choice of attention implementation.
    chosen = attention if kind._supports_sdpa else "eager"
    try:
        with offline():
            return kind._from_config(config, attn_implementation=chosen, dtype=torch.float32)
    except _CONSTRUCTION_ERRORS as error:
        raise ModelError(
            f"this config does not describe a model: {error}", where=str(path / MODEL_CONFIG)
        ) from error


def build_on_meta(kind: Any, config: PretrainedConfig) -> PreTrainedModel:
    """Build a model on the meta device, for its names and shapes."""
    with torch.device("meta"), no_init_weights():
        return kind(copy.deepcopy(config))
