"""Checks of a PEFT adapter's files, before it is merged into the weights of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.profile.model_checks.files import ModelFiles, header
from compress.profile.model_checks.problem import Problem
from compress.profile.model_checks.tokenizers import tokenizer_missing_problem, tokenizer_problems

ADAPTER = "adapter_config.json"
"""Config file of a PEFT adapter."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""Weights file of a PEFT adapter."""
PICKLED_WEIGHTS = "adapter_model.bin"
"""Its former, pickled weights file."""

_MERGEABLE_KEYS = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
        *("fan_in_fan_out", "bias", "lora_bias", "use_dora", "init_lora_weights", "ensure_weight_tying"),
        *("megatron_core", "qalora_group_size"),
    }
)
"""Config keys of LoRA that merging preserves."""
_NEUTRAL_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the weights of the base model unchanged."""


def adapter_problems(folder: Path | None, config: Mapping[str, Any], files: ModelFiles) -> Iterator[Problem]:
    """Yield why an adapter cannot be merged into the weights of a model.

    Args:
        folder: folder of the adapter; None if it is not on this machine.
        config: the model's parsed `config.json`.
    """
    adapter_config = None if folder is None else files.parse_or_none(folder / ADAPTER)
    if folder is None or adapter_config is None:
        yield Problem(f"expected a folder on this machine with an {ADAPTER} of peft", "adapter-missing")
        return
    if not any("lora_" in name for name in header(folder / ADAPTER_WEIGHTS)):
        pickled = (folder / PICKLED_WEIGHTS).is_file()
        yield Problem(
            f"{ADAPTER_WEIGHTS} has no LoRA weights"
            + (f"; {PICKLED_WEIGHTS} is a pickle, which is never loaded" if pickled else ""),
            "adapter-missing",
        )
    peft_type, task = adapter_config.get("peft_type"), adapter_config.get("task_type")
    if peft_type != "LORA":
        yield Problem(
            f"{ADAPTER}: adapters of the type {peft_type} cannot be merged here; only LORA can", "adapter"
        )
    elif task not in (None, "CAUSAL_LM"):
        yield Problem(f"{ADAPTER}: this adapter is for {task}, not for CAUSAL_LM", "adapter")
    else:
        unsupported = sorted(
            key for key, value in adapter_config.items() if value and key not in _MERGEABLE_KEYS
        )
        if adapter_config.get("init_lora_weights") not in _NEUTRAL_INITS:
            unsupported.append("init_lora_weights")
        for key in unsupported:
            yield Problem(
                f"{ADAPTER}: an adapter with `{key}: {adapter_config[key]}` cannot be merged here; merge it with peft "
                "(`merge_and_unload`), and name the folder of the merged model",
                "adapter",
            )
    if tokenizer_missing_problem({file.name for file in folder.iterdir()}) is None:
        yield from tokenizer_problems(folder, config, files)
