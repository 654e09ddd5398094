"""How much of what pruning took a language model learns again: from the whole model, from labels alone, from scratch.

    python benchmarks/llm_prune_distill.py [--teacher FOLDER] [--seeds 3] [--steps 300] [--arms kd labels scratch
        refitted] [--work FOLDER] [--threads 1]

The model, what goes and how it recovers are those of profiles/smollm_prune_distill.yaml; the teacher is the one that
the profile fine-tunes, made here unless FOLDER holds it (the artifact of the step `teacher`). The arms:

- `kd`: the pruned model learns from the whole one by the profile's losses;
- `labels`: the pruned model learns from the texts alone;
- `scratch`: a model of the same shape with random weights learns as `kd` does;
- `refitted`: the pruned model after `reconstruct` learns as `kd` does.

All take the same steps over the same windows of the training split; a seed draws their order, and the weights of
`scratch`. What the teacher says is computed once for all of them. Scored is the start of the test split, in FP32. The
gap that is closed is one of log perplexity: 0 where the pruned model stands, 1 where the whole one does. The better
one chooses what goes, the less is left to close: so the gap from a model that lost as much, chosen at random, stands
beside it, and what `reconstruct` wins back without a training. Intervals (95 %) are bootstraps over documents and,
where there are several, seeds; the lead of `kd` is paired.

The arms that tell most come first, and after each the report is written. A run that is stopped goes on where it was,
also within an arm: the same command. On one core of an EPYC an arm takes about 20 minutes. Writes
reports/benchmarks/llm_prune_distill.json and .md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from llm_students import RESAMPLES, Numbers, OneTeacher, Scored, arguments, interval
from torch import nn
from transformers import AutoModelForCausalLM
from writing import write_rows

from compress.core.disk.reading import read_mapping
from compress.losses.contract import LossSpec
from compress.losses.next_token.spec import NextTokenLoss
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import load_model
from compress.profile.specs.recovery import recovery_losses
from compress.training.recovery import train_with
from compress.training.validation import Validation

NAME = "llm_prune_distill"
ARMS = ("kd", "labels", "scratch", "refitted")


def main() -> None:
    """Prune once, then train, score and write down arm by arm."""
    options = arguments(__doc__, NAME, ARMS, seeds=3, teacher=True).parse_args()
    torch.set_num_threads(options.threads)
    Recovery(options).run()


class Recovery(OneTeacher):
    """The models, the texts and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.refitted = self.shop.pruned(self.teacher, reconstruct=True)
        random = self.shop.pruned(self.teacher, importance="random")
        self.look_at({"random": random, "reconstructed": self.refitted})

    def taught(self, arm: str, seed: int, name: str) -> tuple[nn.Module, Mapping[str, Any]]:
        """The pruned model, or one of its shape, after its training."""
        recover, inputs = self.shop.recover, {"model": self.teacher, "teacher": self.teacher}
        ctx = self.shop.context(name, self.shop.spec, inputs, seed)
        model = load_model((self.refitted if arm == "refitted" else self.pruned).path)
        if arm == "scratch":
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(read_config(self.pruned.path), dtype=torch.float32)
        torch.manual_seed(seed)
        kind = ctx.task.kind
        losses: Sequence[LossSpec] = recovery_losses(recover, kind, has_teacher=True)
        if arm == "labels":
            losses = [NextTokenLoss()]
        shown = ctx.task.encode(ctx.data.train, self.pruned.path)
        # What a teacher says of all windows is kept, and there are just as many as the steps take.
        epochs = max(1.0, self.options.steps / -(-len(shown) // recover.batch_size))
        spec = recover.model_copy(update={"epochs": epochs})
        validation = Validation.of(ctx, self.pruned.path, self.teacher)
        teacher = None if arm == "labels" else self.teacher
        read = (self.pruned.path, shown)
        result = train_with(ctx, model, losses, read, spec, validation, "recover", teacher)
        print(f"{arm}, seed {seed}: {result.steps} steps, {result.curve.seconds:.0f} s", flush=True)
        return model, {}

    def report(self) -> None:
        """Write the table of what was found so far."""
        names = ("original", "random", "pruned", "reconstructed")
        before = {name: Scored.of(read_mapping(self.file(name))) for name in names}
        found: dict[str, list[Scored]] = {}
        for arm in ARMS:
            files = (self.file(arm, seed) for seed in range(self.options.seeds))
            found[arm] = [Scored.of(read_mapping(file)) for file in files if file.exists()]
        profile = self.shop.job.plan.profile
        note = (
            f"{profile.name}: {self.options.steps} bf16 steps of {self.shop.recover.batch_size} windows of "
            f"{profile.data.max_length} tokens, {self.options.threads} thread; scored on "
            f"{int(before['original'].tokens.sum())} tokens of {len(self.test)} documents of the test split, FP32. "
            "Gap: of log perplexity between the pruned model and the whole one, closed; intervals over documents and "
            "seeds (95 %), the advantage of `kd` paired by both."
        )
        write_rows(NAME, rows_of(**before, found=found), note=note)


def rows_of(
    original: Scored,
    random: Scored,
    pruned: Scored,
    reconstructed: Scored,
    found: Mapping[str, Sequence[Scored]],
) -> list[dict[str, Any]]:
    """The table: the model before and after pruning, each training, and of each arm what all its seeds say.

    Args:
        random: the model after as much was taken from it at random.
        reconstructed: the pruned model after `reconstruct`, which trains nothing.
    """

    def closed(runs: Sequence[Scored]) -> dict[str, float]:
        return {
            "gap closed": round(_closed(original, pruned, runs), 4),
            "from random": round(_closed(original, random, runs), 4),
        }

    rows: list[dict[str, Any]] = [
        {"arm": name, "parameters": one.parameters, **one.measured, **closed([one])}
        for name, one in (
            ("original", original),
            ("pruned", pruned),
            ("pruned at random", random),
            ("pruned, reconstructed", reconstructed),
        )
    ]
    for arm, runs in found.items():
        for seed, one in enumerate(runs):
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "parameters": one.parameters,
                    **one.measured,
                    **closed([one]),
                    "seconds": round(one.seconds),
                }
            )
    for arm, runs in found.items():
        if not runs:
            continue
        gaps = resampled(original, pruned, [runs])
        row = {"arm": arm, "seed": f"all {len(runs)}", **closed(runs), "interval": interval(gaps)}
        both = min(len(runs), len(found["kd"]))
        if arm != "kd" and both:
            pair = [found["kd"][:both], runs[:both]]
            lead = _closed(original, pruned, pair[0]) - _closed(original, pruned, pair[1])
            row |= {
                "kd ahead by": round(lead, 4),
                "its interval": interval(resampled(original, pruned, pair)),
            }
        rows.append(row)
    return rows


