"""Losses of the image generator: student and teacher disagree, and the teacher sees realistic statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.models.anatomy.observing import removing_hooks


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of two outputs (n, classes), a scalar.

    Fang et al., Data-Free Adversarial Distillation, 2019 (arXiv:1912.11006), equation 3.
    """
    return (student.float() - teacher.float()).abs().mean()


def imbalance(outputs: Tensor) -> Tensor:
    """Return how unbalanced the predicted classes of a batch are; 0 if all are equally frequent.

    log(classes) minus the entropy of the mean probabilities of outputs (n, classes): the information entropy
    loss of Chen et al., Data-Free Learning of Student Networks, 2019 (arXiv:1904.01186).
    """
    mean = outputs.float().softmax(dim=1).mean(dim=0)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
    return torch.log(torch.tensor(float(len(mean)), device=mean.device)) - entropy


def statistics_distance(mean: Tensor, variance: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """Return the distance of batch from running BatchNorm statistics: a scalar from four vectors (channels,).

    The squared distance of the means and of the standard deviations, in units of the running variance, so that
    every layer has the same weight whatever its scale. Yin et al., Dreaming to Distill, 2020
    (arXiv:1912.08795), compare means and variances by their norms.
    """
    scale = running_var.float().clamp_min(1e-5)
    means = (mean.float() - running_mean.float()).square() / scale
    spreads = (variance.float().clamp_min(1e-12).sqrt() - scale.sqrt()).square() / scale
    return (means + spreads).mean()


@contextmanager
def batch_statistics(teacher: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that returns the BatchNorm statistics distance of the last batch, differentiable.

    Hooks the BatchNorms of a teacher in eval mode; the distance is the mean over its layers, 0 if it has none.
    """
    distances: list[Tensor] = []

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            batch = inputs[0].float()
            axes = [axis for axis in range(batch.dim()) if axis != 1]
            variance, mean = torch.var_mean(batch, dim=axes, correction=0)
            running = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            distances.append(statistics_distance(mean, variance, *running))

    def distance() -> Tensor:
        mean = torch.stack(distances).mean() if distances else torch.zeros(())
        distances.clear()
        return mean

    norms = [module for module in teacher.modules() if isinstance(module, _BatchNorm)]
    with removing_hooks(
        norm.register_forward_pre_hook(note) for norm in norms if norm.running_mean is not None
    ):
        yield distance
