"""Low-rank adapters (LoRA): injected into a model's linear layers, trained alone, then merged into the weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError, PassError
from compress.encoding.inputs import Inputs, model_inputs
from compress.models.anatomy.table.families import network_of_kind, why_not_corrected
from compress.models.anatomy.table.family import ROLES, Network
from compress.models.io.adapter import max_difference, quiet_peft
from compress.models.io.outputs import outputs_of
from compress.profile.specs.training import LoraSpec
from compress.training.batches import to_tensors
from compress.training.checkpointing import EXCLUDED_ATTRIBUTE, freeze_parameter
from compress.training.prediction import Device

_FEED_FORWARD = frozenset({"feed_in", "gate", "gate_feed_in", "feed_out"})
_CHECKED_EXAMPLES = 8


def add_adapters(model: nn.Module, spec: LoraSpec, seed: int, *, with_head: bool = False) -> int:
    """Inject adapters into `model` in place, freeze everything else, and return the number of trainable parameters.

    The adapters start as the identity: outputs do not change. Hu et al.: LoRA, 2021 (arXiv:2106.09685).

    Args:
        seed: for the initialization of the adapters.
        with_head: also train the parameters outside the base model.

    Raises:
        ModelError: the model's family is unknown, so its layers cannot be located.
    """
    kind = model.config.model_type if isinstance(model, PreTrainedModel) else type(model).__name__
    network = network_of_kind(kind)
    if network is None:
        raise ModelError(str(why_not_corrected(kind)), where="teacher.finetune.lora")
    for parameter in model.parameters():
        freeze_parameter(parameter)
    alpha = 2.0 * spec.rank if spec.alpha is None else spec.alpha
    with quiet_peft(), torch.random.fork_rng(devices=[]):
        from peft import LoraConfig, inject_adapter_in_model

        torch.manual_seed(seed)
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=alpha,
            lora_dropout=spec.dropout,
            target_modules=_target_pattern(network, spec.layers),
            fan_in_fan_out=network.transposed,
        )
        inject_adapter_in_model(config, model)
    if with_head:
        base = f"{model.base_model_prefix}."
        for name, parameter in model.named_parameters():
            if not name.startswith(base):
                parameter.requires_grad_(True)
                setattr(parameter, EXCLUDED_ATTRIBUTE, False)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def merge_adapters(model: nn.Module, trained: int, inputs: Inputs, device: Device) -> dict[str, Any]:
    """Merge the adapters of `model` into its weights and remove them, in place; return the facts for the report.

    Args:
        trained: number of parameters that were trained.
        inputs: the first few are used to compare outputs before and after merging.

    Raises:
        PassError: the merged model gives different outputs than the adapted one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    batch = model_inputs(to_tensors(inputs.batch(range(min(len(inputs), _CHECKED_EXAMPLES))), device))
    with torch.inference_mode():
        adapted = outputs_of(model.eval()(**batch))
    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            model.set_submodule(path, module.get_base_layer())
    with torch.inference_mode():
        difference, differs = max_difference(outputs_of(model(**batch)), adapted)
    if differs:
        raise PassError(
            f"the merged model gives different outputs than the adapted one: they differ by {difference:.2g}"
        )
    return {"trained_parameters": trained, "merged_difference": difference}


def _target_pattern(network: Network, layers: str) -> str:
    """Return the regular expression that matches the module names of the linear layers that get adapters."""
    linear_roles = {role for role in network.layer_parts if ROLES[role].kind == "linear"}
    selected = {
        "all": linear_roles,
        "attention": linear_roles - _FEED_FORWARD,
        "feed_forward": linear_roles & _FEED_FORWARD,
    }[layers]
    layer = re.escape(network.layer_path).replace(re.escape("{i}"), r"\d+")
    paths = "|".join(re.escape(network.layer_parts[role]) for role in sorted(selected))
    return rf"(?:.*\.)?{layer}\.(?:{paths})"
