"""Does a latency come out as predicted, and does choosing by latency beat cutting every layer alike?

    python benchmarks/prune_latency.py [--quick]

CLINC150, the teacher of clinc_intents.yaml, FP32, batch 1, one thread. For each share of the teacher's latency, heads
and feed-forward widths are chosen for it. The rival keeps the same heads and the same width in every layer, of both
about the same share, and takes equally long: it is sought in the table of timed parts, then corrected by timing both.
Both recover for one epoch. In the end the teacher and all of them are timed, in processes that take turns.

Bars: the latency that the pass measured is within 10 % of what it predicted, and so is the share of the teacher's
latency in the end; the rival's latency is within 5 %; the choice by latency is not less accurate on the test split
(95 % interval, paired by example). Writes reports/benchmarks/prune_latency.json and .md; exits 1 where one is missed.
What was made stands in the cache: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paired_seeds import Difference, paired_difference
from running import Trained, missing, terminal, train_profile
from writing import markdown, write_rows

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.engine.making import make_step
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.feeds import sample_indices, scenarios
from compress.measuring.timing.latency import undisturbed_separately
from compress.passes.prune.choosing.latency_table import LatencyTable
from compress.profile.schema import MeasureSpec
from compress.store.cache import Cache

PROFILE = Path(__file__).with_name("prune_recover.yaml")
SHARES = (0.6, 0.45, 0.3)
RECOVERY = {"epochs": 1, "learning_rate": 2e-4}
ROUND_TO = 8
PREDICTED_WITHIN = 0.10
EQUAL_WITHIN = 0.05
SOUGHT_WITHIN = 0.02
TRIES = 3
IN_SEARCH = MeasureSpec(examples=50, min_seconds=3.0, min_rounds=60)
IN_THE_END = MeasureSpec(examples=100, min_seconds=4.0, min_rounds=200)
PROCESSES = 4


@dataclass(frozen=True)
class Shape:
    """Every layer's heads and feed-forward width."""

    heads: int
    width: int


def overrides(prune: Mapping[str, Any], *, quick: bool) -> dict[str, Any]:
    """The keys of a profile that prunes so."""
    if not quick:
        return {"passes.0.prune": dict(prune)}
    short = {**prune, "importance_batches": 1}
    if prune["recover"] is not None:
        short["recover"] = {**prune["recover"], "epochs": 0.02}
    return {"passes.0.prune": short, "teacher.finetune.epochs": 0.02}


def by_latency(share: float) -> dict[str, Any]:
    """Heads and widths are chosen for a share of the latency."""
    return {"target": {"speedup": 1 / share}, "recover": RECOVERY}


def alike(shape: Shape, whole: Shape, recover: Mapping[str, Any] | None) -> dict[str, Any]:
    """Every layer is cut to one shape."""
    removed = {
        "heads": max(0.0, 1 - shape.heads / whole.heads),
        "feed_forward": max(0.0, 1 - shape.width / whole.width),
    }
    return {"remove": removed, "recover": recover, "round_to": ROUND_TO}


def predicted_ms(table: LatencyTable, layers: int, shape: Shape) -> float:
    """What the parts of a model of such layers and what stands around them take together."""
    inner, last = (
        table.attention_ms(shape.heads, last=place) + table.feed_forward_ms(shape.width, last=place)
        for place in (False, True)
    )
    return table.rest_ms + (layers - 1) * inner + last


def shape_for(table: LatencyTable, layers: int, whole: Shape, share: float) -> Shape:
    """Of the shapes that come nearest to a share of the latency the one that keeps heads and width most alike."""
    limit = share * predicted_ms(table, layers, whole)
    widths = range(ROUND_TO, whole.width + 1, ROUND_TO)
    nearest = [
        min(
            (Shape(heads, width) for width in widths),
            key=lambda shape: abs(predicted_ms(table, layers, shape) - limit),
        )
        for heads in range(1, whole.heads + 1)
    ]
    close = [
        shape for shape in nearest if abs(predicted_ms(table, layers, shape) / limit - 1) < SOUGHT_WITHIN
    ]
    return min(close or nearest, key=lambda shape: abs(shape.heads / whole.heads - shape.width / whole.width))


def lowered(trained: Trained, step: str) -> Artifact:
    """The ONNX file of a step's model, as a run of the profile would lower it."""
    planned = next(
        one for one in trained.job.plan.steps if one.kind == "lower" and one.inputs["model"] == step
    )
    inputs = {role: trained.made[name].artifact for role, name in planned.inputs.items()}
    return make_step(planned, trained.job, inputs, Cache.default(), terminal())[0].artifact


def milliseconds(trained: Trained, models: Sequence[Artifact], spec: MeasureSpec) -> list[float]:
    """The latency of each model on the same test utterances, one at a time on one thread.

    Each model has processes of its own, as where it is deployed alone; the processes take turns.
    """
    inputs = trained.job.task.encode(trained.examples("test"), models[0].path)
    chosen = sample_indices(len(inputs), spec.examples, 0)
    with tempfile.TemporaryDirectory() as name:
        jobs = JobFolder(Path(name), "onnxruntime", "cpu", 1, "pruned models")
        batches = scenarios(chosen, [1], [])[0].batches(inputs)
        files = [model.path / ONNX_MODEL for model in models]
        return list(undisturbed_separately(jobs, files, batches, spec, processes=PROCESSES).ms)


