"""What the generator is trained for: images on which student and teacher disagree, and that the teacher takes for
real ones."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two outputs (n, classes), a scalar.

    Fang et al., Data-Free Adversarial Distillation, 2019 (arXiv:1912.11006), equation 3.
    """
    return (student.float() - teacher.float()).abs().mean()


def imbalance(outputs: Tensor) -> Tensor:
    """How far the classes of a batch are from equally frequent: log(classes) minus the entropy of the mean
    probabilities of outputs (n, classes); 0 where all are as frequent.

    The information entropy loss of Chen et al., Data-Free Learning of Student Networks, 2019 (arXiv:1904.01186).
    """
    mean = outputs.float().softmax(dim=1).mean(dim=0)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
    return torch.log(torch.tensor(float(len(mean)), device=mean.device)) - entropy


def statistics_distance(mean: Tensor, variance: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """How unlike the training data a batch is to one BatchNorm: a scalar from four vectors (channels,).

    The squared distance of the means and of the standard deviations, in units of the trained variance, so that every
    layer counts alike whatever its scale. Yin et al., Dreaming to Distill, 2020 (arXiv:1912.08795), compare means
    and variances by their norms.
    """
    scale = running_var.float().clamp_min(1e-5)
    means = (mean.float() - running_mean.float()).square() / scale
    spreads = (variance.float().clamp_min(1e-12).sqrt() - scale.sqrt()).square() / scale
    return (means + spreads).mean()


class BatchStatistics:
    """Watches the BatchNorms of a teacher in eval mode: `distance()` of the batch that went through it last, the mean
    over its layers; 0 for a teacher that has none.

    Use it as a context; its hooks are gone afterwards.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.norms = [
            module
            for module in teacher.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        self._distances: list[Tensor] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> BatchStatistics:
        self._hooks = [norm.register_forward_pre_hook(self._note) for norm in self.norms]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._distances.clear()

    def distance(self) -> Tensor:
        """The mean distance of the last batch, with its gradient; what was noted is let go."""
        noted, self._distances = self._distances, []
        return torch.stack(noted).mean() if noted else torch.zeros(())

    def _note(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not torch.is_grad_enabled():
            return
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        batch = inputs[0].float()
        axes = [axis for axis in range(batch.dim()) if axis != 1]
        variance, mean = torch.var_mean(batch, dim=axes, correction=0)
        self._distances.append(statistics_distance(mean, variance, norm.running_mean, norm.running_var))
