from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.training.data_free.adversary import (
    batch_statistics,
    disagreement,
    imbalance,
    statistics_distance,
)
from compress.training.data_free.generator import NOISE_SIZE, Generator


def test_the_disagreement_is_the_mean_absolute_difference():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    assert disagreement(student, teacher).item() == pytest.approx((1 + 2 + 0 + 2) / 4)
    assert disagreement(teacher, teacher).item() == 0


def test_classes_that_are_equally_frequent_are_not_imbalanced():
    assert imbalance(torch.eye(3) * 50).item() == pytest.approx(0, abs=1e-6)


def test_the_imbalance_of_one_class_alone_is_the_logarithm_of_their_number():
    outputs = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * 5)
    assert imbalance(outputs).item() == pytest.approx(np.log(4), abs=1e-5)


def test_the_imbalance_is_that_of_the_mean_probabilities():
    outputs = np.array([[0.3, -1.0, 2.0], [1.0, 1.0, -2.0]])
    mean = (np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)).mean(0)
    expected = np.log(3) + (mean * np.log(mean)).sum()
    assert imbalance(torch.tensor(outputs)).item() == pytest.approx(expected, abs=1e-6)


def test_the_distance_counts_each_channel_in_units_of_its_trained_variance():
    distance = statistics_distance(
        torch.tensor([1.0, 0.0]), torch.tensor([4.0, 9.0]), torch.tensor([0.0, 0.0]), torch.tensor([4.0, 1.0])
    )
    # Channel one: (1 - 0)^2 / 4 and no difference in spread; channel two: (3 - 1)^2 / 1.
    assert distance.item() == pytest.approx((0.25 + 4) / 2)


def test_a_batch_like_the_training_data_has_no_distance_and_another_has():
    norm = nn.BatchNorm2d(3)
    batch = torch.randn(64, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    flat = batch.transpose(0, 1).reshape(3, -1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(flat.mean(1))
    norm.running_var.copy_(flat.var(1, correction=0))
    teacher = nn.Sequential(norm).eval()
    with batch_statistics(teacher) as distance_of:
        teacher(batch)
        assert distance_of().item() == pytest.approx(0, abs=1e-6)
        moved = (batch + 1).requires_grad_()
        teacher(moved)
        distance = distance_of()
        distance.backward()
        assert distance.item() > 0.5
        assert moved.grad is not None
        assert moved.grad.abs().sum() > 0
    assert not norm._forward_pre_hooks


def test_only_the_last_batch_counts_and_none_without_gradients():
    teacher = nn.Sequential(nn.BatchNorm2d(1)).eval()
    with batch_statistics(teacher) as distance_of:
        with torch.no_grad():
            teacher(torch.full((4, 1, 2, 2), 7.0))
        assert distance_of().item() == 0
        teacher(torch.full((4, 1, 2, 2), 2.0))
        # Mean 2 and no spread against mean 0 and spread 1.
        assert distance_of().item() == pytest.approx(4 + 1, rel=1e-3)
        assert distance_of().item() == 0


def test_a_teacher_without_batch_norms_has_no_distance():
    teacher = nn.Conv2d(1, 2, 3)
    with batch_statistics(teacher) as distance_of:
        teacher(torch.zeros(1, 1, 5, 5))
        assert distance_of().item() == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (3, 32, 32), (1, 5, 3)])
def test_images_have_the_shape_and_range_of_the_models_inputs(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    channels = shape[0]
    generator = Generator(shape, mean=[0.25] * channels, std=[0.5] * channels)
    images = generator(10 * torch.randn(6, NOISE_SIZE))
    assert images.shape == (6, *shape)
    assert images.min() >= -0.25 / 0.5
    assert images.max() <= 0.75 / 0.5
    assert images.std() > 0


def test_each_channel_is_normalised_with_its_own_mean_and_std():
    torch.manual_seed(0)
    mean, std = [0.1, 0.5, 0.9], [0.5, 1.0, 2.0]
    plain, normalised = Generator((3, 8, 8), [0.0] * 3, [1.0] * 3), Generator((3, 8, 8), mean, std)
    normalised.load_state_dict({**plain.state_dict(), "mean": normalised.mean, "std": normalised.std})
    noise = torch.randn(2, NOISE_SIZE)
    pixels = plain.eval()(noise).detach().numpy()
    expected = (pixels - np.array(mean).reshape(1, 3, 1, 1)) / np.array(std).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(normalised.eval()(noise).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
