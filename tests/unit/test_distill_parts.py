"""The parts of a distillation: the moving average, who is trusted, mutual learning, which head learns from whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from compress.core.errors import PassError
from compress.core.terminal.progress import SilentProgress
from compress.encoding.subset import InputSubset
from compress.encoding.tokens import TokenInputs
from compress.losses.contract import LossSpec
from compress.losses.labels.spec import LabelsLoss
from compress.losses.logits.spec import LogitsLoss
from compress.passes.distill.selection import trusted_mask
from compress.passes.distill.teaching import augment_pixels
from compress.profile.specs.examples import AugmentSpec
from compress.profile.specs.teaching import SelectSpec
from compress.profile.specs.training import TrainingSpec
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss, mutual_loss
from compress.training.objective.training_module import TrainingModule, update_average
from compress.training.objective.weighted_losses import Objective, build_objective
from compress.training.optimization import adamw
from compress.training.signals.answers import from_model, no_signals
from compress.training.signals.averaging import MeanOfTeachers
from compress.training.signals.capture import anatomy_of


def test_an_average_follows_by_its_decay_and_copies_whole_numbers() -> None:
    student, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        student.weight.copy_(torch.tensor([3.0, 5.0]))
        average.weight.copy_(torch.tensor([1.0, 1.0]))
        student.running_mean.copy_(torch.tensor([10.0, 0.0]))  # type: ignore[union-attr]
    student.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    update_average(average, student, 0.75)
    torch.testing.assert_close(average.weight.detach(), torch.tensor([1.5, 2.0]))
    torch.testing.assert_close(average.running_mean, torch.tensor([2.5, 0.0]))
    assert average.num_batches_tracked == 7


def test_an_average_follows_tied_weights_once() -> None:
    student, average = (
        nn.ModuleList([nn.Embedding(3, 2), nn.Linear(2, 3, bias=False), nn.Linear(2, 2)]) for _ in range(2)
    )
    for model, value in ((student, 1.0), (average, 0.0)):
        model[1].weight = model[0].weight
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)
    update_average(average, student, 0.9)
    for parameter in average.parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 0.1))


def test_trusted_by_confidence_and_by_being_right() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.05, 0.95]], np.float32))
    labels = np.array([0, 0, 0, -1])
    assert trusted_mask(logits, labels, SelectSpec(confidence=0.7)).tolist() == [True, False, True, True]
    assert trusted_mask(logits, labels, SelectSpec(right=True)).tolist() == [True, True, False, True]
    assert trusted_mask(logits, labels, SelectSpec(confidence=0.7, right=True)).tolist() == [
        True,
        False,
        False,
        True,
    ]
    with pytest.raises(PassError, match=r"^select: only 1 of 4 examples are selected") as caught:
        trusted_mask(logits, labels, SelectSpec(confidence=0.94))
    assert "the teacher's median is 0.850" in str(caught.value.hint)


@given(st.integers(2, 30), st.integers(2, 6), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_trusted_does_not_depend_on_what_is_added_to_all_logits(
    count: int, classes: int, confidence: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    powers = np.exp(logits.astype(np.float64))
    expected = (powers / powers.sum(1, keepdims=True)).max(1)
    clear = np.abs(expected - confidence) > 1e-5
    try:
        found = trusted_mask(logits + 100, np.full(count, -1), SelectSpec(confidence=confidence))
    except PassError:
        assert (expected >= confidence - 1e-5).sum() < 2 or not clear.all()
        return
    assert (found == (expected >= confidence))[clear].all()


def test_mutual_loss_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.5]]))
    student = torch.log(torch.tensor([[0.8, 0.2]]))
    # Cross-entropy of the label 0, and KL(student || teacher), which the teacher lessens.
    divergence = 0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5)
    expected = -np.log(0.5) + 3.0 * divergence
    assert float(mutual_loss(teacher, student, torch.tensor([0]), 3.0)) == pytest.approx(expected, rel=1e-5)


def test_a_subset_batches_the_examples_it_chose() -> None:
    ids = [np.arange(2, 2 + length) for length in (3, 1, 2, 4)]
    whole = TokenInputs(ids, ("input_ids", "attention_mask"), 0)
    subset = InputSubset(whole, np.array([3, 1]))
    assert subset.lengths.tolist() == [4, 1]
    np.testing.assert_array_equal(subset.batch([1, 0])["input_ids"], whole.batch([1, 3])["input_ids"])
    assert subset.digest() != InputSubset(whole, np.array([1, 3])).digest()
    assert subset.digest() != whole.digest()


def tiny_deit() -> DeiTForImageClassificationWithTeacher:
    torch.manual_seed(0)
    return DeiTForImageClassificationWithTeacher(
        DeiTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
        )
    )


class Fixed:
    """A teacher that gives the same outputs for every example."""

    def __call__(self, indices: np.ndarray, shown: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:  # type: ignore[type-arg]
        return {"outputs": torch.tensor([[0.0, 5.0, 0.0]]).repeat(len(indices), 1)}


def objective_of(model: nn.Module, batch: dict[str, torch.Tensor], *losses: LossSpec) -> Objective:
    anatomy = anatomy_of(model, batch)
    return build_objective(losses, anatomy, anatomy, seed=0, student_model=model)


@pytest.mark.parametrize(
    ("loss", "learns", "rests"),
    [
        (LogitsLoss(), "distillation_classifier", "cls_classifier"),
        (LabelsLoss(), "cls_classifier", "distillation_classifier"),
    ],
    ids=["teacher", "labels"],
)
def test_the_distillation_token_learns_from_the_teacher_and_the_class_token_from_the_labels(
    loss: LossSpec, learns: str, rests: str
) -> None:
    model, batch = tiny_deit(), {"pixel_values": torch.rand(4, 1, 8, 8)}
    module = TrainingModule(model, objective_of(model, batch, loss)).train()
    outputs = module(**batch).logits
    loss_of_batch = batch_loss(module, Fixed(), np.array([0, 1, 2, 0]))
    loss_of_batch(outputs, batch, torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    assert model.get_submodule(learns).weight.grad.abs().max() > 0  # type: ignore[union-attr]
    untouched = model.get_submodule(rests).weight.grad
    assert untouched is None or untouched.abs().max() == 0  # type: ignore[union-attr]


def test_the_labels_of_blended_images_are_not_used() -> None:
    model, batch = tiny_deit(), {"pixel_values": torch.rand(4, 1, 8, 8)}
    for blended in (False, True):
        module = TrainingModule(
            model, objective_of(model, batch, LabelsLoss()), augment=lambda given, b=blended: (given, not b)
        ).train()
        outputs = module(**batch).logits
        value = batch_loss(module, no_signals, np.array([0, 1, 2, 0]))(outputs, batch, torch.arange(4))
        assert (float(value.detach()) == 0) is blended


def test_pixels_change_by_the_spec_and_say_whether_their_labels_hold() -> None:
    images = torch.rand(6, 1, 8, 8)
    torch.manual_seed(0)
    moved, hold = augment_pixels({"pixel_values": images}, AugmentSpec(crop=0.25))
    assert hold
    assert not torch.equal(moved["pixel_values"], images)
    blended, hold = augment_pixels({"pixel_values": images}, AugmentSpec(crop=0, mixup=0.999))
    assert not hold
    assert not torch.equal(blended["pixel_values"], images)
    same, hold = augment_pixels({"pixel_values": images}, AugmentSpec(crop=0))
    assert hold
    assert torch.equal(same["pixel_values"], images)


def test_a_module_in_eval_mode_is_its_student_alone() -> None:
    model, batch = tiny_deit(), {"pixel_values": torch.rand(2, 1, 8, 8)}
    module = TrainingModule(
        model,
        objective_of(model, batch, LogitsLoss()),
        decay=0.5,
        augment=lambda given: pytest.fail("changed"),
    )
    module.eval()
    torch.testing.assert_close(module(**batch).logits, model(**batch).logits)
    with pytest.raises(PassError, match="taken before it was run"):
        module.take()


def test_live_teachers_are_averaged_by_their_share() -> None:
    batch = {"pixel_values": torch.rand(3, 1, 8, 8)}
    models = [tiny_deit().eval(), tiny_deit().eval()]
    with torch.no_grad():
        models[1].cls_classifier.bias.add_(4.0)
        expected = 0.75 * models[0](**batch).logits + 0.25 * models[1](**batch).logits
    both = MeanOfTeachers(models, (3.0, 1.0), "logits")
    found = from_model(both, frozenset({"outputs"}), "cpu")(np.arange(3), batch)["outputs"]
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


class Tiny(nn.Module):
    """Two linear maps in a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(input_ids[:, :1].float()))
        return result


