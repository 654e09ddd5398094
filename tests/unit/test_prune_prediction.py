"""The closed forms of pruning, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ModelError, PassError
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.pruned import block_sizes
from compress.models.anatomy.table.families import FAMILIES, families_supporting
from compress.models.io.checkpoints import count_parameters, save_model
from compress.passes.prune.choosing.importance import (
    LayerScores,
    channels_of_heads,
    head_scores,
    least_important,
    sum_of_scores,
)
from compress.passes.prune.choosing.prediction import (
    LayerSizes,
    ModelSizes,
    kept_count,
    kept_width,
    layer_sizes,
    pruned_parameters,
    read_sizes,
)
from compress.passes.prune.spec import RemoveSpec
from tests.tiny import tiny_bert
from tests.tiny_families import tiny_model

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 11, "num_attention_heads": 4}


def test_one_layer_by_hand():
    layer = LayerSizes(hidden=8, heads=4, head_size=2, feed_forward=16)
    # A head: 2 rows of 8 weights and a bias in each of q, k, v; 2 columns of 8 in the output map.
    assert layer.head_parameters == 3 * (2 * 8 + 2) + 2 * 8 == 70
    # A unit: a row of 8 and its bias, a column of 8.
    assert layer.unit_parameters == 17
    sizes = ModelSizes(parameters=1000, layers=(layer, layer))
    left = pruned_parameters(sizes, RemoveSpec(heads=0.25, feed_forward=0.5), round_to=1)
    assert left == 1000 - 2 * (70 + 8 * 17)


@pytest.mark.parametrize(
    ("heads", "fraction", "kept"),
    [(12, 0.5, 6), (4, 0.9, 1), (12, 0.1, 11), (1, 0.0, 1), (5, 0.5, 3), (2, 0.99, 1)],
)
def test_kept_count(heads: int, fraction: float, kept: int):
    assert kept_count(heads, fraction, "heads") == kept


@pytest.mark.parametrize(
    ("width", "fraction", "round_to", "kept"),
    [
        (512, 0.25, 8, 384),
        (100, 0.25, 8, 72),
        (100, 0.25, 1, 75),
        (64, 0.0, 24, 64),
        (64, 0.9, 8, 8),
        (64, 0.9, 1, 6),
    ],
)
def test_kept_width(width: int, fraction: float, round_to: int, kept: int):
    assert kept_width(width, fraction, round_to) == kept


@given(
    width=st.integers(1, 4096), fraction=st.floats(0.001, 0.999), round_to=st.sampled_from([1, 4, 8, 16, 32])
)
def test_the_kept_width_is_a_smaller_multiple_near_what_was_asked(width: int, fraction: float, round_to: int):
    try:
        kept = kept_width(width, fraction, round_to)
    except PassError:
        return
    assert 0 < kept < width
    assert kept % round_to == 0
    assert abs(kept - width * (1 - fraction)) <= round_to / 2 + 1e-6


def test_fractions_that_remove_nothing_are_refused():
    with pytest.raises(PassError, match="less than one head"):
        kept_count(1, 0.9, "heads")
    with pytest.raises(PassError, match="nothing would be removed"):
        kept_width(64, 0.01, 8)
    with pytest.raises(PassError, match="nothing would be left"):
        kept_width(64, 0.99, 8)


def test_layers_are_ordered_by_number():
    shapes = {}
    for number in (10, 2, 0):
        name = f"bert.encoder.layer.{number}"
        shapes[f"{name}.attention.self.query.weight"] = (8, 16)
        shapes[f"{name}.attention.output.dense.weight"] = (16, 8)
        shapes[f"{name}.intermediate.dense.weight"] = (number + 1, 16)
        shapes[f"{name}.output.dense.weight"] = (16, number + 1)
    assert [layer.feed_forward for layer in layer_sizes(shapes, BERT)] == [1, 3, 11]
    assert layer_sizes(shapes, BERT)[0] == LayerSizes(hidden=16, heads=2, head_size=4, feed_forward=1)


def test_factors_that_lose_rows_and_columns_are_found():
    name = "bert.encoder.layer.0"
    shapes = {
        f"{name}.attention.self.query.first.weight": (6, 16),
        f"{name}.attention.self.query.second.weight": (8, 6),
        f"{name}.attention.output.dense.first.weight": (5, 8),
        f"{name}.attention.output.dense.second.weight": (16, 5),
        f"{name}.intermediate.dense.weight": (32, 16),
        f"{name}.output.dense.first.weight": (4, 32),
        f"{name}.output.dense.second.weight": (16, 4),
    }
    (layer,) = layer_sizes(shapes, BERT)
    assert (layer.heads, layer.feed_forward, layer.hidden) == (2, 32, 16)
    assert layer.head_parameters == 4 * (3 * (6 + 1) + 5)
    assert layer.unit_parameters == 16 + 1 + 4


def test_sizes_are_read_from_the_files(tmp_path: Path):
    model = tiny_bert()
    save_model(model, tmp_path)
    layer = LayerSizes(hidden=32, heads=4, head_size=8, feed_forward=64)
    assert read_sizes(tmp_path) == ModelSizes(count_parameters(model), (layer, layer))
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="cannot read"):
        read_sizes(tmp_path)


@pytest.mark.parametrize("kind", families_supporting("take apart"))
@pytest.mark.parametrize("biased", [True, False])
def test_heads_and_units_of_every_family_weigh_what_they_do_in_the_model(
    tmp_path: Path, kind: str, biased: bool
):
    images = FAMILIES[kind].modality == "images"
    model = tiny_model(kind, **({"qkv_bias": biased} if images else {}))
    save_model(model, tmp_path)
    found = read_sizes(tmp_path)
    assert found.parameters == count_parameters(model)
    layers = encoder_of(model).layers
    assert [(each.head_parameters, each.unit_parameters) for each in found.layers] == [
        block_sizes(layer) for layer in layers
    ]
    assert [(each.heads, each.feed_forward) for each in found.layers] == [
        (layer.heads, layer.feed_forward) for layer in layers
    ]


def test_head_scores_are_means_of_channels():
    assert head_scores(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2).tolist() == [2.0, 5.0]


def test_least_important_takes_the_first_of_equal_scores():
    assert least_important(torch.tensor([2.0, 1.0, 1.0, 0.5, 1.0]), 3) == (1, 2, 3)
    assert least_important(torch.tensor([2.0, 1.0]), 0) == ()


def test_channels_of_heads():
    assert channels_of_heads([0, 2], 3) == [0, 1, 2, 6, 7, 8]


def test_scores_are_summed_by_layer():
    def scores(value: float) -> list[LayerScores]:
        return [LayerScores(torch.tensor([value]), torch.tensor([value, 2 * value]))]

    (total,) = sum_of_scores([scores(1.0), scores(3.0)])
    assert (total.heads.tolist(), total.feed_forward.tolist()) == ([4.0], [4.0, 8.0])