def resampled(original: Scored, pruned: Scored, arms: Sequence[Sequence[Scored]]) -> Numbers:
    """The gap that an arm closes, or the first of two less the second, in each resample of documents and of seeds.

    Args:
        arms: of each the trainings by seed; two arms are paired, seed by seed and document by document.
    """
    random = np.random.default_rng(0)
    documents, seeds = len(original.nats), len(arms[0])
    tokens = original.tokens
    before, after = original.nats, pruned.nats
    nats = np.array([[run.nats for run in runs] for runs in arms])
    signs = np.array([1.0, -1.0])[: len(arms)]
    drawn = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = random.integers(documents, size=documents)
        mine = nats[:, random.integers(seeds, size=seeds)][:, :, chosen].sum(-1).mean(-1)
        total = tokens[chosen].sum()
        whole, cut = before[chosen].sum() / total, after[chosen].sum() / total
        drawn[number] = (signs * ((cut - mine / total) / (cut - whole))).sum()
    return drawn


def _closed(original: Scored, pruned: Scored, runs: Sequence[Scored]) -> float:
    mean = float(np.mean([run.log_perplexity for run in runs]))
    return (pruned.log_perplexity - mean) / (pruned.log_perplexity - original.log_perplexity)


if __name__ == "__main__":
    main()