def test_a_slow_part_has_its_own_rate() -> None:
    model, spec = Tiny(), TrainingSpec(learning_rate=0.1)
    groups = adamw(model, spec, (model.second, 0.01)).param_groups
    factor = {id(parameter): group["factor"] for group in groups for parameter in group["params"]}
    assert [factor[id(parameter)] for parameter in model.first.parameters()] == [1.0, 1.0]
    assert [factor[id(parameter)] for parameter in model.second.parameters()] == [0.01, 0.01]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_kept_are_the_best_or_the_last(tmp_path: Path, keep: str) -> None:
    inputs = TokenInputs([np.array([value]) for value in range(8)], ("input_ids",), 0)
    scores = iter([0.5, 0.9, 0.1])
    seen: list[torch.Tensor] = []
    model = Tiny()

    def validate(current: nn.Module) -> float:
        seen.append(current.second.weight.detach().clone())  # type: ignore[union-attr, operator]
        return next(scores)

    train(
        model,
        inputs,
        lambda outputs, batch, indices: outputs.square().mean(),
        TrainingSpec(epochs=3, batch_size=4, learning_rate=0.1, warmup=0),
        validate,
        work=tmp_path,
        seed=0,
        precision="fp32",
        device="cpu",
        progress=SilentProgress(),
        name="train",
        keep=keep,  # type: ignore[arg-type]
    )
    assert not torch.equal(seen[1], seen[2])
    torch.testing.assert_close(model.second.weight.detach(), seen[1 if keep == "best" else 2])
