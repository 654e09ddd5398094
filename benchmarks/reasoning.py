"""Is a small model that learns the steps of its teacher better than one that learns the answers alone?

    python benchmarks/reasoning.py [--seeds 3] [--arms sequence rejection ...] [--shared]

A testbed that is trained here from its first weights on: chains of additions and multiplications, from left to right,
of which the last digit counts. Each term has a letter, and the steps are the terms with the digit reached:
`k+4l*9m+7=` -> `k+4.4l*9.6m+7.3=3`; see `Chains` for how many. Letters follow each other from any one on, so that none
tells how many terms there are; factors are 3, 7 or 9, after which all digits are still possible. A token is a letter, a
digit or a sign. No prompt stands in two splits, and chains of one length stand in the test split alone. Teacher and
students are those of reasoning.yaml:

- `sequence`: the teacher's likeliest answer to each training prompt, steps and all;
- `rejection`: of four answers that are drawn those whose result is right;
- `answers only`: of the same answers as `rejection` the results alone, by `control: answers_only`;
- `on policy`: as `sequence` for the first half of the epochs, then the student writes in half of the steps, and the
  teacher judges its tokens.

All of them learn for as many epochs. Each model then answers the test split greedily, and the profile's pattern judges
its result. The chains are drawn once; a seed draws the first weights of teacher and students, the order of what they
learn, and the answers of the teacher. Intervals (95 %) are bootstraps over questions and seeds, differences are paired
by both.

A pilot chose the task on others of its kind, before the seeds of this script were drawn. Sums need no steps: students
of answers alone had all of 145 sums of three one-digit terms right, where steps left 131, and 98.9 % of 180 sums of
4, 6 and 8. Without letters a model must count to find the next term; letters that begin with `a` tell where a text
ends. A step that does not repeat its term was not learnt by two layers in 1,100 steps. Of 240 such chains of the
lengths that are learnt a student of answers alone had 11 % right, which is chance, and one of steps all, each taught
by 3,000 texts of the data itself for 20 epochs; of 60 of seven terms they had 5 % and 12 %, for it goes on as if
there were eight. A smaller teacher, of sums, drew 12 % wrong results at temperature 1, which leaves something to
reject. The teacher of this size learnt 3,000 texts and had 77 % right after 12 epochs (seed 101), and after 24 97 % and
89 % (seeds 1 and 201); students of its likeliest answers had 86, 69 and 91 %. Hence 4,000 texts.

What is made stands in the cache and in `--work`: a run that is stopped goes on where it was, by the same command. With
`--shared` the machine does other things meanwhile, and no seconds are reported. Writes
reports/benchmarks/reasoning.json and .md.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from paired_seeds import paired_difference
from running import ROOT, Overrides, Trained, train_profile
from writing import write_rows

from compress.core.disk.files import make_folder, write_text
from compress.generation.answers import read_answers
from compress.generation.validators import validator_of
from compress.generation.writing import GenerationSettings, write_answers
from compress.passes.distill.spec import DistillSpec

NAME = "reasoning"
FIRST_SEED = 301
PROFILE = Path(__file__).with_suffix(".yaml")
TEACHER = "the teacher"
ANSWER = r"regex:=(\d+)$"
_RIGHT = {"sequence.temperature": 1.0, "rejection": {"candidates": 4, "validator": ANSWER}}
REVERSIBLE = (3, 7, 9)
_HALF = 9.5
_OWN: list[dict[str, Any]] = [
    {"losses": [{"next_token": {}}], "epochs": _HALF},
    {
        "losses": [{"logits": {"temperature": 1}}, {"next_token": {}}],
        "epochs": _HALF,
        "on_policy": {"lambda": 0.5, "most": 46},
    },
]
RESAMPLES = 2000
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Arm:
    """Keys of the distillation, and the step that leaves the student."""

    keys: Mapping[str, Any]
    step: str = "distill"

    def overrides(self, seed: int) -> Overrides:
        """Of the profile."""
        return {"seed": seed, **{f"passes.0.distill.{name}": value for name, value in self.keys.items()}}


ARMS = {
    "sequence": Arm({}),
    "rejection": Arm(_RIGHT),
    "answers only": Arm({**_RIGHT, "control": "answers_only"}, "distill.control"),
    "on policy": Arm({"stages": _OWN}),
}
BESIDE = (
    ("sequence", "answers only"),
    ("rejection", "answers only"),
    ("rejection", "sequence"),
    ("on policy", "sequence"),
)
"""Arms, and those that they are held against."""


@dataclass(frozen=True)
class Chains:
    """How many chains there are of each number of terms; those of `held` terms are tested alone."""

    learnt: tuple[int, ...] = (4, 5, 6, 8)
    held: int = 7
    train: int = 4000
    validation: int = 150
    test: int = 200

    def write(self, folder: Path, seed: int) -> dict[str, list[dict[str, str]]]:
        """The splits, each as a file in a folder, and their rows; equal seeds give equal chains."""
        draw, known = random.Random(seed), set[str]()
        made = {"test": [chain_of(terms, draw, known) for terms in self.lengths for _ in range(self.test)]}
        for split, count in (("validation", self.validation), ("train", self.train)):
            lengths = (self.learnt[number % len(self.learnt)] for number in range(count))
            made[split] = [chain_of(terms, draw, known) for terms in lengths]
        make_folder(folder)
        for split, rows in made.items():
            write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return made

    @property
    def lengths(self) -> list[int]:
        """Of the test split, in its order."""
        return sorted((*self.learnt, self.held))


def chain_of(terms: int, draw: random.Random, known: set[str]) -> dict[str, str]:
    """A chain that is not known yet, and what is written behind it."""
    while True:
        first = draw.randrange(len(ascii_lowercase) - terms + 1)
        signs = "+" + "".join(draw.choice("+*") for _ in range(terms - 1))
        digits = [draw.randint(1, 9) if sign == "+" else draw.choice(REVERSIBLE) for sign in signs]
        row = worked(ascii_lowercase[first : first + terms], signs, digits)
        if row["prompt"] not in known:
            known.add(row["prompt"])
            return row


def worked(letters: str, signs: str, digits: Sequence[int]) -> dict[str, str]:
    """Terms behind their letters, the same with the last digit of what they come to, and the result."""
    reached, asked, steps = 0, "", ""
    for letter, sign, digit in zip(letters, signs, digits, strict=True):
        reached = (reached + digit if sign == "+" else reached * digit) % 10
        asked += f"{letter}{sign}{digit}"
        steps += f"{letter}{sign}{digit}.{reached}"
    return {"prompt": f"{asked}=", "completion": f"{steps}={reached}"}


def main() -> None:
    """Make the data and the teacher, then teach, ask and write down arm by arm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--work", type=Path, default=Path(".compress") / NAME)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", action="store_true", help="the machine does other things meanwhile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in options.arms:
            bench.teach(arm, seed)
            write_rows(NAME, bench.rows(), note=bench.note())


