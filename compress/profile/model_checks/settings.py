"""Settings in a model's `config.json` that make transformers download or import code: overridden, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compress.profile.model_checks.problem import Problem

QUANTIZED_CODE = "quantized-checkpoint"
FETCHING_CODE = "fetching-setting"
"""Codes of faults about such settings."""

PINNED = frozenset(
    {
        # Attention and expert kernels; a hub id here would be downloaded and imported.
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "experts_implementation",
        "use_kernels",
        "kernel_config",
        "fusion_config",
        # The model's own code, which is never run: a model that needs it is refused where its class is looked up.
        "auto_map",
        "trust_remote_code",
        "custom_pipelines",
        "custom_generate",
        # Where the config came from.
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
    }
)
"""Settings, at any depth, that select how the model is computed but not its results: ours replace them."""

_REFUSED: Mapping[str, str] = {
    "transformers_weights": "its weights are in a file of another name",
    "use_pretrained_backbone": "the weights of its backbone would be downloaded",
    "backbone": "its backbone would be looked up on the hub by name",
}
_QUANTIZER_KEYS = ("quantization_config", "compression_config")
_TIMM_KEYS = ("model_args", "backbone_kwargs")
_TIMM_FETCH_KEYS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
_LABEL_MAPS = ("id2label", "label2id")
"""Mappings whose keys are the user's labels, not settings."""
_MAX_DEPTH = 50


def fetching_settings(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the settings of a parsed `config.json` that download something and cannot be overridden.

    They are searched at any depth; empty and false values are ignored.
    """
    for key, value in _settings(config, 0):
        if key is None:
            yield Problem("config.json is nested too deeply", FETCHING_CODE)
        elif key in _QUANTIZER_KEYS and value:
            effect = "its weights are, or would be, quantized by another library, which transformers imports"
            yield Problem(f"config.json: `{key}`: {effect}", QUANTIZED_CODE)
        elif key in _REFUSED and value and (key != "backbone" or isinstance(value, str)):
            yield Problem(f"config.json: `{key}`: {_REFUSED[key]}", FETCHING_CODE)
        elif key == "architecture" and isinstance(value, str) and ":" in value:
            yield Problem(
                "config.json: `architecture` names a model of the hub, which timm would download",
                FETCHING_CODE,
            )
        elif key in _TIMM_KEYS and isinstance(value, Mapping):
            keys = [f"{key}.{name}" for name in _TIMM_FETCH_KEYS if value.get(name)]
            effect = "timm would download weights, or read a pickle"
            yield from (Problem(f"config.json: `{name}`: {effect}", FETCHING_CODE) for name in keys)


def without_pinned(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parsed `config.json` without the settings in `PINNED`, at any depth."""
    return {
        key: value if key in _LABEL_MAPS else _strip_pinned(value)
        for key, value in config.items()
        if key not in PINNED
    }


def custom_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the config and model classes in `auto_map`: custom code in the model's folder or in another repository."""
    auto_map = config.get("auto_map")
    names = (
        [auto_map.get(kind) for kind in ("AutoConfig", "AutoModel")] if isinstance(auto_map, Mapping) else []
    )
    return tuple(entry.rpartition(".")[2] for entry in names if isinstance(entry, str))


def _settings(value: Any, depth: int) -> Iterator[tuple[str | None, Any]]:
    """Yield every key and value of the mappings nested in a value; (None, None) where the nesting is too deep."""
    if depth > _MAX_DEPTH:
        yield None, None
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key, inner
            if key not in _LABEL_MAPS:
                yield from _settings(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _settings(inner, depth + 1)


def _strip_pinned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_pinned(value)
    return [_strip_pinned(item) for item in value] if isinstance(value, list) else value
