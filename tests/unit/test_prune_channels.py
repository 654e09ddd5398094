"""Removing channels: what goes together, what was predicted, and what the rest still computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, ConvNextConfig, MobileNetV2Config, ResNetConfig

from compress.core.errors import ModelError, PassError
from compress.models.anatomy.structure import apply_structure, describe_structure
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.io.outputs import outputs_of
from compress.passes.prune.choosing.prediction import kept_channels, predicted
from compress.passes.prune.choosing.saliency import ImportanceData
from compress.passes.prune.choosing.selection import removal_schedule
from compress.passes.prune.removing.channels import (
    ChannelGroup,
    ChannelSurgeon,
    choose_cuts,
    kept_widths,
    widths_within,
)
from compress.passes.prune.removing.removal import pruner_of
from compress.passes.prune.spec import PruneSpec, PruneTargetSpec, RemoveSpec
from tests.pruning import prune
from tests.tiny_vision import image_task, images, tiny_network, write_image_artifact

PIXELS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def spec(**changes: Any) -> PruneSpec:
    values = {"remove": {"channels": 0.5}, "importance_batches": 2, "recover": None, "round_to": 4}
    return PruneSpec.model_validate({**values, **changes})


def outputs(model: nn.Module, pixels: Tensor = PIXELS) -> Tensor:
    with torch.inference_mode():
        return outputs_of(model.eval()(pixel_values=pixels))


@pytest.mark.parametrize(
    ("width", "fraction", "multiple", "kept"),
    [(32, 0.5, 8, 16), (12, 0.5, 8, 8), (8, 0.5, 8, 8), (4, 0.5, 8, 4), (24, 0.9, 4, 4), (16, 0.1, 8, 16)],
)
def test_kept_channels(width: int, fraction: float, multiple: int, kept: int) -> None:
    assert kept_channels(width, fraction, multiple) == kept


@given(width=st.integers(1, 512), fraction=st.floats(0.01, 0.99), multiple=st.sampled_from([1, 2, 8, 24]))
def test_kept_channels_are_a_multiple_or_all(width: int, fraction: float, multiple: int) -> None:
    kept = kept_channels(width, fraction, multiple)
    assert 0 < kept <= width
    assert kept == width or (kept % multiple == 0 and kept >= multiple)


def test_a_pattern_is_repeated_in_every_group_of_channels() -> None:
    group = ChannelGroup(nn.Conv2d(1, 1, 1), "grouped", 12, 3)
    assert group.channels([1, 3]) == [1, 3, 5, 7, 9, 11]
    (cut,) = choose_cuts([group], [torch.tensor([9.0, 0, 9, 9, 9, 9, 1, 9, 9, 0, 0, 9])], [9])
    # Means over the repeats: (9 + 9 + 9) / 3, (0 + 9 + 0) / 3, (9 + 1 + 0) / 3, 9: the second place goes.
    assert cut.channels == (1, 5, 9)


def test_the_groups_of_a_network(tmp_path: Path) -> None:
    surgeon = ChannelSurgeon(tiny_network(tmp_path), {"pixel_values": PIXELS})
    # The stem, the residual sum, the depthwise and the grouped convolution's inputs are one group.
    found = sorted((group.width, group.repeats) for group in surgeon.groups)
    assert found == [(16, 1), (16, 2), (16, 2), (24, 1)]


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "random"])
def test_a_pruned_network_is_the_original_with_the_removed_channels_zeroed(
    importance: str, tmp_path: Path
) -> None:
    model = tiny_network(tmp_path / "code")
    folder = write_image_artifact(tmp_path / "artifact", model).path
    examples = images(80)
    inputs = image_task().encode(examples, folder)
    zeroed, original = copy.deepcopy(model), copy.deepcopy(model)
    surgeon = ChannelSurgeon(zeroed, {"pixel_values": PIXELS})
    facts, predicted = prune(
        model, inputs, torch.from_numpy(examples.labels), spec(importance=importance), 0, "cpu"
    )
    assert count_parameters(model) == predicted < count_parameters(original)
    lost = {layer["name"]: lost_channels(original, model, layer["name"]) for layer in facts}
    assert [len(lost[layer["name"]]) for layer in facts] == [layer["channels_removed"] for layer in facts]
    with torch.no_grad():
        for group in surgeon.groups:
            for part, channels in surgeon._group(group, lost[group.name]):
                module = part.target.module
                if surgeon.graph.is_out_channel_pruning_fn(part.handler) and isinstance(
                    module, nn.Conv2d | nn.BatchNorm2d
                ):
                    module.weight[channels] = 0
                    if module.bias is not None:
                        module.bias[channels] = 0
    assert torch.allclose(outputs(model), outputs(zeroed), atol=1e-5)
    assert not torch.allclose(outputs(model), outputs(original), atol=1e-3)


def lost_channels(before: nn.Module, after: nn.Module, name: str) -> list[int]:
    """Channels of a convolution that are gone, told by its bias, or by that of the norm behind it."""

    def marks(model: nn.Module) -> list[float]:
        bias = model.get_submodule(name).bias
        if bias is None:
            bias = model.get_submodule(NORMS[name.removeprefix("module.")]).bias
        assert isinstance(bias, Tensor)
        return [float(value) for value in bias.detach()]

    left = set(marks(after))
    return [index for index, value in enumerate(marks(before)) if value not in left]


NORMS = {
    "stem": "module.stem_norm",
    "block.first": "module.block.first_norm",
    "block.second": "module.block.second_norm",
    "depthwise": "module.depthwise_norm",
}


@settings(max_examples=6, deadline=None)
@given(
    fraction=st.sampled_from([0.25, 0.5, 0.75]),
    round_to=st.sampled_from([1, 2, 8]),
    kind=st.sampled_from(["basic", "bottleneck", "convnext", "mobilenet"]),
)
def test_the_parameter_count_is_what_was_predicted(fraction: float, round_to: int, kind: str) -> None:
    config: Any = {
        "basic": lambda: ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic"
        ),
        "bottleneck": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[32, 64], depths=[1, 1]),
        "convnext": lambda: ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
        "mobilenet": lambda: MobileNetV2Config(depth_multiplier=0.1, min_depth=8, image_size=32),
    }[kind]()
    model = AutoModelForImageClassification.from_config(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    shape = outputs(model, pixels).shape
    surgeon = ChannelSurgeon(model, {"pixel_values": pixels})
    scores = surgeon.scores(tp.importance.GroupMagnitudeImportance())
    refused = None
    try:
        cuts = choose_cuts(surgeon.groups, scores, kept_widths(surgeon.groups, fraction, round_to))
    except ModelError as error:
        refused = error
    if refused is not None:
        # Narrow layers may keep all of their channels once the rest is rounded: that is refused, and said.
        assert refused.code == "nothing-to-prune"
        assert round_to > 1
        return
    before, predicted = count_parameters(model), surgeon.count_remaining(cuts)
    surgeon.remove(cuts)
    assert count_parameters(model) == predicted < before
    assert outputs(model, pixels).shape == shape


def test_channels_that_do_nothing_go_first(tmp_path: Path) -> None:
    model = tiny_network(tmp_path / "code")
    dead = [1, 2, 4, 7, 8, 11, 13, 14, 16, 18, 21, 23]
    point, hidden = model.get_submodule("module.point"), model.get_submodule("module.hidden")
    assert isinstance(point, nn.Conv2d)
    assert isinstance(point.bias, Tensor)
    assert isinstance(hidden, nn.Linear)
    with torch.no_grad():
        point.weight[dead] *= 5  # large weights that lead nowhere
        point.bias.copy_(2 + torch.arange(24) / 100)  # so that every channel is alive
        hidden.weight.view(32, 24, 16)[:, dead] = 0
    examples = images(80)
    folder = write_image_artifact(tmp_path / "artifact", model).path
    inputs = image_task().encode(examples, folder)
    prune(model, inputs, torch.from_numpy(examples.labels), spec(), 0, "cpu")
    left = [round(100 * (float(value) - 2)) for value in point.bias.detach()]
    assert left == [channel for channel in range(24) if channel not in dead]


def test_a_pruned_network_is_described_and_rebuilt_bit_by_bit(tmp_path: Path) -> None:
    model = tiny_network(tmp_path / "code")
    examples = images(40)
    folder = write_image_artifact(tmp_path / "artifact", model).path
    inputs = image_task().encode(examples, folder)
    prune(model, inputs, torch.from_numpy(examples.labels), spec(), 0, "cpu")
    regular = tiny_network(tmp_path / "code", seed=5)
    structure = describe_structure(model, regular)
    assert structure is not None
    assert structure["shapes"]["module.stem_norm.running_mean"] == [8]
    assert structure["attributes"]["module.depthwise"]["groups"] == 8
    apply_structure(regular, structure, "here")
    for name, module in model.named_modules():
        for count in ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features"):
            assert getattr(regular.get_submodule(name), count, None) == getattr(module, count, None), name
    save_model(model, tmp_path / "saved")
    assert torch.equal(outputs(load_model(tmp_path / "saved", allow_code=True)), outputs(model))


@pytest.mark.parametrize(
    "structure",
    [
        {"shapes": {"module.stem.weight": [8, 1, 3]}, "attributes": {}},
        {"shapes": {"module.stem.nothing": [8]}, "attributes": {}},
        {"shapes": {}, "attributes": {"module.stem": {"groups": 0}}},
        {"shapes": {}, "attributes": {"module.stem": {"padding": 1}}},
    ],
)
def test_a_structure_that_does_not_fit_is_refused(structure: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="that fits the"):
        apply_structure(tiny_network(tmp_path), structure, "structure.json")


def test_the_output_layer_and_the_image_keep_their_channels() -> None:
    class Mapped(nn.Module):
        """A depthwise convolution of the image, and logits that are means of maps."""

        def __init__(self) -> None:
            super().__init__()
            self.blur = nn.Conv2d(3, 3, 3, groups=3)
            self.inner = nn.Conv2d(3, 16, 3)
            self.logits = nn.Conv2d(16, 10, 1)

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.logits(torch.relu(self.inner(self.blur(pixel_values)))).mean((2, 3))

    surgeon = ChannelSurgeon(Mapped().eval(), {"pixel_values": torch.randn(2, 3, 8, 8)})
    assert [group.name for group in surgeon.groups] == ["inner"]


def test_only_the_loaded_model_tells_what_channels_leave(tmp_path: Path) -> None:
    assert predicted(spec(remove=RemoveSpec(channels=0.5)), tmp_path) is None


def test_nothing_to_remove_is_refused() -> None:
    group = ChannelGroup(nn.Conv2d(1, 1, 1), "narrow", 8, 1)
    with pytest.raises(
        ModelError, match="with 8 channels, the rest rounded to a multiple of 8: nothing would"
    ) as caught:
        kept_widths([group], 0.5, 8)
    assert (caught.value.code, caught.value.where) == ("nothing-to-prune", "prune.remove.channels")
    assert caught.value.hint == "Raise the fraction, or lower `round_to`."


@pytest.mark.parametrize(
    ("steps", "stem", "point"),
    [(4, [12, 12, 12, 8], [20, 16, 16, 12]), (5, [16, 12, 12, 12, 8], [20, 16, 16, 16, 12])],
)
def test_a_step_that_rounding_leaves_nothing_to_cut_cuts_nothing(
    steps: int, stem: list[int], point: list[int], tmp_path: Path
) -> None:
    model = tiny_network(tmp_path / "code")
    examples = images(80)
    folder = write_image_artifact(tmp_path / "artifact", model).path
    material = ImportanceData(
        image_task().encode(examples, folder),
        torch.from_numpy(examples.labels),
        spec(steps=steps, recover={"epochs": 1}, importance="magnitude"),
        0,
        "cpu",
    )
    pruner = pruner_of(model, material)
    widths = []
    for share in removal_schedule(steps):
        pruner.advance(share)
        assert count_parameters(model) == pruner.parameters
        parameters = dict(model.named_parameters())
        widths.append(tuple(len(parameters[f"module.{name}.weight"]) for name in ("stem", "point")))
    assert widths == list(zip(stem, point, strict=True))
    left = {each["name"]: (each["channels"], each["channels_removed"]) for each in pruner.describe_layers()}
    assert left["module.point"] == (12, 12)
    assert sorted(left.values()) == [(8, 8), (8, 8), (8, 8), (12, 12)]
    assert outputs(model).shape == (3, 3)


def test_what_is_described_is_the_whole_against_the_present(tmp_path: Path) -> None:
    model = tiny_network(tmp_path / "code")
    examples = images(40)
    folder = write_image_artifact(tmp_path / "artifact", model).path
    inputs = image_task().encode(examples, folder)
    asked = spec(importance="magnitude", steps=5, recover={"epochs": 1})
    pruner = pruner_of(model, ImportanceData(inputs, torch.from_numpy(examples.labels), asked, 0, "cpu"))
    assert pruner.describe_layers() == []
    pruner.advance(0.4)
    (only,) = pruner.describe_layers()
    assert (only["channels"], only["channels_removed"]) == (20, 4)
    # Nothing more goes on the way to the same widths, and what has gone is still told.
    pruner.advance(0.45)
    assert pruner.describe_layers() == [only]


def test_pruning_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    examples = images(80)
    folder = write_image_artifact(tmp_path / "artifact", tiny_network(tmp_path / "code")).path
    inputs, labels = image_task().encode(examples, folder), torch.from_numpy(examples.labels)
    made = []
    for seed in (3, 3, 4):
        model = tiny_network(tmp_path / "code")
        prune(model, inputs, labels, spec(importance="random"), seed, "cpu")
        made.append(np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()]))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


@pytest.mark.parametrize("target", [{"ratio": 0.5}, {"ratio": 0.2}, {"size_mb": 0.02}])
def test_a_target_is_reached_by_the_smallest_share_that_reaches_it(
    target: dict[str, float], tmp_path: Path
) -> None:
    model = tiny_network(tmp_path)
    whole = count_parameters(model)
    limit = whole * (1 - target["ratio"]) if "ratio" in target else target["size_mb"] * 1e6 / 4
    surgeon = ChannelSurgeon(model, {"pixel_values": PIXELS})
    kept = widths_within(surgeon, PruneTargetSpec.model_validate(target), 4)

    def parameters(widths: list[int]) -> int:
        zeros = [torch.zeros(group.width) for group in surgeon.groups]
        return surgeon.count_remaining(choose_cuts(surgeon.groups, zeros, widths))

    assert parameters(kept) <= limit
    # Every smaller share of the channels leaves too many parameters, or the same ones.
    for percent in range(1, 100):
        try:
            less = kept_widths(surgeon.groups, percent / 100, 4)
        except ModelError:
            continue
        if sum(less) > sum(kept):
            assert parameters(less) > limit


def test_a_network_pruned_for_a_ratio_has_what_was_predicted(tmp_path: Path) -> None:
    model = tiny_network(tmp_path / "code")
    folder = write_image_artifact(tmp_path / "artifact", model).path
    examples = images(80)
    inputs, labels = image_task().encode(examples, folder), torch.from_numpy(examples.labels)
    whole = count_parameters(model)
    _, predicted = prune(model, inputs, labels, spec(remove=None, target={"ratio": 0.4}), 0, "cpu")
    assert count_parameters(model) == predicted <= 0.6 * whole
    assert outputs(model).shape[0] == 3


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"ratio": 0.99}, "0.99 fewer parameters cannot be reached: with the fewest channels "),
        ({"size_mb": 5}, "a size of 5 MB: the model is already within that, so nothing would be removed"),
    ],
)
def test_a_target_that_cannot_be(target: dict[str, float], message: str, tmp_path: Path) -> None:
    surgeon = ChannelSurgeon(tiny_network(tmp_path), {"pixel_values": PIXELS})
    with pytest.raises(PassError, match=message) as caught:
        widths_within(surgeon, PruneTargetSpec.model_validate(target), 4)
    assert caught.value.where == f"prune.target.{next(iter(target))}"
