"""prune: remove the least important parts, at once or in steps, then recover by training."""

from __future__ import annotations

import copy
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.core.artifacts import TASK, copy_interface
from compress.core.disk.files import write_json
from compress.core.disk.reading import read_mapping
from compress.core.records import Curve
from compress.core.units import FLOAT_BYTES, megabytes
from compress.encoding.inputs import Inputs
from compress.models.anatomy.encoder import encoder_of, word_embeddings_of
from compress.models.io.checkpoints import count_parameters, load_for_labels, load_model, save_model
from compress.models.text.sentence import SentenceEncoder
from compress.models.text.vocabulary import trim_embeddings
from compress.passes.prune.choosing.budget import Budget
from compress.passes.prune.choosing.prediction import predicted
from compress.passes.prune.choosing.saliency import BATCH_SIZE, ImportanceData
from compress.passes.prune.choosing.selection import removal_schedule
from compress.passes.prune.choosing.targets import (
    Timing,
    latency_budget,
    parameter_budget,
    time_after,
    time_before,
)
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.passes.prune.removing.removal import (
    ChannelPruner,
    Pruner,
    check_request,
    describe_unprunable,
    pruner_of,
    takes_channels,
)
from compress.passes.prune.spec import PruneSpec
from compress.profile.specs.examples import VocabularySpec
from compress.step import StepContext, StepResult
from compress.training.prediction import LM_BATCH_SIZE
from compress.training.recovery import check_parameter_count, check_saved, recover
from compress.training.trimming import training_tokens, write_tokenizer
from compress.training.validation import Validation


def run(ctx: StepContext) -> StepResult:
    """Prune, check the predicted size, recover, save and verify the saved model.

    Raises:
        PassError: a fraction removes nothing or everything, a target cannot be reached, the number of parameters is not
            the predicted one, or the saved model does not give the same outputs.
        ModelError: the model does not have what is to be removed.
    """
    spec, source = ctx.spec_as(PruneSpec), ctx.inputs["model"]
    model = load_model(source.path, allow_code=ctx.allow_code).to(ctx.device)
    check_request(model, spec)
    expected_parameters = predicted(spec, source.path)
    facts: dict[str, Any] = {"parameters_before": count_parameters(model), "importance": spec.importance}
    with ExitStack() as stack:
        interface = _trimmed_interface(ctx, spec, model, facts, stack)
        inputs = ctx.task.encode(ctx.data.train, interface)
        validation = Validation.of(ctx, interface, ctx.inputs.get("teacher", ctx.inputs["model"]))
        labels = None if ctx.task.kind.label_loss is None else torch.from_numpy(ctx.data.train.labels)
        timing, budget = _budget(ctx, spec, model, interface, stack)
        pruner = pruner_of(model, _importance_data(ctx, spec, inputs, labels), budget)
        if isinstance(pruner, ChannelPruner) and pruner.unprunable:
            ctx.progress.say(f"prune: left whole: {describe_unprunable(pruner.unprunable)}")
        original = copy.deepcopy(model) if spec.reconstruct else None
        curves: list[Curve] = []
        steps = removal_schedule(spec.steps)
        for number, share in enumerate(steps, start=1):
            parameters_before = pruner.parameters
            pruner.advance(share)
            check_parameter_count(model, pruner.parameters, "prune")
            last = number == len(steps)
            if pruner.parameters == parameters_before and not last:
                continue  # widths are rounded: nothing was removed, so there is nothing to recover from
            if original is not None and isinstance(pruner, DecoderPruner):
                ctx.progress.say("prune: refitting the outputs of the feed-forward parts")
                facts["reconstructed"] = pruner.reconstruct(original)
            if spec.recover is not None:
                if last:
                    facts["validation_score_before_recovery"] = validation.score(model)
                recovery = spec.recover
                if not last:
                    recovery = recovery.model_copy(update={"epochs": recovery.epochs / (spec.steps - 1)})
                name = "recover" if last else f"recover-{number}"
                curves.append(recover(ctx, model, recovery, interface, validation, name))
        if expected_parameters is not None:
            check_parameter_count(model, expected_parameters, "prune")
        facts |= {
            "parameters": count_parameters(model),
            "parameters_predicted": pruner.parameters if expected_parameters is None else expected_parameters,
            "layers": pruner.describe_layers(),
            "validation_score": validation.score(model),
        }
        model.cpu()
        facts |= _target_facts(facts["parameters"], ctx, spec, model, budget, timing, interface)
        facts |= _remaining_facts(pruner)
        save_model(model, ctx.out)
        copy_interface(interface, ctx.out)
    _write_width(model, ctx.out)
    check_saved(model, ctx.out, inputs, "prune")
    return StepResult(spec.produces(source.form), facts, tuple(curves))


