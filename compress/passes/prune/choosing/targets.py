"""Budgets of a pruned encoder: latency, file size, or a fraction of its parameters."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress.core.artifacts import ONNX_MODEL, TASK, copy_interface
from compress.core.disk.files import make_folder
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.encoding.inputs import Batch
from compress.lowering.files import save_onnx
from compress.lowering.step import lower
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.disturbance import disturbed_choice_warning
from compress.measuring.timing.feeds import sample_indices, scenarios
from compress.measuring.timing.latency import VariantTimes, undisturbed_separately
from compress.models.anatomy.encoder import Encoder, encoder_of
from compress.models.anatomy.observing import observe
from compress.models.anatomy.pruned import block_sizes
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.passes.prune.choosing.budget import Budget, ParameterLimit
from compress.passes.prune.choosing.latency_table import LatencyTable, LayerShape, measure_table
from compress.passes.prune.removing.layers import remove_layers
from compress.passes.prune.spec import PruneSpec, PruneTargetSpec
from compress.profile.schema import MeasureSpec
from compress.step import StepContext
from compress.targets.local import ResolvedTarget
from compress.training.batches import to_tensors
from compress.training.distributed.world import current_world

TIMING_SETTINGS = MeasureSpec(examples=50, min_seconds=4.0, min_rounds=30)
"""Timing settings of the models before and after pruning."""
PROCESSES = 4


@dataclass(frozen=True)
class Timing:
    """Timing of the model before pruning, and the latency table of its parts.

    `folder` contains its lowered file. `disturbed`: other processes disturbed one of the timings beyond use.
    """

    folder: Path
    before_ms: float
    table: LatencyTable
    disturbed: bool = False


def parameter_budget(model: nn.Module, target: PruneTargetSpec) -> Budget:
    """Return the budget of `size_mb` or `ratio`, in parameters."""
    encoder = encoder_of(model)
    sizes = [block_sizes(layer) for layer in encoder.layers]
    total = count_parameters(model)
    layer_parameters = sum(each.numel() for layer in encoder.layers for each in layer.block.parameters())
    unit_parameters = sum(
        head * layer.heads + unit * layer.feed_forward
        for layer, (head, unit) in zip(encoder.layers, sizes, strict=True)
    )
    limit = ParameterLimit.of(target, total, layer_parameters, " in the layers")
    return Budget(
        limit.what,
        limit.where,
        limit.limit,
        total - unit_parameters,
        lambda layer, heads: float(sizes[layer][0] * heads),
        lambda layer, width: float(sizes[layer][1] * width),
    )


def latency_budget(timing: Timing, encoder: Encoder, target: PruneTargetSpec) -> Budget:
    """Return the budget of `latency_ms` or `speedup`, in milliseconds.

    The latencies of the parts and of the rest are scaled to sum up to that of the whole model: they were timed on a
    single input, and in the model weights evict each other from the caches.
    """
    if target.latency_ms is not None:
        what, key, limit = f"a latency of {target.latency_ms:g} ms", "latency_ms", target.latency_ms
    else:
        assert target.speedup is not None
        what, key = f"a speed-up of {target.speedup:g}", "speedup"
        limit = timing.before_ms / target.speedup
    last, table = len(encoder.layers) - 1, timing.table
    layers_ms = sum(
        table.attention_ms(layer.heads, last=place == last)
        + table.feed_forward_ms(layer.feed_forward, last=place == last)
        for place, layer in enumerate(encoder.layers)
    )
    scale = timing.before_ms / (table.rest_ms + layers_ms)
    return Budget(
        what,
        f"prune.target.{key}",
        limit,
        table.rest_ms * scale,
        lambda layer, heads: table.attention_ms(heads, last=layer == last) * scale,
        lambda layer, width: table.feed_forward_ms(width, last=layer == last) * scale,
    )


def time_before(ctx: StepContext, model: nn.Module, interface: Path, folder: Path) -> Timing:
    """Lower and time the current model and the parts of its layers; with several processes, one of them for all.

    Args:
        interface: folder that describes the model's inputs.
        folder: empty; files of the measurement are written there.

    Raises:
        PassError: the model cannot be lowered.
        TargetError: the device that runs the timing is lost.
    """
    world = current_world()
    found = world.broadcast_object(_time_before(ctx, model, interface, folder) if world.is_main else None)
    return Timing(folder, found["before_ms"], LatencyTable(**found["table"]), found["disturbed"])


def _time_before(ctx: StepContext, model: nn.Module, interface: Path, folder: Path) -> dict[str, Any]:
    batches = _real_inputs(ctx, interface)
    lowering_facts = _lower(model, interface, folder / "before")
    without_layers = copy.deepcopy(model)
    remove_layers(encoder_of(without_layers), range(len(encoder_of(without_layers).layers)))
    _lower(without_layers, interface, folder / "rest")
    typical_batch = _typical_input(ctx, interface)
    shape = _layer_shape(model, typical_batch, lowering_facts["selected_early"], ctx.device)
    encoder = encoder_of(model)
    table = measure_table(
        shape,
        max(layer.heads for layer in encoder.layers),
        max(layer.feed_forward for layer in encoder.layers),
        ctx.spec_as(PruneSpec).round_to,
        len(encoder.layers),
        ctx.timing_target,
        _new_folder(folder / "table"),
        (folder / "rest" / ONNX_MODEL, typical_batch),
    )
    (before,), disturbed = _time([folder / "before"], batches, ctx.timing_target, folder)
    disturbed |= table.disturbed
    if disturbed:
        ctx.progress.say(disturbed_choice_warning("prune", ctx.timing_target.machine_name))
    return {"before_ms": before, "table": asdict(table), "disturbed": disturbed}


def time_after(ctx: StepContext, model: nn.Module, interface: Path, timing: Timing) -> dict[str, Any]:
    """Lower the pruned model and time it and the original one, each alone; with several processes, one of them for all.

    Returns:
        `before_ms`, `measured_ms`, `table`, `timed_on` (the target), and `timing_disturbed` (whether any timing was).
    """
    world = current_world()
    (before, after), disturbed = world.broadcast_object(
        _time_after(ctx, model, interface, timing) if world.is_main else None
    )
    return {
        "before_ms": before,
        "measured_ms": after,
        "table": asdict(timing.table),
        "timed_on": ctx.timing_target.label,
        "timing_disturbed": timing.disturbed or disturbed,
    }


def _time_after(ctx: StepContext, model: nn.Module, interface: Path, timing: Timing) -> VariantTimes:
    _lower(model, interface, timing.folder / "after")
    files = [timing.folder / "before", timing.folder / "after"]
    return _time(files, _real_inputs(ctx, interface), ctx.timing_target, timing.folder)


def _lower(model: nn.Module, interface: Path, out: Path) -> dict[str, Any]:
    """Lower a model into a folder and return what the lowering did."""
    torch_folder = _new_folder(out) / "torch"
    save_model(model, torch_folder)
    copy_interface(interface, torch_folder)
    task = read_mapping(interface / TASK)
    # The model is in memory, so its code was allowed and has already run.
    graph, facts = lower(load_model(torch_folder, attention="eager", allow_code=True), task)
    save_onnx(graph, out)
    return facts


def _new_folder(folder: Path) -> Path:
    make_folder(folder)
    return folder


def _real_inputs(ctx: StepContext, interface: Path) -> list[Batch]:
    """Return real inputs of the validation split, one example per batch."""
    inputs = ctx.task.encode(ctx.data.validation, interface)
    chosen = sample_indices(len(inputs), TIMING_SETTINGS.examples, ctx.seed)
    return scenarios(chosen, [1], [])[0].batches(inputs)


def _time(
    folders: Sequence[Path], batches: Sequence[Batch], target: ResolvedTarget, work: Path
) -> VariantTimes:
    """Return ms of models on the same batches, each running alone."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        jobs = JobFolder.of_target(Path(name), target)
        files = [folder / ONNX_MODEL for folder in folders]
        return undisturbed_separately(jobs, files, batches, TIMING_SETTINGS, processes=PROCESSES)


