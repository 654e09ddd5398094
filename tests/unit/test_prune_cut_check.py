"""Channel cuts are checked on a copy: groups that would break are left whole, and the rest computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import ModelError
from compress.lowering.files import save_onnx
from compress.lowering.step import lower
from compress.models.io.checkpoints import count_parameters
from compress.models.io.outputs import outputs_of
from compress.passes.prune.choosing.prediction import kept_channels
from compress.passes.prune.choosing.saliency import ImportanceData
from compress.passes.prune.removing.channels import ChannelSurgeon, choose_cuts, copy_model, multiple_of
from compress.passes.prune.removing.cut_check import check_cuts, safe_cuts
from compress.passes.prune.removing.removal import ChannelPruner
from compress.passes.prune.spec import PruneSpec
from compress.runtimes.runner import open_session
from tests.tiny_vision import image_task, images, tiny_network, write_image_artifact

PIXELS = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
WIDTH = 16


class Block(nn.Module):
    """A part of a network on 16 channels: its forward, and its modules."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Network(nn.Module):
    """A stem, parts, a last convolution and a head."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.stem = unit(3, WIDTH, 2)
        self.parts = nn.Sequential(*parts)
        self.last = nn.LazyConv2d(32, 3, padding=1)
        self.head = nn.Linear(32, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.parts(self.stem(pixel_values))
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Norm2d(nn.LayerNorm):
    """LayerNorm over the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Frozen(nn.Module):
    """A norm whose numbers are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.scale, Tensor)
        return x * self.scale.view(1, -1, 1, 1)


class Scaled(nn.Module):
    """A factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def conv(wide: int = WIDTH, out: int = WIDTH, size: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(wide, out, size, padding=size // 2, **more)


def unit(wide: int = WIDTH, out: int = WIDTH, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU())


def tied() -> nn.Module:
    first, second = conv(), conv()
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def mixed(part: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    seen = tokens + part.a(tokens, tokens, tokens, need_weights=False)[0]
    return seen.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])


def attended(part: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).flatten(2) for layer in (part.q, part.k, part.v))
    weights = (q.transpose(1, 2) @ k).softmax(-1)
    return x + (v @ weights.transpose(1, 2)).reshape(x.shape)


def squeezed(part: Any, x: Tensor) -> Tensor:
    weights = torch.sigmoid(part.up(F.relu(part.down(x.mean((2, 3))))))
    return x * weights[:, :, None, None]


def reshaped(x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    y = x.reshape(n, 2, 8, h, w)
    return (y * torch.sigmoid(y.mean(2, keepdim=True))).reshape(n, WIDTH, h, w)


CUT: dict[str, Callable[[], nn.Module]] = {
    "units": lambda: nn.Sequential(unit(), unit()),
    "residual": lambda: Block(lambda p, x: F.relu(x + p.b(p.a(x))), a=unit(), b=conv()),
    "dense": lambda: Block(lambda p, x: torch.cat([x, p.a(x)], 1), a=unit()),
    "branches": lambda: Block(
        lambda p, x: torch.cat([p.a(x), p.b(x)], 1) + p.c(x), a=unit(WIDTH, 8), b=unit(WIDTH, 8), c=conv(size=1)
    ),
    "squeeze": lambda: Block(squeezed, down=nn.Linear(WIDTH, 4), up=nn.Linear(4, WIDTH)),
    "depthwise": lambda: nn.Sequential(conv(groups=WIDTH), conv(size=1)),
    "grouped": lambda: conv(groups=4),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), nn.ReLU()),
    "instance_norm": lambda: nn.InstanceNorm2d(WIDTH, affine=True),
    "group_norm": lambda: nn.GroupNorm(4, WIDTH),
    "layer_norm": lambda: Norm2d(WIDTH),
    "prelu": lambda: nn.PReLU(WIDTH),
    "scaled": Scaled,
    "called_twice": lambda: Block(lambda p, x: F.relu(p.a(F.relu(p.a(x)))), a=conv()),
    "grown": lambda: Block(lambda p, x: F.interpolate(p.a(x), size=x.shape[-2:]), a=unit(WIDTH, WIDTH, 2)),
}  # fmt: skip
"""Parts whose stem loses channels."""

