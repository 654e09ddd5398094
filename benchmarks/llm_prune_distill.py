"""How much of what pruning took a language model learns again: from the whole model, from labels alone, from scratch.

    python benchmarks/llm_prune_distill.py [--teacher FOLDER] [--seeds 3] [--steps 300] [--arms kd labels scratch]
        [--work FOLDER] [--threads 1]

The model, what goes and how it recovers are those of profiles/smollm_prune_distill.yaml; the teacher is the one that
the profile fine-tunes, made here unless FOLDER holds it (the artifact of the step `teacher`). The arms:

- `kd`: the pruned model learns from the whole one by the profile's losses;
- `labels`: the pruned model learns from the texts alone;
- `scratch`: a model of the same shape with random weights learns as `kd` does.

All take the same steps over the same windows of the training split; a seed draws their order, and the weights of
`scratch`. What the teacher says is computed once for all of them. Scored is the start of the test split, in FP32. The
gap that is closed is one of log perplexity: 0 where the pruned model stands, 1 where the whole one does. Intervals
(95 %) are bootstraps over documents and, where there are several, seeds; the lead of `kd` is paired.

The arms that tell most come first, and after each the report is written. A run that is stopped goes on where it was,
also within an arm: the same command. On one core of an EPYC an arm takes about 20 minutes. Writes
reports/benchmarks/llm_prune_distill.json and .md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from running import resolve, teacher_of, terminal
from torch import nn
from transformers import AutoModelForCausalLM
from writing import write_rows

from compress.core.artifacts import Artifact, open_artifact, seal
from compress.core.files import empty_folder, publish, write_json
from compress.core.numerics import local_numerics
from compress.core.reading import read_mapping
from compress.data.splits import Examples
from compress.engine.resolve import Job
from compress.losses.contract import LossSpec
from compress.losses.next_token.spec import NextTokenLoss
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import load_model
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from compress.profile.recovery_spec import RecoverySpec, recovery_losses
from compress.step import StepContext
from compress.targets.local import resolve as resolve_target
from compress.tasks.base import TrainingData
from compress.training.prediction import answers
from compress.training.recovery import trained_by
from compress.training.validation import Validation

PROFILE = Path(__file__).parents[1] / "profiles" / "smollm_prune_distill.yaml"
NAME = "llm_prune_distill"
ARMS = ("kd", "labels", "scratch")
VALIDATED = 16
"""Documents of the validation split that a training is looked at with: nothing is chosen by them."""
RESAMPLES = 4000
Numbers = NDArray[np.float64]


def main() -> None:
    """Prune once, then train, score and write down arm by arm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--teacher", type=Path, help="its artifact; unset: it is made as the profile says")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--tokens", type=int, default=50_000, help="of the test split, about so many are scored"
    )
    parser.add_argument("--work", type=Path, default=Path(".compress") / NAME, help="what was done so far")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    for seed in range(options.seeds):
        for arm in options.arms:
            if not bench.file(arm, seed).exists():
                bench.learn(arm, seed)
            bench.report()