def try_untrained(ctx: StepContext) -> None:
    """Check on the architecture alone, before anything is trained, whether it can be pruned as requested.

    Args:
        ctx: context of the step; its `model` may be untrained, or an encoder whose head is yet to be trained.

    Raises:
        ModelError: the model does not have what is to be removed, or cannot lose it.
        PassError: a fraction removes nothing, or a target is not reached.
    """
    spec, source, code = ctx.spec_as(PruneSpec), ctx.inputs["model"], ctx.allow_code
    if ctx.task.kind.head == "classifier":
        model = load_for_labels(source.path, ctx.data.labels, ctx.seed, allow_code=code)
    else:
        model = load_model(source.path, allow_code=code)
    model.to(ctx.device)
    check_request(model, spec)
    if ctx.task.kind.generates or takes_channels(model, spec):
        few = ctx.data.train.take(np.arange(min(len(ctx.data.train), BATCH_SIZE)))
        pruner_of(model, _importance_data(ctx, spec, ctx.task.encode(few, source.path), None))


def _importance_data(
    ctx: StepContext, spec: PruneSpec, inputs: Inputs, labels: Tensor | None
) -> ImportanceData:
    size = LM_BATCH_SIZE if ctx.task.kind.generates else BATCH_SIZE
    return ImportanceData(inputs, labels, spec, ctx.seed, ctx.device, size)


def _trimmed_interface(
    ctx: StepContext, spec: PruneSpec, model: nn.Module, facts: dict[str, Any], stack: ExitStack
) -> Path:
    """Return the folder that describes the model's inputs: its own, or a temporary one with a trimmed vocabulary.

    In the latter case the embedding rows are removed from the model.
    """
    source = ctx.inputs["model"].path
    if spec.remove is None or spec.remove.vocabulary == "keep":
        return source
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compress-vocabulary-")))
    labels = tuple(read_mapping(source / TASK)["labels"])
    vocabulary = write_tokenizer(source, folder, VocabularySpec(), training_tokens(ctx, source), labels)
    assert vocabulary is not None
    parameters_before, (rows, width) = count_parameters(model), word_embeddings_of(model).weight.shape
    trim_embeddings(model, vocabulary.table, vocabulary.kept_ids)
    check_parameter_count(model, parameters_before - (rows - len(vocabulary.kept_ids)) * width, "prune")
    facts["vocabulary"] = {
        "tokens": len(vocabulary.kept_ids),
        "tokens_removed": rows - len(vocabulary.kept_ids),
    }
    return folder


def _budget(
    ctx: StepContext, spec: PruneSpec, model: nn.Module, interface: Path, stack: ExitStack
) -> tuple[Timing | None, Budget | None]:
    """Return the timing and the budget of the pruned model if the spec has a target."""
    if spec.target is None:
        return None, None
    if not spec.target.depends_on_timing:
        return None, None if takes_channels(model, spec) else parameter_budget(model, spec.target)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compress-latency-")))
    timing = time_before(ctx, model, interface, folder)
    return timing, latency_budget(timing, encoder_of(model), spec.target)


def _target_facts(
    parameters: int,
    ctx: StepContext,
    spec: PruneSpec,
    model: nn.Module,
    budget: Budget | None,
    timing: Timing | None,
    interface: Path,
) -> dict[str, Any]:
    """Return the prediction of a target next to its measurement; empty without a target."""
    if spec.target is None:
        return {}
    requested = spec.target.model_dump(exclude_none=True)
    if timing is None or budget is None:
        return {"target": {**requested, "weights_mb": megabytes(FLOAT_BYTES * parameters)}}
    predicted = budget.predicted([(layer.heads, layer.feed_forward) for layer in encoder_of(model).layers])
    measured = time_after(ctx, model, interface, timing)
    target = {
        **requested,
        "predicted_ms": predicted,
        "predicted_speedup": timing.before_ms / predicted,
        "measured_speedup": measured["before_ms"] / measured["measured_ms"],
        **measured,
    }
    return {"target": target}


def _remaining_facts(pruner: Pruner) -> dict[str, Any]:
    """Return the remaining layers and hidden size if reduced, or the channel groups that lost nothing, with reasons."""
    if isinstance(pruner, ChannelPruner):
        unpruned = pruner.unpruned_groups()
        return {"left_whole": unpruned} if unpruned else {}
    hidden, removed = pruner.width, pruner.hidden - pruner.width
    layers = {"layers_kept": pruner.layers} if len(pruner.layers) < len(pruner.original_sizes) else {}
    return {**layers, **({"hidden": {"width": hidden, "removed": removed}} if removed else {})}


def _write_width(model: nn.Module, out: Path) -> None:
    """Update the width of sentence embeddings to the remaining hidden size."""
    if isinstance(model, SentenceEncoder):
        task = read_mapping(out / TASK)
        write_json(out / TASK, {**task, "width": encoder_of(model).hidden_size})
