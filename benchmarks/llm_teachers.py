"""Two teachers into one student: is it as good on the domain of each as a student of that one alone?

    python benchmarks/llm_teachers.py [--encyclopaedia TEXT] [--seeds 1] [--steps 300] [--tokens 50000]
        [--arms both news encyclopaedia] [--work FOLDER] [--threads 1]

The teachers are one model, fine-tuned on news (profiles/smollm_prune_distill.yaml: SmolLM2-135M on BBC News) and on an
encyclopaedia (the same profile with the articles of a text in the form of WikiText-2: ../shared/data/wikitext2/test.txt
beside the clone, unless TEXT says otherwise; without it there is nothing to do, and this says so). Its articles are
split into training, validation and test by article, in an order that is drawn once.

The student is the model before any fine-tuning, pruned to the shape of the profile. It is taught by the mean of both
teachers' probabilities (`both`), by the teacher of the news, or by that of the encyclopaedia, always on the same
windows, half of them from either domain, for as many steps. Scored are the starts of both test splits, in FP32.

The bar: on each domain the student of both has a perplexity at most 2 % above that of the better of the other two.
Intervals (95 %) are bootstraps over documents and seeds, paired.

After each arm the report is written. A run that is stopped goes on where it was, also within an arm: the same command.
On one core of an EPYC each of two teachers takes about 25 minutes, and an arm 20. Writes
reports/benchmarks/llm_teachers.json and .md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llm_students import (
    Bench,
    Numbers,
    Scored,
    Workshop,
    arguments,
    first,
    further,
    interval,
    to_learn,
)
from running import ROOT, make_one, resolve, teacher_of
from writing import write_rows

from compress.core.disk.files import make_folder, write_text
from compress.core.disk.reading import read_mapping
from compress.data.splits import Examples

NAME = "llm_teachers"
TEXT = ROOT.parent / "shared" / "data" / "wikitext2" / "test.txt"
NEWS, ENCYCLOPAEDIA = DOMAINS = ("news", "encyclopaedia")
ARMS = ("both", *DOMAINS)
STUDENTS = {"both": "both", **{name: f"the {name}" for name in DOMAINS}}
SHARES = {"test": 0.2, "validation": 0.05}
"""Of the articles; the others are learnt."""
ALLOWED = 0.02
"""How much higher the perplexity may be."""
_TITLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)


def main() -> None:
    """Make both teachers and the student once, then train, score and write down arm by arm."""
    parser = arguments(__doc__, NAME, ARMS, seeds=1, teacher=False)
    parser.add_argument("--encyclopaedia", type=Path, default=TEXT, help="articles in the form of WikiText-2")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the teacher of the encyclopaedia")
    options = parser.parse_args()
    if not options.encyclopaedia.is_file():
        print(f"skipped: {options.encyclopaedia} is not there; name a text with --encyclopaedia")
        return
    torch.set_num_threads(options.threads)
    TwoTeachers(options).run()


class TwoTeachers(Bench):
    """Both domains, both teachers, and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        work: Path = options.work
        texts = work / "articles"
        write_articles(texts, articles(options.encyclopaedia.read_text(encoding="utf-8")))
        other = {"data.path": str(texts.resolve()), "teacher.finetune.epochs": options.epochs}
        self.jobs = {NEWS: resolve(options.profile), ENCYCLOPAEDIA: resolve(options.profile, other)}
        self.teachers = {name: teacher_of(job, "torch") for name, job in self.jobs.items()}
        job = self.jobs[NEWS]
        untrained = make_one(job, next(step.name for step in job.plan.steps if step.kind == "source"))
        both = "-".join(one.digest[:8] for one in self.teachers.values())
        shop = Workshop(job, options.profile, work / both, job.training_data)
        windows = options.steps * shop.recover.batch_size // 2
        own = [to_learn(one, untrained.path, windows) for one in self.jobs.values()]
        train, validation = (joined([getattr(one, name) for one in own]) for name in ("train", "validation"))
        self.shop = replace(shop, data=replace(own[0], train=train, validation=validation))
        self.tests = {
            name: first(one, untrained.path, one.splits.test, options.tokens)
            for name, one in self.jobs.items()
        }
        self.pruned = self.shop.pruned(untrained)
        before = {f"teacher of the {name}": one for name, one in self.teachers.items()}
        self.look_at({"untrained": untrained, **before, "pruned": self.pruned})

    def taught(self, arm: str, seed: int, name: str) -> tuple[torch.nn.Module, Mapping[str, Any]]:
        """The student of one teacher, or of both."""
        teachers = [one for name, one in self.teachers.items() if arm in ("both", name)]
        model, _ = self.shop.distilled(name, self.pruned, teachers, self.options.steps, seed)
        return model, {}

    def scored(self, model: torch.nn.Module, folder: Path, seconds: float = 0.0) -> dict[str, Any]:
        """On the test split of each domain."""
        return {name: self.shop.scored(model, folder, one, seconds) for name, one in self.tests.items()}

    def report(self) -> None:
        """Write the table of what was found so far."""
        names = ("untrained", *(f"teacher of the {name}" for name in DOMAINS), "pruned")
        before = {name: _read(self.file(name)) for name in names}
        found: dict[str, dict[str, list[Scored]]] = {}
        for arm in ARMS:
            files = [self.file(arm, seed) for seed in range(self.options.seeds)]
            done = [_read(file) for file in files if file.exists()]
            found[arm] = {domain: [one[domain] for one in done] for domain in DOMAINS}
        counted = " and ".join(
            f"{int(one.tokens.sum())} of {name} in {len(one.tokens)} documents"
            for name, one in before["pruned"].items()
        )
        profile, recover = self.shop.job.plan.profile, self.shop.recover
        note = (
            f"{profile.name}: {self.options.steps} steps of {recover.batch_size} windows of {profile.data.max_length} "
            f"tokens, half of them news and half articles of {self.options.encyclopaedia.name}, the same for all; "
            f"{self.options.threads} thread; scored on {counted}, FP32. `both`: the mean of both teachers' "
            "probabilities. Higher: the perplexity of the student of both over that of the better one of the other two "
            f"(95 % over documents and seeds, paired); held where it is at most {ALLOWED:.0%}."
        )
        write_rows(NAME, rows_of(before, found), note=note)


