from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.core.errors import PassError
from compress.core.terminal.progress import SilentProgress
from compress.losses.logits.spec import LogitsLoss
from compress.losses.table import LOSS_ENTRIES
from compress.passes.distill.spec import DistillSpec
from compress.profile.specs.examples import DataFreeSpec
from compress.training.checkpointing import copy_weights
from compress.training.data_free.images import train_data_free_images
from compress.training.state import TrainResult

MEAN, STD = 0.5, 0.25


class Brightest(nn.Module):
    """Tells which quarter of a picture is the brightest, whatever it was never shown."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(4 * width, 4),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        outputs: Tensor = self.body(pixel_values)
        return outputs


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=random)
    pixels = 0.6 * torch.rand(count, 1, 8, 8, generator=random)
    for picture, label in zip(pixels, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        picture[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.3
    return (pixels - MEAN) / STD, labels


def accuracy(model: nn.Module) -> float:
    pixels, labels = pictures(400, seed=1)
    model.eval()
    with torch.inference_mode():
        device = next(model.parameters()).device
        return float((model(pixel_values=pixels.to(device)).argmax(1).cpu() == labels).float().mean())


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    model, (pixels, labels) = Brightest(8), pictures(400, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixel_values=pixels), labels).backward()
        optimizer.step()
    assert accuracy(model) > 0.98
    return model


class Stopped(Exception):
    """The process dies here."""


class Setup:
    def __init__(self, work: Path, teacher: nn.Module, *, epochs: float = 2, **free: Any) -> None:
        self.work, self.teacher = work, teacher
        self.spec = DistillSpec(
            losses=(LOSS_ENTRIES.entry(LogitsLoss()),),
            data_free=DataFreeSpec(**{"examples": 320, **free}),
            epochs=epochs,
            batch_size=32,
            learning_rate=1e-2,
        )
        torch.manual_seed(5)
        self.student = Brightest(4)
        self.values: list[float] = []
        self.shown: list[Tensor] = []

    def run(self, stop_at: int | None = None, **options: Any) -> TrainResult:
        def loss(student: Tensor, goal: Tensor) -> Tensor:
            if len(self.values) == stop_at:
                raise Stopped
            value = (student.float() - goal.float()).square().mean()
            self.values.append(value.item())
            return value

        settings = {
            "precision": "fp32",
            "device": "cpu",
            "checkpoint_seconds": 0.0,
            "validate": accuracy,
            **options,
        }
        return train_data_free_images(
            self.student,
            self.teacher,
            shape=(1, 8, 8),
            mean=[MEAN],
            std=[STD],
            spec=self.spec,
            data_free=self.spec.data_free or DataFreeSpec(),
            loss=loss,
            work=self.work,
            seed=3,
            progress=SilentProgress(),
            name="data free",
            **settings,
        )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_student_learns_without_an_image(tmp_path: Path, teacher: nn.Module):
    setup = Setup(tmp_path, teacher, epochs=25)
    before = accuracy(setup.student)
    result = setup.run()
    assert before < 0.6
    assert result.best_score > 0.9
    assert accuracy(setup.student) == pytest.approx(result.best_score)
    assert result.steps == 250
    assert len(result.curve.points) == 25
    assert not setup.student.training


def test_the_teacher_is_left_as_it_was(tmp_path: Path, teacher: nn.Module):
    before = copy_weights(teacher)
    Setup(tmp_path, teacher).run()
    assert same(before, copy_weights(teacher))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_the_weights_of_the_best_score_are_kept(tmp_path: Path, teacher: nn.Module):
    scores = iter([0.3, 0.9, 0.5])
    kept: list[dict[str, Tensor]] = []

    def validate(model: nn.Module) -> float:
        kept.append(copy_weights(model))
        return next(scores)

    setup = Setup(tmp_path, teacher, epochs=3)
    result = setup.run(validate=validate)
    assert (result.best_score, result.best_step) == (0.9, 20)
    assert same(copy_weights(setup.student), kept[1])


@pytest.mark.parametrize("stop_at", [1, 7, 14])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(
    tmp_path: Path, teacher: nn.Module, stop_at: int, precision: str
):
    straight = Setup(tmp_path / "straight", teacher)
    expected = straight.run(precision=precision)
    killed = Setup(tmp_path / "killed", teacher)
    with pytest.raises(Stopped):
        killed.run(stop_at, precision=precision)
    torch.manual_seed(99)
    resumed = Setup(tmp_path / "killed", teacher)
    result = resumed.run(precision=precision)
    assert len(resumed.values) == len(straight.values) - stop_at
    assert resumed.values == straight.values[stop_at:]
    assert result.curve.points == expected.curve.points
    assert same(copy_weights(resumed.student), copy_weights(straight.student))


def test_a_finished_training_is_read_back(tmp_path: Path, teacher: nn.Module):
    first = Setup(tmp_path, teacher)
    expected = first.run()
    again = Setup(tmp_path, teacher)
    result = again.run()
    assert again.values == []
    assert result.curve.points == expected.curve.points
    assert same(copy_weights(first.student), copy_weights(again.student))


def test_it_stops_when_the_score_no_longer_rises(tmp_path: Path, teacher: nn.Module):
    scores = iter([0.5, 0.4, 0.6, 0.3, 0.2, 0.9])
    setup = Setup(tmp_path, teacher, epochs=6)
    setup.spec = setup.spec.model_copy(update={"patience": 2})
    result = setup.run(validate=lambda model: next(scores))
    assert (result.best_score, result.best_step, result.steps) == (0.6, 30, 50)
    again = Setup(tmp_path, teacher, epochs=6)
    again.spec = setup.spec
    assert again.run(validate=lambda model: 1.0).curve.points == result.curve.points


def test_another_spec_begins_anew(tmp_path: Path, teacher: nn.Module):
    Setup(tmp_path, teacher).run()
    other = Setup(tmp_path, teacher, generator_rate=0.01)
    other.run()
    assert len(other.values) == 20


def test_the_global_random_state_stays(tmp_path: Path, teacher: nn.Module):
    setup = Setup(tmp_path, teacher, epochs=0.2)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    setup.run()
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path, teacher: nn.Module):
    setup = Setup(tmp_path, teacher)
    with torch.no_grad():
        setup.student.body[0].weight.fill_(float("nan"))
    with pytest.raises(PassError, match=r"the loss is nan at step 1 of 20"):
        setup.run()


@pytest.mark.gpu
def test_a_gpu_goes_on_where_it_was_killed(tmp_path: Path, teacher: nn.Module):
    """Its random state is in the checkpoint; it sums in any order, so what it comes to is near."""
    setups = [Setup(tmp_path / name, copy.deepcopy(teacher)) for name in ("straight", "killed", "killed")]
    setups[0].run(device="cuda")
    with pytest.raises(Stopped):
        setups[1].run(stop_at=11, device="cuda")
    setups[2].run(device="cuda")
    for name, weight in copy_weights(setups[0].student).items():
        torch.testing.assert_close(copy_weights(setups[2].student)[name], weight, atol=2e-2, rtol=0)
