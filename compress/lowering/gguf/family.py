"""The decoder families that llama.cpp supports, their names there, and unsupported configs. No torch import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.sizes import dimensions, network_of

_SILU = frozenset({"silu", "swish"})
_TANH = frozenset({"gelu_new", "gelu_fast", "gelu_pytorch_tanh"})
_ROPES = frozenset({"default", "linear", "yarn"})


@dataclass(frozen=True)
class LlamaCppFamily:
    """How llama.cpp handles a family.

    `architecture`: its name there. `turns_pairs`: rotary positions rotate adjacent dimensions of a head, so the rows
    of queries and keys are reordered. `square`: heads times head size must equal the hidden size. `windows`:
    sliding-window layers are supported. `softcaps`: attention scores and logits are always soft-capped. `head`: a
    head is required even if it is tied to the word embeddings; `tied`: it is always tied. `output_bias`: attention's
    output may have a bias; `biases`: attention biases are required even if the model has none. `activations`:
    supported ones, as named in configs. `ropes`: supported kinds of rotary positions. `layers_27b`: with this number
    of layers, attention is scaled by hidden size / heads rather than by the head size.
    """

    architecture: str
    activations: frozenset[str] = _SILU
    turns_pairs: bool = False
    square: bool = False
    windows: bool = False
    softcaps: bool = False
    head: bool = False
    tied: bool = False
    output_bias: bool = False
    biases: bool = False
    ropes: frozenset[str] = _ROPES
    layers_27b: int | None = None


_LLAMA = LlamaCppFamily("llama", turns_pairs=True, output_bias=True, ropes=_ROPES | {"llama3"})
LLAMA_CPP: Mapping[str, LlamaCppFamily] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": LlamaCppFamily("qwen2", square=True),
    "qwen3": LlamaCppFamily("qwen3"),
    "gemma": LlamaCppFamily("gemma", activations=_TANH, tied=True),
    "gemma2": LlamaCppFamily(
        "gemma2", activations=_TANH, windows=True, softcaps=True, tied=True, layers_27b=46
    ),
    "gemma3_text": LlamaCppFamily("gemma3", activations=_TANH, windows=True, layers_27b=62),
    "phi3": LlamaCppFamily("phi3", square=True, ropes=frozenset({"default"})),
    "gpt2": LlamaCppFamily("gpt2", activations=_TANH, square=True, output_bias=True),
    # llama.cpp only has the tanh approximation of GELU; the exact form differs by less than 0.001.
    "gpt_neox": LlamaCppFamily(
        "gptneox", activations=_TANH | {"gelu"}, square=True, head=True, output_bias=True, biases=True
    ),
}
"""Families by `model_type` (llama.cpp, src/models)."""


def why_not_gguf(config: Config) -> str | None:
    """Return why llama.cpp cannot run a model of this config; None if it can."""
    return next(_reasons(config), None)


def rope_of(config: Config) -> Mapping[str, Any]:
    """Return the rotary parameters of layers with full attention."""
    said: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope: Mapping[str, Any] = said.get("full_attention", said)
    return rope


def _reasons(config: Config) -> Iterator[str]:
    kind = str(config.get("model_type"))
    family = LLAMA_CPP.get(kind)
    if family is None:
        yield f"GGUF can be written for {', '.join(LLAMA_CPP)}, and this is a {kind}"
        return
    network = network_of(kind)
    config = {**network.defaults, **config}
    sizes = dimensions(network, config)
    named = ("hidden_activation", "hidden_act", "activation_function")
    activation = next((config[key] for key in named if config.get(key)), None)
    if activation is not None and activation not in family.activations:
        yield f"llama.cpp computes a {kind} with {' or '.join(sorted(family.activations))}, not {activation}"
    if family.square and sizes["queries"] != sizes["hidden"]:
        yield f"llama.cpp expects the heads of a {kind} together to be as wide as the model, and these are not"
    if not family.output_bias and network.has_bias("attention_output", config):
        yield f"llama.cpp expects no bias after the attention of a {kind}, and this one has it"
    if bool(config.get("attn_logit_softcapping", family.softcaps)) != family.softcaps or (
        family.softcaps and not config.get("final_logit_softcapping", True)
    ):
        yield f"llama.cpp {'caps' if family.softcaps else 'does not cap'} the scores of a {kind}, unlike this model"
    if family.tied and not config["tie_word_embeddings"]:
        yield f"llama.cpp ties the head of a {kind} to its embeddings, and this one has a separate head"
    if not config.get("scale_attn_weights", True) or config.get("scale_attn_by_inverse_layer_idx"):
        yield "llama.cpp scales attention scores by the head size only"
    rope = rope_of(config)
    how = str(rope.get("rope_type", rope.get("type", "default")))
    if how not in family.ropes:
        yield f"llama.cpp has no rotary positions of type {how!r} for a {kind}"
    if how == "yarn" and (said := {"attention_factor", "mscale", "mscale_all_dim"} & rope.keys()):
        yield f"llama.cpp computes the yarn factors itself, and this config sets {sorted(said)[0]}"