def articles(text: str) -> list[str]:
    """The articles of a text in which each begins with its title, ` = Title = `; sections have more signs."""
    starts = [found.start() for found in _TITLE.finditer(text)]
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return ["\n".join(line.strip() for line in part.splitlines() if line.strip()) for part in parts]


def write_articles(folder: Path, found: Sequence[str]) -> None:
    """Three splits of articles, each whole in one of them, as tables of texts."""
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    make_folder(folder)
    for split, share in SHARES.items():
        count = max(2, round(share * len(found)))
        _write(folder / f"{split}.jsonl", [found[place] for place in order[:count]])
        order = order[count:]
    _write(folder / "train.jsonl", [found[place] for place in order])


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples one after the other."""
    items = tuple(item for part in parts for item in part.items)
    return Examples(items, np.concatenate([part.labels for part in parts]))


def rows_of(
    before: Mapping[str, Mapping[str, Scored]], found: Mapping[str, Mapping[str, Sequence[Scored]]]
) -> list[dict[str, Any]]:
    """The table: models before any training, each training, and how the student of both does on each domain."""
    rows: list[dict[str, Any]] = []
    for name, domains in before.items():
        for domain, one in domains.items():
            rows.append({"model": name, "text": domain, "parameters": one.parameters, **one.measured})
    for arm, domains in found.items():
        for domain, runs in domains.items():
            for seed, one in enumerate(runs):
                row = {
                    "model": f"student of {STUDENTS[arm]}",
                    "text": domain,
                    "seed": seed,
                    "parameters": one.parameters,
                }
                rows.append({**row, **one.measured, "seconds": round(one.seconds)})
    for domain in DOMAINS:
        mine, singles = found["both"][domain], [found[name][domain] for name in DOMAINS]
        both = min(map(len, (mine, *singles)))
        if both:
            better = min(DOMAINS, key=lambda name: _mean(found[name][domain][:both]))
            apart, drawn = further(mine[:both], found[better][domain][:both])
            rows.append(
                {
                    "model": f"student of both, beside that of the {better}",
                    "text": domain,
                    "seed": f"all {both}",
                    "higher, %": round(100 * float(np.expm1(apart)), 2),
                    "95 % of it": interval(_percent(drawn), 2),
                    "held": bool(np.expm1(apart) <= ALLOWED),
                }
            )
    return rows


def _read(file: Path) -> dict[str, Scored]:
    return {domain: Scored.of(body) for domain, body in read_mapping(file).items() if domain in DOMAINS}


def _mean(runs: Sequence[Scored]) -> float:
    return float(np.mean([one.log_perplexity for one in runs]))


def _percent(logs: Numbers) -> Numbers:
    return 100 * np.expm1(logs)


def _write(file: Path, texts: Sequence[str]) -> None:
    write_text(file, "".join(json.dumps({"text": text}) + "\n" for text in texts))


if __name__ == "__main__":
    main()
