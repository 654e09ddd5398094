"""A model that runs on rounded numbers: ranges by hand, folded norms, and nothing of it left afterwards."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from compress.training.checkpointing import weights_of
from compress.training.rounding.integers import fake_quantize_weights
from compress.training.rounding.operations import Operation
from compress.training.rounding.rounded_model import (
    FakeQuantizedActivation,
    FakeQuantizedModel,
    FakeQuantizedWeight,
    folding_factors,
)
from compress.training.rounding.substitution import run_with_weights

EIGHT = partial(fake_quantize_weights, per_channel=True, limit=127)


class Small(nn.Module):
    """A convolution with its norm, or a linear map, of a batch that is called `x`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


def linear(weight: list[list[float]]) -> Small:
    made = nn.Linear(len(weight[0]), len(weight), bias=False)
    made.weight = nn.Parameter(torch.tensor(weight))
    return Small(made)


def ranges(rounded: FakeQuantizedModel) -> list[float]:
    buffers = dict(rounded.named_buffers())
    return [float(buffers["ranges.0.low"]), float(buffers["ranges.0.high"])]


def test_weights_and_inputs_are_rounded_and_learn() -> None:
    model = linear([[1.27, -0.634]])
    rounded = FakeQuantizedModel(
        model,
        [FakeQuantizedWeight(("inner.weight",), EIGHT)],
        [FakeQuantizedActivation("inner", running_range=False)],
    )
    given = rounded(x=torch.tensor([[2.55, 1.004]]))
    assert given.item() == pytest.approx(1.27 * 2.55 - 0.63 * 1.0, rel=1e-6)
    torch.autograd.backward(given.sum())
    gradient = model.get_parameter("inner.weight").grad
    assert gradient is not None
    assert gradient.tolist() == [pytest.approx([2.55, 1.0])]


class Twice(nn.Module):
    """One map under two names, and a second one with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.same = nn.Linear(2, 2, bias=False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.tied(self.same(self.one(x)))
        return result


def test_what_stands_under_several_names_is_replaced_in_all_and_put_back() -> None:
    model, other = Twice(), torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    weight = model.one.weight
    for name in ("one.weight", "same.weight", "tied.weight"):
        for _ in range(2):
            assert run_with_weights(model, {name: other}, {"x": torch.tensor([[1.0, 3.0]])}).tolist() == [
                [12.0, 2.0]
            ]
    assert all(part.weight is weight for part in (model.one, model.same, model.tied))


def test_a_running_range_is_observed_then_follows_the_batches_of_training() -> None:
    rounded = FakeQuantizedModel(linear([[1.0]]), [], [FakeQuantizedActivation("inner", running_range=True)])
    rounded.calibrate({"x": torch.tensor([[value]])} for value in (0.5, -1.0, 2.0))
    assert ranges(rounded) == [-1, 2]
    rounded.eval()
    rounded(x=torch.tensor([[9.0]]))
    assert ranges(rounded) == [-1, 2]
    rounded.train()
    rounded(x=torch.tensor([[3.0], [0.0]]))
    assert ranges(rounded) == pytest.approx([-0.9, 2.1])
    rounded.calibrate([{"x": torch.tensor([[0.25]])}])
    assert ranges(rounded) == [0, 0.25]


def test_ranges_are_kept_with_the_weights() -> None:
    rounded = FakeQuantizedModel(linear([[1.0]]), [], [FakeQuantizedActivation("inner", running_range=True)])
    assert set(weights_of(rounded)) == {"model.inner.weight", "ranges.0.low", "ranges.0.high"}


@pytest.mark.parametrize(
    ("symmetric", "seen", "expected"),
    [
        (False, [-1.0, 2.0], 3 / 255),
        (True, [-1.0, 2.0], 4 / 255),
        (True, [0.0, 2.0], 2 / 255),
    ],
)
def test_symmetric_ranges_hold_both_signs_alike(symmetric: bool, seen: list[float], expected: float) -> None:
    rounded = FakeQuantizedModel(
        linear([[1.0]]), [], [FakeQuantizedActivation("inner", running_range=True, symmetric=symmetric)]
    )
    rounded.calibrate([{"x": torch.tensor(seen)[:, None]}])
    # Half a step is the furthest that a value can lie from its integer.
    values = torch.linspace(*seen, 1000)[:, None]
    furthest = float((rounded.eval()(x=values) - values).detach().abs().max())
    assert 0.9 * expected / 2 < furthest < 1.01 * expected / 2 + expected / 2 * symmetric


def test_only_the_tokens_that_the_file_computes_count_for_a_range() -> None:
    rounded = FakeQuantizedModel(
        linear([[1.0]]), [], [FakeQuantizedActivation("inner", running_range=True, tokens=(0,))]
    )
    rounded.calibrate([{"x": torch.tensor([[[1.0], [50.0]], [[-2.0], [70.0]]])}])
    assert ranges(rounded) == [-2, 1]


def test_a_norm_is_folded_in_before_rounding_and_keeps_its_statistics() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution, norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)
        for tensor in (norm.weight, norm.running_mean, norm.running_var):
            assert tensor is not None
            nn.init.uniform_(tensor, 0.5, 1.5)
        images = torch.randn(3, 2, 5, 5)
    with torch.no_grad():
        norm.weight[2] = 0  # an output that the norm leaves out
    model = Small(nn.Sequential(convolution, norm)).train()
    rounded = FakeQuantizedModel(model, [FakeQuantizedWeight(("inner.0.weight",), EIGHT, norm)], []).train()
    factors = folding_factors(norm).view(-1, 1, 1, 1)
    (kernel,) = fake_quantize_weights([convolution.weight * factors], per_channel=True, limit=127)
    mine = rounded.quantized_weights()["inner.0.weight"] * factors
    assert torch.allclose(mine, kernel, rtol=1e-6, atol=0)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    given = rounded(x=images)
    bias = norm.bias - norm.running_mean * factors.flatten()  # type: ignore[operator]
    assert torch.allclose(given, nn.functional.conv2d(images, kernel, bias), atol=1e-5)
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())
    torch.autograd.backward(given.square().sum())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())  # type: ignore[union-attr]


def test_nothing_is_left_of_it() -> None:
    model = linear([[1.27, -0.634]])
    rounded = FakeQuantizedModel(
        model,
        [FakeQuantizedWeight(("inner.weight",), EIGHT)],
        [
            FakeQuantizedActivation("inner", running_range=False),
            FakeQuantizedActivation(Operation("linear", 0), running_range=True),
        ],
    )
    assert rounded.release() is model
    given = model(x=torch.tensor([[2.55, 1.004]]))
    assert given.item() == pytest.approx(1.27 * 2.55 - 0.634 * 1.004, rel=1e-6)


class Sums(nn.Module):
    """Two sums, of which the second reads the first."""

    def forward(self, x: Tensor) -> Tensor:
        first = x + x
        return first + 1


def test_what_an_operation_makes_is_rounded_where_it_is_made() -> None:
    rounded = FakeQuantizedModel(
        Sums(), [], [FakeQuantizedActivation(Operation("add", 0), running_range=True)]
    )
    rounded.calibrate([{"x": torch.tensor([[-0.5, 0.775]])}])
    assert ranges(rounded) == pytest.approx([-1, 1.55])
    # 2.55 / 255 = 0.01
    given = rounded.eval()(x=torch.tensor([[0.1234, 7.0]]))
    assert given.tolist() == [pytest.approx([1.25, 2.55], abs=1e-6)]
    # The next pass counts its operations anew.
    assert torch.equal(rounded(x=torch.tensor([[0.1234, 7.0]])), given)