def _typical_input(ctx: StepContext, interface: Path) -> Batch:
    """Return the validation input of median length."""
    inputs = ctx.task.encode(ctx.data.validation, interface)
    chosen = sample_indices(len(inputs), TIMING_SETTINGS.examples, ctx.seed)
    place = chosen[np.argsort(inputs.lengths[chosen], kind="stable")[len(chosen) // 2]]
    return inputs.batch([int(place)])


def _layer_shape(model: nn.Module, batch: Batch, selects_early: bool, device: str) -> LayerShape:
    """Return the input shape of a layer for a typical input.

    Args:
        selects_early: whether the lowered model selects the tokens of its head before the last layer's maps.
    """
    encoder = encoder_of(model)
    shapes: list[tuple[int, ...]] = []

    def note(_module: nn.Module, _inputs: Tensor, outputs: Tensor, _mask: Tensor | None) -> None:
        shapes.append(tuple(outputs.shape))

    observe(model, [to_tensors(batch, device)], [encoder.layers[0].block], note)
    if not shapes or len(shapes[0]) != 3:
        raise ModelError("cannot determine the inputs of this model's layers", where="prune.target")
    head_tokens = 2 if encoder.head_teacher is not None else 1
    return LayerShape(
        batch=1,
        tokens=shapes[0][1],
        hidden=encoder.hidden_size,
        head_size=encoder.layers[0].head_size,
        last_tokens=head_tokens if selects_early else shapes[0][1],
        masked=encoder.words is not None,
    )
