"""Does a student learn more from those tokens alone of which its teacher is sure, or right, than from all of them?

    python benchmarks/llm_selective.py [--teacher FOLDER] [--seeds 3] [--steps 300] [--tokens 50000]
        [--confidence 0.5] [--arms all confident right] [--work FOLDER] [--threads 1]

Teacher, pruned student and losses are those of profiles/smollm_prune_distill.yaml; the teacher is the one that the
profile fine-tunes, made here unless FOLDER holds it (the artifact of the step `teacher`). The arms:

- `all`: every token is learnt;
- `confident`: those of which the teacher holds some word at least as likely as `--confidence`;
- `right`: those of which its likeliest word is the one that follows.

All take the same steps over the same windows of the training split, so that an arm that selects learns from fewer
tokens; a seed draws their order. What the teacher says is computed once for all of them. Scored is the start of the
test split, in FP32: every token of it. Differences of log perplexity from `all` are paired by seed and document, their
intervals (95 %) bootstraps over both.

After each arm the report is written. A run that is stopped goes on where it was, also within an arm: the same command.
On one core of an EPYC an arm takes about 20 minutes. Writes reports/benchmarks/llm_selective.json and .md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from llm_students import OneTeacher, Scored, arguments, further, interval
from torch import nn
from writing import write_rows

from compress.core.disk.reading import read_mapping

NAME = "llm_selective"
ARMS = ("all", "confident", "right")


def main() -> None:
    """Prune once, then train, score and write down arm by arm."""
    parser = arguments(__doc__, NAME, ARMS, seeds=3, teacher=True)
    parser.add_argument("--confidence", type=float, default=0.5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Selective(options).run()


class Selective(OneTeacher):
    """The teacher, the pruned student, and what was found so far."""

    def named(self, arm: str) -> str:
        """An arm, and the confidence that it asks for."""
        return f"{arm}-{self.options.confidence:g}" if arm == "confident" else arm

    def taught(self, arm: str, seed: int, name: str) -> tuple[nn.Module, Mapping[str, Any]]:
        """The student, and how many tokens it learnt from."""
        select = {"confident": {"confidence": self.options.confidence}, "right": {"right": True}}.get(arm)
        steps = self.options.steps
        model, stage = self.shop.distilled(name, self.pruned, [self.teacher], steps, seed, select=select)
        return model, {"kept": stage.get("kept")}

    def report(self) -> None:
        """Write the table of what was found so far."""
        before = {name: Scored.of(read_mapping(self.file(name))) for name in ("original", "pruned")}
        found: dict[str, list[Taught]] = {}
        for arm in ARMS:
            files = (self.file(arm, seed) for seed in range(self.options.seeds))
            found[arm] = [Taught.of(file) for file in files if file.exists()]
        profile, recover = self.shop.job.plan.profile, self.shop.recover
        note = (
            f"{profile.name}: {self.options.steps} steps of {recover.batch_size} windows of {profile.data.max_length} "
            f"tokens, {self.options.threads} thread; scored on {int(before['original'].tokens.sum())} tokens of "
            f"{len(self.test)} documents of the test split, FP32. `confident`: the teacher holds some word at least "
            f"{self.options.confidence:g} likely; `right`: its likeliest word follows. Learnt: the share of the tokens "
            "of the training windows. Higher: log perplexity less that of `all`, so that below 0 is better (95 % over "
            "documents and seeds)."
        )
        write_rows(NAME, rows_of(before, found), note=note)


@dataclass(frozen=True)
class Taught:
    """What was found of a training, and the share of the tokens that it learnt from."""

    scored: Scored
    learnt: float

    @classmethod
    def of(cls, file: Path) -> Taught:
        """As it was written."""
        body = read_mapping(file)
        kept = body["kept"] or {"tokens": 1, "of": 1}
        return cls(Scored.of(body), kept["tokens"] / kept["of"])


def rows_of(before: Mapping[str, Scored], found: Mapping[str, Sequence[Taught]]) -> list[dict[str, Any]]:
    """The table: the model before and after pruning, each training, and of each arm what all its seeds say."""
    rows: list[dict[str, Any]] = [
        {"learnt from": name, "parameters": one.parameters, **one.measured} for name, one in before.items()
    ]
    for arm, runs in found.items():
        for seed, one in enumerate(runs):
            row = {"learnt from": arm, "seed": seed, "parameters": one.scored.parameters}
            row |= {**one.scored.measured, "learnt": f"{one.learnt:.1%}"}
            rows.append({**row, "seconds": round(one.scored.seconds)})
    for arm, runs in found.items():
        both = min(len(runs), len(found["all"]))
        if arm != "all" and both:
            mine, theirs = ([one.scored for one in each[:both]] for each in (runs, found["all"]))
            apart, drawn = further(mine, theirs)
            row = {"learnt from": f"{arm}, beside all", "seed": f"all {both}", "higher": round(apart, 4)}
            rows.append({**row, "95 % of it": interval(drawn)})
    return rows


if __name__ == "__main__":
    main()
