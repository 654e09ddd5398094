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
class Rotary:
    """Rotary tables: cosines and sines float32 (positions, rotated dimensions of a head / 2)."""

    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """A decoder as described by its config.

    `windows`: for each layer, the size of its attention window, the token itself included; None: full attention.
    `rotaries`: for each layer, the name of its rotary tables in `tables`; None: no rotary positions. `scale`: factor
    of the attention scores; `deeper_weaker`: it is divided by the number of the layer, from 1 on. `softcap`,
    `final_softcap`: soft caps of attention scores and logits, 0: none. `embedding_scale`: factor of the embeddings.
    `tied`: the head is the word embedding table.
    """

    network: Network
    config: Config
    sizes: Mapping[str, int]
    activation: Activation
    epsilon: float
    scale: float
    deeper_weaker: bool
    softcap: float
    final_softcap: float
    embedding_scale: float
    windows: tuple[int | None, ...]
    rotaries: tuple[str | None, ...]
    tables: Mapping[str, Rotary]
    parallel: bool
    tied: bool

    @property
    def longest(self) -> int:
        """Maximum number of tokens."""
        return self.sizes["positions"]


def layout_of(config: Any) -> Layout:
    """Return the layout of a decoder.

    Args:
        config: the config, as loaded by transformers.

    Raises:
        ModelError: it has a part that the graph has no operator for.
    """
    known = config.to_dict()
    network = network_of(str(known["model_type"]))
    sizes = dimensions(network, known)
    layers = sizes["layers"]
    kinds = known.get("layer_types") or [_SLIDING if known.get("sliding_window") else _FULL] * layers
    if unknown := sorted(set(kinds) - {_FULL, _SLIDING}):
        raise _refused(config, f"its layer type {unknown[0]!r} is not supported")
    window = known.get("sliding_window")
    activation = next(
        value
        for key in ("hidden_activation", "hidden_act", "activation_function")
        if (value := known.get(key))
    )
    if activation not in _ACTIVATIONS:
        raise _refused(config, f"its activation {activation!r} is not supported")
    tables = _rotary_tables(config, network, sizes, kinds) if network.positions == "rotary" else {}
    attended = known.get("query_pre_attn_scalar") or sizes["head_size"]
    return Layout(
        network=network,
        config=known,
        sizes=sizes,
        activation=_ACTIVATIONS[activation],
        epsilon=float(_first(known, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")),
        scale=float(attended) ** -0.5 if known.get("scale_attn_weights", True) else 1.0,
        deeper_weaker=bool(known.get("scale_attn_by_inverse_layer_idx")),
        softcap=float(known.get("attn_logit_softcapping") or 0),
        final_softcap=float(known.get("final_logit_softcapping") or 0),
        embedding_scale=sizes["hidden"] ** 0.5 if network.scales_words else 1.0,
        windows=tuple(window if kind == _SLIDING else None for kind in kinds),
        rotaries=tuple(
            (kind if kind in tables else "") if tables and turned else None
            for kind, turned in zip(kinds, known.get("no_rope_layers") or [1] * layers, strict=True)
        ),
        tables=tables,
        parallel=network.parallel is not None and bool({**network.defaults, **known}[network.parallel]),
        tied=bool({**network.defaults, **known}["tie_word_embeddings"]),
    )


def _first(known: Config, *keys: str) -> Any:
    return next(known[key] for key in keys if key in known)


def _rotary_tables(
    config: Any, network: Network, sizes: Mapping[str, int], kinds: list[str]
) -> dict[str, Rotary]:
    """Return one table for all layers, named "", or one per layer type."""
    said = config.rope_parameters
    by_kind = {kind: said[kind] for kind in sorted(set(kinds))} if _FULL in said else {"": said}
    return {kind: _rotary(config, kind or None, rope, sizes) for kind, rope in by_kind.items()}


def _rotary(config: Any, kind: str | None, rope: Mapping[str, Any], sizes: Mapping[str, int]) -> Rotary:
    """Compute the tables of rotary positions (Su et al. 2021), scaled variants as in transformers."""
    head_size = sizes["head_size"]
    rotated = int(head_size * rope.get("partial_rotary_factor", 1.0))
    if rotated % _ROTARY_MULTIPLE or head_size % (_ROTARY_MULTIPLE // 2):
        raise _refused(
            config, f"it rotates {rotated} of {head_size} dimensions of a head; expected a multiple of 16"
        )
    how = rope.get("rope_type", "default")
    if how == "default":
        frequencies = float(rope["rope_theta"]) ** (-np.arange(0, rotated, 2, dtype=np.float32) / rotated)
        factor = 1.0
    elif how in ("linear", "llama3", "yarn"):
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        given = {} if kind is None else {"layer_type": kind}
        made, factor = ROPE_INIT_FUNCTIONS[how](config, "cpu", **given)
        frequencies = made.numpy()
    else:
        raise _refused(config, f"its rotary positions of type {how!r} change with the length of the text")
    angles = np.outer(np.arange(sizes["positions"], dtype=np.float32), frequencies.astype(np.float32))
    return Rotary((np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32))


def _refused(config: Any, why: str) -> ModelError:
    return ModelError(f"this {config.model_type} cannot be lowered to ONNX: {why}", code="family-unsupported")