class Bench:
    """The models, the texts and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.job: Job = resolve(options.profile)
        self.spec = next(step.spec for step in self.job.plan.steps if isinstance(step.spec, PruneSpec))
        assert self.spec.recover is not None
        self.recover: RecoverySpec = self.spec.recover
        folder = options.teacher
        self.teacher = teacher_of(self.job, "torch") if folder is None else open_artifact(folder)
        self.work = options.work / self.teacher.digest[:12]
        self.data = self._data()
        self.test = _first(self.job.splits.test, options.tokens, self._tokens)
        self.pruned = self._pruned()
        for name, artifact in (("original", self.teacher), ("pruned", self.pruned)):
            if not self.file(name).exists():
                self._score(name, None, load_model(artifact.path), 0.0)

    def file(self, arm: str, seed: int | None = None) -> Path:
        """What was found of an arm, or of a model before any training."""
        if seed is None:
            return self.work / f"{arm}-{self.options.tokens}.json"
        return self.work / f"{arm}-{self.options.steps}-{self.options.tokens}-{seed}.json"

    def learn(self, arm: str, seed: int) -> None:
        """Train an arm, or go on with it, and score what came of it."""
        started = time.perf_counter()
        print(f"{arm}, seed {seed}: {self.options.steps} steps", flush=True)
        ctx = self._context(f"{arm}-{self.options.steps}-{seed}", self.spec, seed)
        model = load_model(self.pruned.path)
        if arm == "scratch":
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(read_config(self.pruned.path), dtype=torch.float32)
        torch.manual_seed(seed)
        kind = ctx.task.kind
        losses: Sequence[LossSpec] = recovery_losses(self.recover, kind, taught=True)
        if arm == "labels":
            losses = [NextTokenLoss()]
        inputs = ctx.task.encode(ctx.data.train, self.pruned.path)
        # What a teacher says of all windows is kept, and there are just as many as the steps take.
        epochs = max(1.0, self.options.steps / -(-len(inputs) // self.recover.batch_size))
        spec = self.recover.model_copy(update={"epochs": epochs})
        validation = Validation.of(ctx, self.pruned.path, self.teacher)
        teacher = None if arm == "labels" else self.teacher
        read = (self.pruned.path, inputs)
        result = trained_by(ctx, model, losses, read, spec, validation, "recover", teacher)
        print(f"{arm}, seed {seed}: {result.steps} steps, {result.curve.seconds:.0f} s", flush=True)
        self._score(arm, seed, model, time.perf_counter() - started)

    def report(self) -> None:
        """Write the table of what was found so far."""
        before = {name: self._read(name) for name in ("original", "pruned")}
        found: dict[str, list[Scored]] = {}
        for arm in ARMS:
            files = (self.file(arm, seed) for seed in range(self.options.seeds))
            found[arm] = [Scored.of(read_mapping(file)) for file in files if file.exists()]
        note = (
            f"{self.job.plan.profile.name}: {self.options.steps} bf16 steps of {self.recover.batch_size} windows of "
            f"{self.job.plan.profile.data.max_length} tokens, {self.options.threads} thread; scored on "
            f"{int(before['original'].tokens.sum())} tokens of {len(self.test)} documents of the test split, FP32. "
            "Gap: of log perplexity between the pruned model and the whole one, closed; intervals over documents and "
            "seeds (95 %), the advantage of `kd` paired by both."
        )
        write_rows(NAME, rows_of(before["original"], before["pruned"], found), note=note)

    def _read(self, name: str) -> Scored:
        return Scored.of(read_mapping(self.file(name)))

    def _data(self) -> TrainingData:
        """As many documents of the training split as give the windows of all steps, and a few to look at."""
        splits = self.job.splits
        wanted = self.options.steps * self.recover.batch_size
        order = np.random.default_rng(0).permutation(len(splits.train))
        lots = splits.train.take(order[: min(len(order), wanted)])
        windows = np.bincount(self.job.task.encode(lots, self.teacher.path).documents, minlength=len(lots))
        chosen: list[int] = []
        left = wanted
        for place, count in enumerate(windows):
            if count <= left:
                chosen.append(place)
                left -= int(count)
        few = splits.validation.take(np.arange(min(VALIDATED, len(splits.validation))))
        return replace(self.job.training_data, train=lots.take(np.array(chosen)), validation=few)

    def _tokens(self, examples: Examples) -> NDArray[np.int64]:
        """How many tokens of each example are scored."""
        inputs = self.job.task.encode(examples, self.teacher.path)
        counts = np.array([int(row[1:].sum()) for row in inputs.learnt])
        return np.bincount(inputs.documents, counts, len(examples)).astype(np.int64)

    def _pruned(self) -> Artifact:
        """The model after pruning, before any recovery."""
        folder = self.work / "pruned"
        if not folder.exists():
            ctx = self._context("pruning", self.spec.model_copy(update={"recover": None}), 0)
            empty_folder(ctx.out)
            torch.manual_seed(0)
            result = prune.run(ctx)
            seal(ctx.out, result.form, result.facts)
            publish(ctx.out, folder)
        return open_artifact(folder)

    def _context(self, name: str, spec: PruneSpec, seed: int) -> StepContext:
        folder = self.work / name
        (folder / "work").mkdir(parents=True, exist_ok=True)
        return StepContext(
            spec=spec,
            inputs={"model": self.teacher, "teacher": self.teacher},
            task=self.job.task,
            data=self.data,
            out=folder / "out",
            work=folder / "work",
            seed=seed,
            precision=local_numerics().precision(self.recover.precision),
            device="cpu",
            timing_target=resolve_target(self.job.plan.profile.targets[0]),
            progress=terminal(),
            shared=self.work / "signals",
            base=self.options.profile.parent,
        )

    def _score(self, arm: str, seed: int | None, model: nn.Module, seconds: float) -> None:
        inputs = self.job.task.encode(self.test, self.pruned.path if seed is not None else self.teacher.path)
        kept = answers(model, inputs, self.job.task, precision="fp32", device="cpu")
        nats, tokens = (
            np.bincount(kept["document"], kept[name], len(self.test)).tolist() for name in ("nats", "tokens")
        )
        parameters = sum(one.numel() for one in model.parameters())
        body = {"nats": nats, "tokens": tokens, "parameters": parameters, "seconds": seconds}
        write_json(self.file(arm, seed), body)


@dataclass(frozen=True)
class Scored:
    """Of each document float64 (n,): minus the log-probability of its tokens, and how many there are."""

    nats: Numbers
    tokens: Numbers
    parameters: int
    seconds: float

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Scored:
        """As it was written."""
        return cls(np.array(body["nats"]), np.array(body["tokens"]), body["parameters"], body["seconds"])

    @property
    def log_perplexity(self) -> float:
        """Nats a token."""
        return float(self.nats.sum() / self.tokens.sum())


def rows_of(original: Scored, pruned: Scored, found: Mapping[str, Sequence[Scored]]) -> list[dict[str, Any]]:
    """The table: the model before and after pruning, each training, and of each arm what all its seeds say."""
    rows: list[dict[str, Any]] = [
        {"arm": name, "parameters": one.parameters, **_measured(one), "gap closed": gap}
        for name, one, gap in (("original", original, 1.0), ("pruned", pruned, 0.0))
    ]
    for arm, runs in found.items():
        for seed, one in enumerate(runs):
            gap = _closed(original, pruned, [one])
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "parameters": one.parameters,
                    **_measured(one),
                    "gap closed": round(gap, 4),
                    "seconds": round(one.seconds),
                }
            )
    for arm, runs in found.items():
        if not runs:
            continue
        gap = _closed(original, pruned, runs)
        gaps = resampled(original, pruned, [runs])
        row = {
            "arm": arm,
            "seed": f"all {len(runs)}",
            "gap closed": round(gap, 4),
            "interval": _interval(gaps),
        }
        both = min(len(runs), len(found["kd"]))
        if arm != "kd" and both:
            pair = [found["kd"][:both], runs[:both]]
            lead = _closed(original, pruned, pair[0]) - _closed(original, pruned, pair[1])
            row |= {
                "kd ahead by": round(lead, 4),
                "its interval": _interval(resampled(original, pruned, pair)),
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


def _measured(one: Scored) -> dict[str, float]:
    return {
        "log perplexity": round(one.log_perplexity, 4),
        "perplexity": round(float(np.exp(one.log_perplexity)), 2),
    }


def _interval(values: Numbers) -> str:
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:.4f} to {high:.4f}"


def _first(examples: Examples, tokens: int, count: Any) -> Examples:
    """The first examples that hold so many tokens together; all where they hold fewer."""
    few = examples.take(np.arange(min(len(examples), 1 + tokens // 32)))
    reached = np.flatnonzero(np.cumsum(count(few)) >= tokens)
    return few.take(np.arange(int(reached[0]) + 1)) if len(reached) else few


if __name__ == "__main__":
    main()