WHOLE: dict[str, Callable[[], nn.Module]] = {
    "frozen": Frozen,
    "halves": lambda: Block(lambda p, x: torch.cat([x[:, :8], p.a(x[:, 8:])], 1), a=unit(8, 8)),
    "split": lambda: Block(lambda p, x: torch.cat([p.a(x.split([8, 8], 1)[0]), x[:, 8:]], 1), a=unit(8, 8)),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(conv()),
    "old_weight_norm": lambda: nn.utils.weight_norm(conv()),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(conv()),
    "unshuffle": lambda: nn.PixelUnshuffle(2),
    "reshape": lambda: Block(lambda p, x: reshaped(x)),
    "tied": tied,
    "grouped_transposed": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2, groups=4),
    "tracking_instance_norm": lambda: nn.InstanceNorm2d(WIDTH, track_running_stats=True),
    "attention": lambda: Block(mixed, a=nn.MultiheadAttention(WIDTH, 4, batch_first=True)),
    "convolved_attention": lambda: Block(attended, q=conv(WIDTH, 8, 1), k=conv(WIDTH, 8, 1), v=conv(size=1)),
    "normalized": lambda: Block(lambda p, x: F.normalize(x, dim=1)),
}  # fmt: skip
"""Parts whose stem stays whole."""

INNER: dict[str, Callable[[], nn.Module]] = {
    "shuffle": lambda: nn.Sequential(
        conv(groups=2), Block(lambda _, x: shuffled(x)), conv(groups=WIDTH), conv(size=1)
    ),
    "glu": lambda: Block(lambda p, x: F.glu(p.a(x), 1), a=conv(WIDTH, 32)),
    "pixel_shuffle": lambda: Block(lambda p, x: F.pixel_shuffle(p.a(x), 2), a=conv(WIDTH, 64)),
}
"""Parts whose own convolution stays whole."""

PARTS = {**CUT, **WHOLE, **INNER}


def network(*names: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Network(*(PARTS[name]() for name in names))
        made(**PIXELS)
        return made.eval()


def cut_by_half(model: nn.Module, seed: int = 0) -> tuple[nn.Module, dict[str, str]]:
    """The model with half of what can go gone, checked; and what was left whole."""
    surgeon = ChannelSurgeon(model, PIXELS)
    drawn = torch.Generator().manual_seed(seed)
    scores = [torch.rand(group.width, generator=drawn) for group in surgeon.groups]
    kept = [kept_channels(group.width, 0.5, multiple_of(group, 2)) for group in surgeon.groups]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tried = safe_cuts(model, PIXELS, choose_cuts(surgeon.groups, scores, kept))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    narrow = copy_model(model)
    own = ChannelSurgeon(narrow, PIXELS)
    own.remove(own.map_cuts(tried.cuts))
    assert count_parameters(narrow) == tried.parameters
    assert outputs_of(narrow(**PIXELS)).shape == (2, 3)
    left = {**surgeon.unprunable, **tried.unprunable}
    assert {cut.group.name for cut in tried.cuts}.isdisjoint(left)
    return narrow, left


@pytest.mark.parametrize("name", CUT)
def test_usual_parts_lose_channels(name: str) -> None:
    narrow, left = cut_by_half(network(name))
    assert left == {}
    assert isinstance(stem := narrow.get_submodule("stem.0"), nn.Conv2d)
    assert stem.out_channels == 8


@pytest.mark.parametrize("name", WHOLE)
def test_parts_that_break_leave_what_they_read_whole_and_the_rest_is_cut(name: str) -> None:
    narrow, left = cut_by_half(network(name))
    assert isinstance(stem := narrow.get_submodule("stem.0"), nn.Conv2d)
    assert isinstance(last := narrow.get_submodule("last"), nn.Conv2d)
    assert (stem.out_channels, last.out_channels) == (WIDTH, 16)
    assert left
    assert all(left.values())


@pytest.mark.parametrize("name", INNER)
def test_a_part_that_breaks_alone_is_left_alone(name: str) -> None:
    narrow, left = cut_by_half(network(name))
    assert list(left) == ["parts.0.2" if name == "shuffle" else "parts.0.a"]
    assert isinstance(stem := narrow.get_submodule("stem.0"), nn.Conv2d)
    assert stem.out_channels == 8


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    names=st.lists(st.sampled_from(sorted({*CUT, *WHOLE} - {"unshuffle", "dense"})), min_size=2, max_size=3),
    seed=st.integers(0, 99),
)
def test_composed_networks_run_or_are_left_whole(names: list[str], seed: int) -> None:
    narrow, left = cut_by_half(network(*names, seed=seed), seed)
    assert isinstance(last := narrow.get_submodule("last"), nn.Conv2d)
    assert last.out_channels == 16
    if not any(name in WHOLE for name in names):
        assert left == {}


