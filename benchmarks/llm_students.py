"""What benchmarks of students of language models share: one beginning, taught in several ways, scored text by text.

A run that is stopped goes on where it was, also within a training: what was found stands in files of its own, and a
training in its checkpoints.
"""

from __future__ import annotations

import argparse
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from running import ROOT, resolve, teacher_of, terminal
from torch import nn

from compress.core.artifacts import Artifact, open_artifact, seal
from compress.core.disk.files import make_empty_folder, publish, write_json
from compress.core.numerics import local_numerics
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.engine.resolve import Job
from compress.models.io.checkpoints import load_model
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from compress.profile.specs.recovery import RecoverySpec
from compress.profile.specs.training import TrainingSpec
from compress.step import StepContext
from compress.targets.local import resolve as resolve_target
from compress.tasks.base import TrainingData
from compress.training.prediction import predict_answers

PROFILE = ROOT / "profiles" / "smollm_prune_distill.yaml"
VALIDATED = 16
"""Documents of the validation split that a training is looked at with: nothing is chosen by them."""
RESAMPLES = 4000
Numbers = NDArray[np.float64]


def arguments(
    doc: str | None, name: str, arms: Sequence[str], seeds: int, *, teacher: bool
) -> argparse.ArgumentParser:
    """The options that these benchmarks share; `teacher`: one may stand ready."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument(
        "--tokens", type=int, default=50_000, help="of a test split, about so many are scored"
    )
    parser.add_argument("--work", type=Path, default=Path(".compress") / name, help="what was done so far")
    parser.add_argument("--threads", type=int, default=1)
    if teacher:
        parser.add_argument(
            "--teacher", type=Path, help="its artifact; unset: it is made as the profile says"
        )
    return parser


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

    @property
    def measured(self) -> dict[str, float]:
        """As a row shows it."""
        return {
            "log perplexity": round(self.log_perplexity, 4),
            "perplexity": round(float(np.exp(self.log_perplexity)), 2),
        }


@dataclass(frozen=True)
class Workshop:
    """Where models are pruned as a profile says, taught and scored; `work` keeps all of it."""

    job: Job
    profile: Path
    work: Path
    data: TrainingData

    @property
    def spec(self) -> PruneSpec:
        """What is pruned."""
        return next(step.spec for step in self.job.plan.steps if isinstance(step.spec, PruneSpec))

    @property
    def recover(self) -> RecoverySpec:
        """How it learns."""
        assert self.spec.recover is not None
        return self.spec.recover

    def context(self, name: str, spec: Spec, inputs: Mapping[str, Artifact], seed: int) -> StepContext:
        """What a step sees; what it has begun lies in a folder of that name."""
        folder = self.work / name
        (folder / "work").mkdir(parents=True, exist_ok=True)
        return StepContext(
            spec=spec,
            inputs=inputs,
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
            base=self.profile.parent,
        )

    def pruned(self, model: Artifact, **keys: Any) -> Artifact:
        """A model after pruning, before any recovery; `keys`: of the pass, in the place of the profile's."""
        folder = self.work / "-".join(("pruned", *(f"{name}-{value}" for name, value in keys.items())))
        if not folder.exists():
            alone = self.spec.model_copy(update={"recover": None, **keys})
            ctx = self.context("pruning", alone, {"model": model, "teacher": model}, 0)
            make_empty_folder(ctx.out)
            torch.manual_seed(0)
            result = prune.run(ctx)
            seal(ctx.out, result.form, result.facts)
            publish(ctx.out, folder)
        return open_artifact(folder)

    def distilled(
        self, name: str, student: Artifact, teachers: Sequence[Artifact], steps: int, seed: int, **keys: Any
    ) -> tuple[nn.Module, Mapping[str, Any]]:
        """A student after so many steps, as `recover` says, and the facts of its only stage.

        Args:
            name: of the folder of its checkpoints.
            keys: of the pass.
        """
        windows = len(self.job.task.encode(self.data.train, student.path))
        shared = {name: getattr(self.recover, name) for name in TrainingSpec.model_fields}
        body = {
            **shared,
            "student": {"model": str(student.path)},
            "losses": self.recover.losses or [{"logits": {"temperature": 1}}],
            # What a teacher says of all windows is kept, and there are at least as many steps as those take.
            "epochs": max(1.0, steps / -(-windows // self.recover.batch_size)),
            **keys,
        }
        if len(teachers) > 1:
            body["teachers"] = [{"model": str(one.path)} for one in teachers]
        roles = dict.fromkeys(("model", "teacher", "original"), teachers[0]) | {"student": student}
        roles |= {f"teacher.{number}": one for number, one in enumerate(teachers, start=1)}
        ctx = self.context(name, DistillSpec.model_validate(body), roles, seed)
        make_empty_folder(ctx.out)
        torch.manual_seed(seed)
        result = distill.run(ctx)
        return load_model(ctx.out), result.facts["stages"][0]

    def scored(self, model: nn.Module, folder: Path, test: Examples, seconds: float = 0.0) -> dict[str, Any]:
        """`Scored` of a model that reads as the folder says, to be written; `seconds`: of its training."""
        inputs = self.job.task.encode(test, folder)
        kept = predict_answers(model, inputs, self.job.task, precision="fp32", device="cpu")
        nats, tokens = (
            np.bincount(kept["document"], kept[name], len(test)).tolist() for name in ("nats", "tokens")
        )
        parameters = sum(one.numel() for one in model.parameters())
        return {"nats": nats, "tokens": tokens, "parameters": parameters, "seconds": seconds}


class Bench(ABC):
    """Arms that are taught one after the other; what was found of each, and of models before any training, stands in a
    file of its own."""

    shop: Workshop
    pruned: Artifact

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def run(self) -> None:
        """Teach, score and write down arm by arm."""
        for seed in range(self.options.seeds):
            for arm in self.options.arms:
                self.learn(arm, seed)
                self.report()

    def file(self, arm: str, seed: int | None = None) -> Path:
        """What was found of an arm, or of a model before any training."""
        end = "" if seed is None else f"-{self.options.steps}-{seed}"
        return self.shop.work / f"{self.named(arm)}{end}-{self.options.tokens}.json"

    def named(self, arm: str) -> str:
        """An arm in the names of files."""
        return arm.replace(" ", "-")

    def look_at(self, models: Mapping[str, Artifact]) -> None:
        """Score models before any training, where that was not done."""
        for name, artifact in models.items():
            if not self.file(name).exists():
                write_json(self.file(name), self.scored(load_model(artifact.path), artifact.path))

    def learn(self, arm: str, seed: int) -> None:
        """Train an arm, or go on with it, and score what came of it; nothing where that was done."""
        file = self.file(arm, seed)
        if file.exists():
            return
        started = time.perf_counter()
        print(f"{arm}, seed {seed}: {self.options.steps} steps", flush=True)
        model, facts = self.taught(arm, seed, f"{self.named(arm)}-{self.options.steps}-{seed}")
        seconds = time.perf_counter() - started
        write_json(file, {**self.scored(model, self.pruned.path, seconds), **facts})

    @abstractmethod
    def taught(self, arm: str, seed: int, name: str) -> tuple[nn.Module, Mapping[str, Any]]:
        """The student of an arm, and what else is kept of it; `name`: of the folder of its checkpoints."""

    @abstractmethod
    def scored(self, model: nn.Module, folder: Path, seconds: float = 0.0) -> dict[str, Any]:
        """What is found of a model that reads as the folder says, to be written."""

    @abstractmethod
    def report(self) -> None:
        """Write the table of what was found so far."""


class OneTeacher(Bench):
    """The teacher of the profile, or one that stands ready (`--teacher`), and the student that is pruned out of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        job, folder = resolve(options.profile), options.teacher
        self.teacher = teacher_of(job, "torch") if folder is None else open_artifact(folder)
        shop = Workshop(job, options.profile, options.work / self.teacher.digest[:12], job.training_data)
        data = to_learn(job, self.teacher.path, options.steps * shop.recover.batch_size)
        self.shop = replace(shop, data=data)
        self.test = first(job, self.teacher.path, job.splits.test, options.tokens)
        self.pruned = self.shop.pruned(self.teacher)
        self.look_at({"original": self.teacher, "pruned": self.pruned})

    def scored(self, model: nn.Module, folder: Path, seconds: float = 0.0) -> dict[str, Any]:
        """On the start of the test split."""
        return self.shop.scored(model, folder, self.test, seconds)


def enough(job: Job, folder: Path, examples: Examples, windows: int) -> Examples:
    """Documents, in an order that is drawn once, that give so many windows together; all where they give fewer.

    Args:
        folder: says how they are read.
    """
    order = np.random.default_rng(0).permutation(len(examples))
    lots = examples.take(order[: min(len(order), windows)])
    counts = np.bincount(job.task.encode(lots, folder).documents, minlength=len(lots))
    chosen: list[int] = []
    left = windows
    for place, count in enumerate(counts):
        if count <= left:
            chosen.append(place)
            left -= int(count)
    return lots.take(np.array(chosen, np.int64))


def first(job: Job, folder: Path, examples: Examples, tokens: int) -> Examples:
    """The first examples that hold so many tokens together; all where they hold fewer."""
    few = examples.take(np.arange(min(len(examples), 1 + tokens // 32)))
    inputs = job.task.encode(few, folder)
    learnt = np.array([int(row[1:].sum()) for row in inputs.target_mask])
    reached = np.flatnonzero(np.cumsum(np.bincount(inputs.documents, learnt, len(few))) >= tokens)
    return few.take(np.arange(int(reached[0]) + 1)) if len(reached) else few


def to_learn(job: Job, folder: Path, windows: int) -> TrainingData:
    """As many documents of the training split as give so many windows, and a few to look at."""
    splits = job.splits
    few = splits.validation.take(np.arange(min(VALIDATED, len(splits.validation))))
    return replace(job.training_data, train=enough(job, folder, splits.train, windows), validation=few)


def further(mine: Sequence[Scored], theirs: Sequence[Scored]) -> tuple[float, Numbers]:
    """How much higher the log perplexity of some trainings is than that of others, on average over the seeds.

    Paired, seed by seed and document by document; the second is that of resamples of documents and of seeds, (4000,).
    """
    tokens = mine[0].tokens
    apart = np.array([one.nats - other.nats for one, other in zip(mine, theirs, strict=True)])
    random = np.random.default_rng(0)
    drawn = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        documents = random.integers(len(tokens), size=len(tokens))
        seeds = random.integers(len(apart), size=len(apart))
        drawn[number] = apart[seeds][:, documents].sum(-1).mean() / tokens[documents].sum()
    return float(apart.sum(-1).mean() / tokens.sum()), drawn


def interval(values: Numbers, digits: int = 4) -> str:
    """The middle 95 %."""
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:.{digits}f} to {high:.{digits}f}"
