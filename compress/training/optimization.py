"""The optimizer and its learning rate."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from compress.profile.training_spec import TrainingSpec


def adamw(model: nn.Module, spec: TrainingSpec) -> AdamW:
    """Fused AdamW; weights of one dimension (biases, norms) and embeddings have no weight decay.

    Embeddings have none so that the rows of tokens that no example holds stay exactly as they were.
    Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2019 (arXiv:1711.05101).
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            free = parameter.ndim < 2 or id(parameter) in embeddings
            (plain if free else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=spec.learning_rate, fused=True)


def learning_rate(step: int, steps: int, spec: TrainingSpec) -> float:
    """The learning rate of step `step` of `steps`; the first is 0.

    It rises linearly to its peak over the first `warmup` of the steps and falls linearly to 0 after the last.
    """
    rising = spec.warmup * steps
    factor = (step + 1) / rising if step + 1 < rising else (steps - step) / max(steps - rising, 1)
    return spec.learning_rate * min(factor, 1.0)