@dataclass(frozen=True)
class Asked:
    """A model that was asked, whether each of its answers is right, (questions,), and what its training told."""

    right: Right
    facts: Mapping[str, Any]
    seconds: float


class Bench:
    """The data, and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.chains = options, Chains()
        folder = options.work.absolute() / f"chains-{options.first_seed}"
        self.test = self.chains.write(folder, options.first_seed)["test"]
        self.data = str(folder)
        self.found: dict[str, dict[int, Asked]] = {TEACHER: {}}

    def teach(self, arm: str, seed: int) -> None:
        """Make the student of an arm, or find it made, and ask it."""
        print(f"{arm}, seed {seed}", flush=True)
        trained = train_profile(PROFILE, {"data.path": self.data, **ARMS[arm].overrides(seed)})
        if seed not in self.found[TEACHER]:
            self.found[TEACHER][seed] = self._asked(trained, trained.teacher)
        self.found.setdefault(arm, {})[seed] = self._asked(trained, ARMS[arm].step)

    def _asked(self, trained: Trained, step: str) -> Asked:
        (distill,) = (spec for spec in trained.job.plan.profile.specs if isinstance(spec, DistillSpec))
        assert distill.sequence is not None
        model = trained.made[step].artifact
        file = write_answers(
            model,
            [row["prompt"] for row in self.test],
            GenerationSettings(distill.sequence.most),
            self.options.work / "answers",
            threads=self.options.threads,
        )
        said = {answer.prompt: answer.text for answer in read_answers(file)}
        judge = validator_of(ANSWER, ROOT, allow_code=False, where=NAME)
        right = [judge(row["prompt"], row["completion"], said[row["prompt"]]) for row in self.test]
        return Asked(np.array(right), model.facts, trained.made[step].seconds)

    def rows(self) -> list[dict[str, Any]]:
        """The table of what was found so far."""
        return rows_of(self.chains, self.found, seconds=not self.options.shared)

    def note(self) -> str:
        """What stands above it."""
        chains = self.chains
        if self.options.shared:
            cost = "the machine did other things meanwhile: no seconds are told"
        else:
            cost = "seconds are those of the step, with the writing where it was not done before"
        return (
            f"{chains.train} training chains of {listed(chains.learnt)} terms; {chains.test} questions of each length, "
            f"and those of {chains.held} terms stand in no training. Percent of results that are right, greedily "
            "written. "
            "95 %: over questions and seeds, of all lengths that were trained on. Kept: of the answers that the "
            "teacher wrote those that are learnt; equal ones are learnt once. "
            f"{self.options.threads} thread; {cost}."
        )


def rows_of(
    chains: Chains, found: Mapping[str, Mapping[int, Asked]], *, seconds: bool
) -> list[dict[str, Any]]:
    """The table: each model, each arm over its seeds, and arms beside each other."""
    every = [(arm, seed, one) for arm, seeds in found.items() for seed, one in seeds.items()]
    rows = [_row(chains, arm, seed, one, seconds) for arm, seed, one in every]
    right = {arm: np.array([one.right for one in seeds.values()]) for arm, seeds in found.items()}
    for arm, answers in right.items():
        rows.append({"learnt": arm, "seed": f"all {len(answers)}", **_over_seeds(chains, answers)})
    for arm, other in BESIDE:
        if arm in found and other in found and found[arm].keys() == found[other].keys():
            row = {"learnt": f"{arm}, less {other}", "seed": f"all {len(found[arm])}"}
            rows.append(row | _over_seeds(chains, right[arm], right[other]))
    if seconds:
        rows.append({"learnt": "all of it", "seconds": round(sum(one.seconds for _, _, one in every))})
    return rows


def _row(chains: Chains, name: str, seed: int | str, one: Asked, seconds: bool) -> dict[str, Any]:
    written = one.facts.get("written")
    row = {
        "learnt": name,
        "seed": seed,
        "parameters": one.facts["parameters"],
        **_by_length(chains, one.right),
    }
    if written is not None:
        kept = written["by_reason"]["kept"]
        row |= {"texts": kept, "kept": f"{kept / written['answers']:.1%}"}
        row |= {"wrong": f"{written['by_reason'].get('wrong', 0) / written['answers']:.1%}"}
        row |= {"tokens written": written["tokens"]}
    return row | ({"seconds": round(one.seconds)} if seconds else {})


def _by_length(chains: Chains, right: NDArray[Any]) -> dict[str, float]:
    """Percent of the questions of each length, of (..., questions)."""
    each = right.reshape(-1, len(chains.lengths), chains.test).mean((0, 2))
    shares = {terms: round(100 * float(share), 1) for terms, share in zip(chains.lengths, each, strict=True)}
    learnt = {f"{terms} terms": shares[terms] for terms in chains.learnt}
    everything = round(100 * float(right[..., _trained(chains)].mean()), 1)
    return {
        "trained lengths": everything,
        **learnt,
        f"{chains.held} terms, never trained": shares[chains.held],
    }


def _over_seeds(chains: Chains, right: Right, other: Right | None = None) -> dict[str, Any]:
    """Of (seeds, questions) the shares, or how much further they are than those of others, in points."""
    less = np.zeros_like(right) if other is None else other
    apart = right.astype(np.float64) - less
    row: dict[str, Any] = _by_length(chains, apart)
    for name, chosen in (("95 %", _trained(chains)), ("95 %, never trained", ~_trained(chains))):
        found = paired_difference(right[:, chosen], less[:, chosen], resamples=RESAMPLES)
        row[name] = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
    return row


def _trained(chains: Chains) -> Right:
    """Which questions are of lengths that were trained on."""
    return np.repeat([terms != chains.held for terms in chains.lengths], chains.test)


def listed(numbers: Sequence[int]) -> str:
    """`4, 5 and 7`."""
    *before, last = map(str, numbers)
    return f"{', '.join(before)} and {last}" if before else last


if __name__ == "__main__":
    main()
