"""The structure of a decoder's graph, read from its config: sizes, kinds of parts, rotary tables and windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.models.anatomy.table.family import Config, Network
from compress.models.anatomy.table.sizes import dimensions, network_of

Activation = str
_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_ROTARY_MULTIPLE = 16
"""The operator rotates a multiple of 16 dimensions of a head, and needs a head size that is a multiple of 8."""
_FULL = "full_attention"
_SLIDING = "sliding_attention"


@dataclass(frozen=True)
class RotaryTable:
    """Rotary tables: cosines and sines float32 (positions, rotated dimensions of a head / 2)."""

    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """A decoder as described by its config.

    `windows`: for each layer, the size of its attention window, the token itself included; None: full attention.
    `rotaries`: for each layer, the name of its rotary tables in `tables`; None: no rotary positions. `scale`: factor
    of the attention scores; `scale_by_inverse_layer`: it is divided by the number of the layer, from 1 on. `softcap`,
    `final_softcap`: soft caps of attention scores and logits, 0: none. `embedding_scale`: factor of the embeddings.
    `tied`: the head is the word embedding table.
    """

    network: Network
    config: Config
    sizes: Mapping[str, int]
    activation: Activation
    epsilon: float
    scale: float
    scale_by_inverse_layer: bool
    softcap: float
    final_softcap: float
    embedding_scale: float
    windows: tuple[int | None, ...]
    rotaries: tuple[str | None, ...]
    tables: Mapping[str, RotaryTable]
    parallel: bool
    tied: bool

    @property
    def max_positions(self) -> int:
        """Maximum number of tokens."""
        return self.sizes["positions"]


def layout_of(config: Any) -> Layout:
    """Return the layout of a decoder.

    Args:
        config: the config, as loaded by transformers.

    Raises:
        ModelError: it has a part that the graph has no operator for.
    """
    values = config.to_dict()
    network = network_of(str(values["model_type"]))
    sizes = dimensions(network, values)
    layers = sizes["layers"]
    layer_types = values.get("layer_types") or [_SLIDING if values.get("sliding_window") else _FULL] * layers
    if unknown := sorted(set(layer_types) - {_FULL, _SLIDING}):
        raise _unsupported(config, f"its layer type {unknown[0]!r} is not supported")
    window = values.get("sliding_window")
    activation = next(
        value
        for key in ("hidden_activation", "hidden_act", "activation_function")
        if (value := values.get(key))
    )
    if activation not in _ACTIVATIONS:
        raise _unsupported(config, f"its activation {activation!r} is not supported")
    tables = _rotary_tables(config, network, sizes, layer_types) if network.positions == "rotary" else {}
    query_scalar = values.get("query_pre_attn_scalar") or sizes["head_size"]
    return Layout(
        network=network,
        config=values,
        sizes=sizes,
        activation=_ACTIVATIONS[activation],
        epsilon=float(_first(values, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")),
        scale=float(query_scalar) ** -0.5 if values.get("scale_attn_weights", True) else 1.0,
        scale_by_inverse_layer=bool(values.get("scale_attn_by_inverse_layer_idx")),
        softcap=float(values.get("attn_logit_softcapping") or 0),
        final_softcap=float(values.get("final_logit_softcapping") or 0),
        embedding_scale=sizes["hidden"] ** 0.5 if network.scales_embeddings else 1.0,
        windows=tuple(window if layer_type == _SLIDING else None for layer_type in layer_types),
        rotaries=tuple(
            (layer_type if layer_type in tables else "") if tables and has_rotary else None
            for layer_type, has_rotary in zip(
                layer_types, values.get("no_rope_layers") or [1] * layers, strict=True
            )
        ),
        tables=tables,
        parallel=network.parallel_key is not None
        and bool({**network.defaults, **values}[network.parallel_key]),
        tied=bool({**network.defaults, **values}["tie_word_embeddings"]),
    )


def _first(values: Config, *keys: str) -> Any:
    return next(values[key] for key in keys if key in values)


def _rotary_tables(
    config: Any, network: Network, sizes: Mapping[str, int], layer_types: list[str]
) -> dict[str, RotaryTable]:
    """Return one table for all layers, named "", or one per layer type."""
    rope_parameters = config.rope_parameters
    by_layer_type = (
        {layer_type: rope_parameters[layer_type] for layer_type in sorted(set(layer_types))}
        if _FULL in rope_parameters
        else {"": rope_parameters}
    )
    return {
        layer_type: _rotary_table(config, layer_type or None, rope, sizes)
        for layer_type, rope in by_layer_type.items()
    }


def _rotary_table(
    config: Any, layer_type: str | None, rope: Mapping[str, Any], sizes: Mapping[str, int]
) -> RotaryTable:
    """Compute the tables of rotary positions (Su et al. 2021), scaled variants as in transformers."""
    head_size = sizes["head_size"]
    rotated = int(head_size * rope.get("partial_rotary_factor", 1.0))
    if rotated % _ROTARY_MULTIPLE or head_size % (_ROTARY_MULTIPLE // 2):
        raise _unsupported(
            config, f"it rotates {rotated} of {head_size} dimensions of a head; expected a multiple of 16"
        )
    rope_type = rope.get("rope_type", "default")
    if rope_type == "default":
        frequencies = float(rope["rope_theta"]) ** (-np.arange(0, rotated, 2, dtype=np.float32) / rotated)
        attention_factor = 1.0
    elif rope_type in ("linear", "llama3", "yarn"):
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        layer_kwargs = {} if layer_type is None else {"layer_type": layer_type}
        inverse_frequencies, attention_factor = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", **layer_kwargs)
        frequencies = inverse_frequencies.numpy()
    else:
        raise _unsupported(
            config, f"its rotary positions of type {rope_type!r} change with the length of the text"
        )
    angles = np.outer(np.arange(sizes["positions"], dtype=np.float32), frequencies.astype(np.float32))
    return RotaryTable(
        (np.cos(angles) * attention_factor).astype(np.float32),
        (np.sin(angles) * attention_factor).astype(np.float32),
    )


def _unsupported(config: Any, why: str) -> ModelError:
    return ModelError(f"this {config.model_type} cannot be lowered to ONNX: {why}", code="family-unsupported")
