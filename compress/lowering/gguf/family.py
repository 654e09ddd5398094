"""The decoder families that llama.cpp supports, their names there, and unsupported configs. No torch import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.sizes import dimensions, network_of

_SILU = frozenset({"silu", "swish"})
_TANH = frozenset({"gelu_new", "gelu_fast", "gelu_pytorch_tanh"})
_ROPE_TYPES = frozenset({"default", "linear", "yarn"})


@dataclass(frozen=True)
class LlamaCppFamily:
    """How llama.cpp handles a family.

    `architecture`: its name there. `rotates_adjacent`: rotary positions rotate adjacent dimensions of a head, so the
    rows of queries and keys are reordered. `requires_square`: heads times head size must equal the hidden size.
    `supports_windows`: sliding-window layers are supported. `always_softcaps`: attention scores and logits are always
    soft-capped. `requires_head`: a head is required even if it is tied to the word embeddings; `always_tied`: it is
    always tied. `allows_output_bias`: attention's output may have a bias; `requires_biases`: attention biases are
    required even if the model has none. `activations`: supported ones, as named in configs. `rope_types`: supported
    kinds of rotary positions. `layers_27b`: with this number of layers, attention is scaled by hidden size / heads
    rather than by the head size.
    """

    architecture: str
    activations: frozenset[str] = _SILU
    rotates_adjacent: bool = False
    requires_square: bool = False
    supports_windows: bool = False
    always_softcaps: bool = False
    requires_head: bool = False
    always_tied: bool = False
    allows_output_bias: bool = False
    requires_biases: bool = False
    rope_types: frozenset[str] = _ROPE_TYPES
    layers_27b: int | None = None


_LLAMA = LlamaCppFamily(
    "llama", rotates_adjacent=True, allows_output_bias=True, rope_types=_ROPE_TYPES | {"llama3"}
)
LLAMA_CPP: Mapping[str, LlamaCppFamily] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": LlamaCppFamily("qwen2", requires_square=True),
    "qwen3": LlamaCppFamily("qwen3"),
    "gemma": LlamaCppFamily("gemma", activations=_TANH, always_tied=True),
    "gemma2": LlamaCppFamily(
        "gemma2",
        activations=_TANH,
        supports_windows=True,
        always_softcaps=True,
        always_tied=True,
        layers_27b=46,
    ),
    "gemma3_text": LlamaCppFamily("gemma3", activations=_TANH, supports_windows=True, layers_27b=62),
    "phi3": LlamaCppFamily("phi3", requires_square=True, rope_types=frozenset({"default"})),
    "gpt2": LlamaCppFamily("gpt2", activations=_TANH, requires_square=True, allows_output_bias=True),
    # llama.cpp only has the tanh approximation of GELU; the exact form differs by less than 0.001.
    "gpt_neox": LlamaCppFamily(
        "gptneox",
        activations=_TANH | {"gelu"},
        requires_square=True,
        requires_head=True,
        allows_output_bias=True,
        requires_biases=True,
    ),
}
"""Families by `model_type` (llama.cpp, src/models)."""


def why_not_gguf(config: Config) -> str | None:
    """Return why llama.cpp cannot run a model of this config; None if it can."""
    return next(_reasons(config), None)


def rope_parameters_of(config: Config) -> Mapping[str, Any]:
    """Return the rotary parameters of layers with full attention."""
    parameters: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope: Mapping[str, Any] = parameters.get("full_attention", parameters)
    return rope


def _reasons(config: Config) -> Iterator[str]:
    model_type = str(config.get("model_type"))
    family = LLAMA_CPP.get(model_type)
    if family is None:
        yield f"GGUF can be written for {', '.join(LLAMA_CPP)}, and this is a {model_type}"
        return
    network = network_of(model_type)
    config = {**network.defaults, **config}
    sizes = dimensions(network, config)
    activation_keys = ("hidden_activation", "hidden_act", "activation_function")
    activation = next((config[key] for key in activation_keys if config.get(key)), None)
    if activation is not None and activation not in family.activations:
        yield f"llama.cpp computes a {model_type} with {' or '.join(sorted(family.activations))}, not {activation}"
    if family.requires_square and sizes["queries"] != sizes["hidden"]:
        yield f"llama.cpp expects the heads of a {model_type} together to be as wide as the model, and these are not"
    if not family.allows_output_bias and network.has_bias("attention_output", config):
        yield f"llama.cpp expects no bias after the attention of a {model_type}, and this one has it"
    if bool(config.get("attn_logit_softcapping", family.always_softcaps)) != family.always_softcaps or (
        family.always_softcaps and not config.get("final_logit_softcapping", True)
    ):
        yield (
            f"llama.cpp {'caps' if family.always_softcaps else 'does not cap'} the scores of a "
            f"{model_type}, unlike this model"
        )
    if family.always_tied and not config["tie_word_embeddings"]:
        yield f"llama.cpp ties the head of a {model_type} to its embeddings, and this one has a separate head"
    if not config.get("scale_attn_weights", True) or config.get("scale_attn_by_inverse_layer_idx"):
        yield "llama.cpp scales attention scores by the head size only"
    rope = rope_parameters_of(config)
    rope_type = str(rope.get("rope_type", rope.get("type", "default")))
    if rope_type not in family.rope_types:
        yield f"llama.cpp has no rotary positions of type {rope_type!r} for a {model_type}"
    if rope_type == "yarn" and (
        set_factors := {"attention_factor", "mscale", "mscale_all_dim"} & rope.keys()
    ):
        yield f"llama.cpp computes the yarn factors itself, and this config sets {sorted(set_factors)[0]}"