def test_a_scramble_that_still_runs_is_found() -> None:
    """Channels are dealt out by their places: any 8 of 16 run, and mean something else."""
    model = network("shuffle")
    (group,) = [group for group in ChannelSurgeon(model, PIXELS).groups if group.name == "parts.0.2"]
    cuts = choose_cuts([group], [torch.arange(16.0)], [8])
    narrow = copy_model(model)
    own = ChannelSurgeon(narrow, PIXELS)
    own.remove(own.map_cuts(cuts))
    assert outputs_of(narrow(**PIXELS)).shape == (2, 3)
    assert check_cuts(model, PIXELS, cuts)[1] is not None


def test_a_network_that_cannot_be_traced_is_refused_by_name() -> None:
    broken = Block(
        lambda p, pixel_values: p.a(pixel_values.detach()).detach(), a=nn.Sequential(unit(3), nn.Flatten())
    )
    with pytest.raises(ModelError) as caught:
        ChannelSurgeon(broken.eval(), {"pixel_values": PIXELS["pixel_values"]})
    assert (caught.value.code, caught.value.where) == ("untraceable", "prune")


def test_what_is_left_lowers_to_the_same(tmp_path: Path) -> None:
    names = ("residual", "squeeze", "grouped", "group_norm", "transposed", "reshape", "weight_norm")
    narrow, left = cut_by_half(network(*names))
    assert left
    task = {
        "task": "image-classification",
        "input_names": ["pixel_values"],
        "output_names": ["logits"],
        "image": {"size": [16, 16], "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    graph, _ = lower(narrow, task)
    path = save_onnx(graph, tmp_path)
    got = open_session(str(path)).run(None, {"pixel_values": PIXELS["pixel_values"].numpy()})[0]
    with torch.no_grad():
        wanted = outputs_of(narrow(**PIXELS)).numpy()
    assert abs(got - wanted).max() < 1e-4 * abs(wanted).max()


def material(folder: Path, **changes: Any) -> ImportanceData:
    examples = images(40)
    artifact = write_image_artifact(folder / "artifact", tiny_network(folder / "code")).path
    values = {"remove": {"channels": 0.5}, "importance_batches": 1, "recover": None, "round_to": 4}
    spec = PruneSpec.model_validate({**values, **changes})
    return ImportanceData(
        image_task().encode(examples, artifact), torch.from_numpy(examples.labels), spec, 0, "cpu"
    )


@pytest.mark.parametrize("changes", [{}, {"remove": None, "target": {"ratio": 0.2}}])
def test_a_network_that_can_lose_nothing_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        ChannelPruner(tiny_network(tmp_path / "fixed", "fixed"), material(tmp_path, **changes))
    where = "prune.target" if changes else "prune.remove.channels"
    assert (caught.value.code, caught.value.where, caught.value.exit_code) == ("nothing-to-prune", where, 4)
    assert "stem" in caught.value.message


def test_no_cut_at_all_is_safe() -> None:
    model = network("units")
    assert safe_cuts(model, PIXELS, []).parameters == count_parameters(model)


def test_narrow_groups_are_named_too(tmp_path: Path) -> None:
    pruner = ChannelPruner(tiny_network(tmp_path / "n"), material(tmp_path, round_to=16))
    pruner.advance(1.0)
    assert sorted(pruner.unpruned_groups()) == [
        name for name in sorted(pruner.original_widths) if pruner.widths[name] == pruner.original_widths[name]
    ]
    assert len(pruner.unpruned_groups()) == 3
