"""prune: remove attention heads and feed-forward width by importance, then recover by training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor
from transformers import PreTrainedModel

from compress.artifacts import TASK, TOKENIZER
from compress.errors import PassError
from compress.forms import TORCH_FLOAT, Structure
from compress.models.checkpoints import count_parameters, load_model, save_model
from compress.models.families import Encoder, encoder_of, feed_forward_key
from compress.passes.prune.importance import LayerScores, least_important, sum_of_scores
from compress.passes.prune.prediction import kept_heads, kept_width, predicted_parameters
from compress.passes.prune.surgery import Surgeon
from compress.profile.pass_specs import PruneSpec
from compress.records import Curve
from compress.step import StepContext, StepResult
from compress.tasks.base import Inputs
from compress.training.batches import shuffled_batches, to_tensors
from compress.training.heal import recover
from compress.training.losses import label_cross_entropy
from compress.training.prediction import score

BATCH_SIZE = 32
"""Examples a batch that `taylor` reads."""


def run(ctx: StepContext) -> StepResult:
    """Prune every layer by the same fractions, check the promised size, recover, save and read back.

    Raises:
        PassError: a fraction removes nothing or everything, the parameters are not those predicted, or the
            saved model does not give the same outputs.
    """
    spec = ctx.spec
    assert isinstance(spec, PruneSpec)
    source = ctx.inputs["model"].path
    predicted = predicted_parameters(source, spec.remove, spec.round_to)
    model = load_model(source).to(ctx.device)
    before = count_parameters(model)
    inputs = ctx.task.encode(ctx.data.train, source)
    removed = prune(model, inputs, torch.from_numpy(ctx.data.train.labels), spec, ctx.seed, ctx.device)
    parameters = count_parameters(model)
    if parameters != predicted:
        raise PassError(f"{predicted} parameters were predicted, but {parameters} are left", where="prune")
    facts: dict[str, Any] = {
        "parameters": parameters,
        "parameters_predicted": predicted,
        "parameters_before": before,
        "importance": spec.importance,
        "layers": removed,
    }
    curves: tuple[Curve, ...] = ()
    if spec.recover is not None:
        facts["validation_score_before_recovery"] = _validation_score(ctx, model)
        result = recover(
            model,
            ctx.inputs.get("teacher"),
            ctx.task,
            ctx.data,
            spec.recover,
            tokenizer=source,
            work=ctx.work,
            seed=ctx.seed,
            precision=ctx.precision,
            device=ctx.device,
            progress=ctx.progress,
        )
        curves = (result.curve,)
    facts["validation_score"] = _validation_score(ctx, model)
    save_model(model.cpu(), ctx.out)
    for name in (TOKENIZER, TASK):
        shutil.copyfile(source / name, ctx.out / name)
    _check_saved(ctx, model, inputs)
    return StepResult(TORCH_FLOAT.with_(structure=Structure.PRUNED), facts, curves)


def prune(
    model: PreTrainedModel, inputs: Inputs, labels: Tensor, spec: PruneSpec, seed: int, device: str
) -> list[dict[str, Any]]:
    """Remove the least important heads and feed-forward units of every layer, in place.

    Args:
        inputs: the training examples, encoded for the model.
        labels: int64 (n,), theirs.

    Returns:
        for each layer what is left and what was removed: `heads`, `feed_forward`, `heads_removed` (indices) and
        `feed_forward_removed` (how many).
    """
    encoder = encoder_of(model)
    batches = shuffled_batches(inputs.lengths, BATCH_SIZE, seed=seed, epoch=0)
    surgeon = Surgeon(encoder, to_tensors(inputs.batch(batches[0][:2]), device))
    chosen = batches[: spec.importance_batches]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.importance == "taylor":
            scores = sum_of_scores(_taylor(surgeon, model, inputs, labels, chosen, device))
        elif spec.importance == "magnitude":
            scores = surgeon.scores(tp.importance.GroupMagnitudeImportance())
        else:
            scores = surgeon.scores(tp.importance.RandomImportance())
    removed = [
        _remove(surgeon, encoder, index, layer_scores, spec) for index, layer_scores in enumerate(scores)
    ]
    widths = {layer.feed_forward for layer in encoder.layers}
    if len(widths) == 1:
        # The config can say this, so the model stays as regular as it can be.
        setattr(model.config, feed_forward_key(model), widths.pop())
    return removed


def _remove(
    surgeon: Surgeon, encoder: Encoder, index: int, scores: LayerScores, spec: PruneSpec
) -> dict[str, Any]:
    layer = encoder.layers[index]
    lost_heads = layer.heads - kept_heads(layer.heads, spec.remove.heads)
    width = kept_width(layer.feed_forward, spec.remove.feed_forward, spec.round_to)
    heads = least_important(scores.heads, lost_heads)
    units = least_important(scores.feed_forward, layer.feed_forward - width)
    surgeon.remove(layer, heads, units)
    return {
        "heads": layer.heads,
        "feed_forward": layer.feed_forward,
        "heads_removed": list(heads),
        "feed_forward_removed": len(units),
    }


def _taylor(
    surgeon: Surgeon, model: PreTrainedModel, inputs: Inputs, labels: Tensor, batches: list[Any], device: str
) -> Iterator[list[LayerScores]]:
    """First-order Taylor scores, a batch at a time: how much the loss on the labels would change."""
    importance = tp.importance.GroupTaylorImportance()
    for indices in batches:
        model.zero_grad(set_to_none=True)
        outputs = model(**to_tensors(inputs.batch(indices), device)).logits
        loss = label_cross_entropy(outputs, labels[torch.from_numpy(indices)].to(device))
        torch.autograd.backward(loss)
        yield surgeon.scores(importance)
    model.zero_grad(set_to_none=True)


def _validation_score(ctx: StepContext, model: PreTrainedModel) -> float:
    examples = ctx.data.validation
    inputs = ctx.task.encode(examples, ctx.inputs["model"].path)
    return score(model, inputs, examples.labels, ctx.task, precision=ctx.precision, device=ctx.device)


def _check_saved(ctx: StepContext, model: PreTrainedModel, inputs: Inputs) -> None:
    """What was saved gives the same outputs, bit for bit."""
    batch = to_tensors(inputs.batch(range(min(len(inputs), 4))), "cpu")
    with torch.inference_mode():
        expected, found = model.eval()(**batch).logits, load_model(ctx.out)(**batch).logits
    if not torch.equal(expected, found):
        difference = float((expected - found).abs().max())
        raise PassError(
            f"the saved model gives other outputs: they differ by {difference:.2g}", where="prune"
        )
