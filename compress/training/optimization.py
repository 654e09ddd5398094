"""The optimizer and the learning-rate schedule."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from compress.profile.specs.training import TrainingSpec


def adamw(model: nn.Module, spec: TrainingSpec, own_rate: tuple[nn.Module, float] | None = None) -> AdamW:
    """Build a fused AdamW optimizer; one-dimensional parameters (biases, norms) and embeddings get no weight decay.

    Embeddings have none so that the rows of tokens that no example contains stay exactly unchanged.
    Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2019 (arXiv:1711.05101).

    Args:
        own_rate: a submodule and the factor on its learning rate, stored as `factor` in each parameter group.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    own_rate_ids = set() if own_rate is None else {id(parameter) for parameter in own_rate[0].parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            no_decay = parameter.ndim < 2 or id(parameter) in embeddings
            factor = own_rate[1] if own_rate is not None and id(parameter) in own_rate_ids else 1.0
            groups.setdefault((0.0 if no_decay else spec.weight_decay, factor), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in sorted(
                groups.items(), key=lambda group: group[0], reverse=True
            )
        ],
        lr=spec.learning_rate,
        fused=True,
    )


def learning_rate(step: int, steps: int, spec: TrainingSpec) -> float:
    """Return the learning rate of step `step` of `steps`, counted from 0.

    Linear warmup to the peak over the first `warmup` fraction of the steps, then linear decay to 0 at `steps`.
    """
    warmup_steps = spec.warmup * steps
    factor = (
        (step + 1) / warmup_steps
        if step + 1 < warmup_steps
        else (steps - step) / max(steps - warmup_steps, 1)
    )
    return spec.learning_rate * min(factor, 1.0)
