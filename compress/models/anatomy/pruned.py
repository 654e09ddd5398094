"""Encoders that lose parts: the parameters of a part, and updating the config afterwards."""

from __future__ import annotations

from torch import nn

from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import Layer, encoder_of
from compress.models.anatomy.factors import input_linear, output_linear
from compress.models.anatomy.sizes import config_keys


def block_sizes(layer: Layer) -> tuple[int, int]:
    """Number of parameters removed with one head of a layer, and with one feed-forward unit."""
    projections = [output_linear(linear) for linear in (layer.query, layer.key, layer.value)]
    head = sum(linear.weight.shape[1] + (linear.bias is not None) for linear in projections)
    head += input_linear(layer.attention_output).weight.shape[0]
    feed_in = output_linear(layer.feed_in)
    unit = feed_in.weight.shape[1] + (feed_in.bias is not None) + input_linear(layer.feed_out).weight.shape[0]
    return head * layer.head_size, unit


def update_config(model: nn.Module) -> None:
    """Update the config of a pruned model with the sizes that a config can express.

    These are a feed-forward width that all layers share, and a hidden size that equals heads times head size in
    every layer. Other entries are left unchanged.
    """
    config, keys, layers = transformer_of(model).config, config_keys(model), encoder_of(model).layers
    widths = {layer.feed_forward for layer in layers}
    if len(widths) == 1:
        setattr(config, keys["feed_forward"], widths.pop())
    hidden, heads = encoder_of(model).hidden_size, {layer.heads for layer in layers}
    projected, embedding = encoder_of(model).projection is not None, keys.get("embedding")
    if projected and embedding is not None and getattr(config, embedding) == hidden:
        # With these widths in its config, transformers would build a model without the projection.
        return
    if {count * layers[0].head_size for count in heads} == {hidden}:
        old = getattr(config, keys["hidden"])
        setattr(config, keys["hidden"], hidden)
        setattr(config, keys["heads"], heads.pop())
        if embedding is not None and getattr(config, embedding) == old and not projected:
            setattr(config, embedding, hidden)