def rival_of(ours: Trained, share: float, whole: Shape, *, quick: bool) -> Shape:
    """The shape whose latency is that of the model that was chosen by latency."""
    facts = ours.facts("prune")
    table, layers = LatencyTable(**facts["target"]["table"]), len(facts["layers"])
    model = lowered(ours, "prune")
    asked = share
    found: dict[Shape, float] = {}
    for _ in range(TRIES):
        shape = shape_for(table, layers, whole, asked)
        if shape in found:
            break
        # Its shapes decide how long it takes: which units stay is asked when it is known.
        prune = {**alike(shape, whole, None), "importance": "magnitude"}
        rival = lowered(train_profile(PROFILE, overrides(prune, quick=quick)), "prune")
        ours_ms, rival_ms = milliseconds(ours, [model, rival], IN_SEARCH)
        found[shape] = abs(rival_ms / ours_ms - 1)
        print(
            f"{shape.heads} heads, width {shape.width}: {rival_ms / ours_ms:.3f} of its latency", flush=True
        )
        if found[shape] <= SOUGHT_WITHIN:
            break
        asked *= ours_ms / rival_ms
    return min(found, key=lambda shape: found[shape])


@dataclass(frozen=True)
class Pair:
    """A model whose sizes were chosen for a share of the latency, and its rival, both recovered."""

    share: float
    ours: Trained
    rival: Trained
    shape: Shape

    def row(self, teacher_ms: float, ours_ms: float, rival_ms: float) -> dict[str, Any]:
        """The figures of the two, timed in the end as the teacher was."""
        target = self.ours.facts("prune")["target"]
        right = [trained.right("prune", "test")[None] for trained in (self.ours, self.rival)]
        gain = paired_difference(*right)
        in_pass = target["measured_ms"] / target["predicted_ms"]
        in_the_end = (ours_ms / teacher_ms) * target["predicted_speedup"]
        return {
            "share asked": self.share,
            "predicted, ms": round(target["predicted_ms"], 4),
            "measured, ms": round(target["measured_ms"], 4),
            "measured / predicted": round(in_pass, 4),
            "in the end, ms": round(ours_ms, 4),
            "of the teacher's": round(ours_ms / teacher_ms, 4),
            "that / predicted": round(in_the_end, 4),
            "uniform, ms": round(rival_ms, 4),
            "uniform / by latency": round(rival_ms / ours_ms, 4),
            "sizes": " ".join(
                f"{layer['heads']}/{layer['feed_forward']}" for layer in self.ours.facts("prune")["layers"]
            ),
            "uniform sizes": f"{self.shape.heads}/{self.shape.width}",
            "accuracy": round(float(right[0].mean()), 4),
            "uniform accuracy": round(float(right[1].mean()), 4),
            "difference": round(gain.value, 4),
            "95 % interval": f"{gain.low:+.4f} to {gain.high:+.4f}",
            "held": held(in_pass, in_the_end, rival_ms / ours_ms, gain),
        }


def held(in_pass: float, in_the_end: float, rival: float, gain: Difference) -> bool:
    """Whether a row holds every bar."""
    predicted = max(abs(in_pass - 1), abs(in_the_end - 1)) <= PREDICTED_WITHIN
    return predicted and abs(rival - 1) <= EQUAL_WITHIN and gain.verdict != "worse"


def compared(share: float, *, quick: bool) -> Pair:
    """Both models for a share of the latency."""
    ours = train_profile(PROFILE, overrides(by_latency(share), quick=quick))
    layers = ours.facts("prune")["layers"]
    whole = Shape(
        layers[0]["heads"] + len(layers[0]["heads_removed"]),
        layers[0]["feed_forward"] + layers[0]["feed_forward_removed"],
    )
    shape = rival_of(ours, share, whole, quick=quick)
    rival = train_profile(PROFILE, overrides(alike(shape, whole, RECOVERY), quick=quick))
    return Pair(share, ours, rival, shape)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one share, hardly trained, to try it; holds no bar"
    )
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    pairs = [compared(share, quick=options.quick) for share in (SHARES[1:2] if options.quick else SHARES)]
    first = pairs[0].ours
    models = [lowered(trained, "prune") for pair in pairs for trained in (pair.ours, pair.rival)]
    teacher_ms, *times = milliseconds(first, [lowered(first, first.teacher), *models], IN_THE_END)
    rows = [
        pair.row(teacher_ms, ours_ms, rival_ms)
        for pair, ours_ms, rival_ms in zip(pairs, times[::2], times[1::2], strict=True)
    ]
    if options.quick:
        print(markdown(rows))
        return 0
    note = (
        f"The teacher is right in {first.right(first.teacher, 'test').mean():.4f} of the test split and takes "
        f"{teacher_ms:.3f} ms. 'Predicted' and 'measured' are of the pass; in the end all models are timed. Sizes "
        "are heads and feed-forward width: of each layer from the first on, or of every layer alike. Latencies are "
        "those of a machine that does nothing else: the 5th percentile of each input, the median of the inputs."
    )
    write_rows("prune_latency", rows, note=note)
    return 0 if all(row["held"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
