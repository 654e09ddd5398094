"""Distillation, quantization, structured pruning and low rank, alone and together: what is kept, and what it costs.

    python benchmarks/methods_side_by_side.py [--only clinc|smollm] [--rows NAME ...] [--seeds N] [--train | --time]
        [--publish] [--quick]

Two subjects, each with one teacher that all rows share: the classifier of clinc_headline.yaml (CLINC150, one thread,
three seeds of the passes), and SmolLM2-135M as profiles/smollm_prune_distill.yaml trains it (BBC News, one seed). A
row is a profile with other passes, run as `compress run` runs it; its figures are those of the last row of its report.

Budgets. CLINC150: whatever is trained alone is trained for about as long, 90 to 110 s on two quiet cores, which are 2
epochs of recovery for the pruned and the factored model, and 6 epochs of three times the texts for the student, what
the teacher says of them included; pruning the student adds 2 short epochs. The headline has a longer training, and one
seed. SmolLM2: 300 steps of 4 windows for each of pruning, low rank and distillation. The seconds of every training
stand in the table.

How long it takes on two quiet cores. CLINC150: the teacher 6.5 min; of a seed the distilled student, the pruned and
the factored model 2 min each, the pruned student 1 min, each of the quantized rows 0.5 min; the headline 5.5 min; the
timings in the end 4 min: 38 minutes in all. SmolLM2: the teacher 25 min; pruning, low rank and distillation 15 min
each, INT4 5 min each, and to score a row 6 to 9 min: three hours.

First all rows are trained and scored, seed by seed (`--train`: that alone); then the first seed's models are timed in
alternation with the FP32 model (`--time`: that alone, again where it was disturbed). Scores stand whatever else the
machine does; times are shown only of rows that nobody disturbed, and seconds of training say `busy` where the load was
high. After every row the report is written: reports/benchmarks/methods_side_by_side.json and .md, and a plot for each
subject. The same command goes on where it was stopped. `--publish` puts the tables into the README. `--quick` runs
everything on tiny models, in two minutes.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from choosing import is_asked
from numpy.typing import NDArray
from paired_seeds import paired_difference
from publish import mark, with_table
from running import ROOT, missing, run_profile
from writing import FOLDER, markdown, read_rows, write_rows

from compress.core.disk.files import make_folder, write_json, write_text
from compress.core.disk.reading import read_mapping
from compress.core.disk.source_uris import local_path
from compress.core.errors import CompressError
from compress.reporting.data.paired import decode_hits
from compress.reporting.data.pareto import dominators
from compress.reporting.plots.plots import draw
from compress.reporting.render.document import BubblePlot, Point
from compress.store.cache import Cache

NAME = "methods_side_by_side"
CLINC = Path(__file__).with_name("clinc_headline.yaml")
SMOLLM = ROOT / "profiles" / "smollm_prune_distill.yaml"
INT4 = ROOT / "profiles" / "smollm_int4.yaml"
TEACHER = "teacher, FP32"
DRAWN = ("distill", "prune", "low_rank")
"""Passes that take a seed."""
SCORED: dict[str, Any] = {"examples": 20, "min_seconds": 0.2, "min_rounds": 4, "patience_s": 0}
"""How models are measured of which the score alone is wanted."""
TIMED: dict[str, Any] = {}
"""As a profile measures that says nothing."""
RESAMPLES = 2000
COLOURS = "--ink: #1a1d21; --muted: #646b75; --line: #dfe3e8; --surface: #ffffff; --accent: #2459c9; --font: sans-serif"
"""Of a plot that stands on no page of ours."""
BUSY = 1.5
"""A load of so much a core: others take their part of it."""
SHOWN = ("score", "retention", "retention_low", "retention_high", "size_mb", "parameters", "peak_memory_mb")
CLOCKED = ("latency_p50_ms", "speedup", "speedup_low", "speedup_high", "latency_verdict", "disturbed")
NOTE = (
    "One teacher for all rows; seeds are those of the passes. Scores are means over seeds, `spread` the standard "
    "deviation over them. `not told apart from`: of CLINC150 the rows whose difference has 0 in the 95 % interval "
    "of the paired bootstrap over test examples and seeds; of SmolLM2, whose intervals are over documents, paired "
    "with the teacher, those where they overlap. Times are those of the first seed's model in alternation with "
    "the FP32 model, one thread; empty where something else disturbed them. Seconds of training are those of its "
    "loop, its looks at the validation split included; `all work` is the passes as a whole, with what the teacher "
    "says (once for all rows that ask for the same). `busy`: others used the machine meanwhile. The teacher's "
    "seconds are those of its fine-tuning, which every row needs beside its own."
)
Pass = dict[str, Any]
Found = Mapping[str, Any]
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """A method: the passes of its profile, and of how many seeds at most it is run."""

    passes: tuple[Pass, ...]
    seeds: int | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether another seed makes another model."""
        return any(kind in DRAWN for one in self.passes for kind in one)

    def seeded(self, seed: int) -> list[Pass]:
        """Its passes with a seed: the teacher keeps its own."""
        return [
            {kind: {**body, "seed": seed} if kind in DRAWN else body for kind, body in one.items()}
            for one in self.passes
        ]

    def seeds_of(self, asked: int) -> range:
        """The seeds that it is run with."""
        return range(1, 1 + (min(asked, self.seeds or asked) if self.is_drawn else 1))


@dataclass(frozen=True)
class Subject:
    """A teacher and what is done to it. `scored`: how a model is measured that is not timed."""

    title: str
    profile: Path
    rows: Mapping[str, Row]
    seeds: int
    scored: Mapping[str, Any]
    shared: Mapping[str, Any]


def clinc() -> Subject:
    """The classifier."""
    headline = passes_of(CLINC)
    student = headline[0]["distill"]
    distil: Pass = {
        "distill": {**student, "augment": {"copies": 2, "replace": 0.2, "splice": 0.3}, "epochs": 6}
    }
    prune: Pass = {
        "prune": {
            "remove": {"heads": 0.5, "feed_forward": 0.65, "vocabulary": "unused"},
            "recover": {"epochs": 2, "learning_rate": 3e-4},
        }
    }
    factor: Pass = {"low_rank": {"ratio": 0.5, "recover": {"epochs": 2, "learning_rate": 2e-4}}}
    prune_student: Pass = {
        "prune": {
            "remove": {"feed_forward": 0.25},
            "recover": {"epochs": 2, "learning_rate": 1e-3, "batch_size": 64},
        }
    }
    int8: Pass = {"quantize": {"bits": 8}}
    rows = {
        "distilled": Row((distil,)),
        "INT8": Row((int8,)),
        "pruned": Row((prune,)),
        "low rank": Row((factor,)),
        "distilled, INT8": Row((distil, int8)),
        "pruned, INT8": Row((prune, int8)),
        "low rank, INT8": Row((factor, int8)),
        "distilled, pruned, INT8": Row((distil, prune_student, int8)),
        "the headline": Row(tuple(headline), seeds=1),
    }
    return Subject("CLINC150", CLINC, rows, 3, SCORED, {})


def smollm() -> Subject:
    """The language model."""
    prune = next(one for one in passes_of(SMOLLM) if "prune" in one)
    int4 = next(one for one in passes_of(INT4) if "quantize" in one)
    recover = prune["prune"]["recover"]
    factor: Pass = {"low_rank": {"ratio": 0.25, "round_to": 32, "recover": recover}}
    distil: Pass = {
        "distill": {
            "student": {"layers": 22, "choose": "similarity", "intermediate_size": 1152, "from": "teacher"},
            **recover,
        }
    }
    rows = {
        "INT8": Row(({"quantize": {"bits": 8, "scheme": "weight_only"}},)),
        "INT4": Row((int4,)),
        "pruned": Row((prune,)),
        "distilled": Row((distil,)),
        "low rank": Row((factor,)),
        "pruned, INT4": Row((prune, int4)),
        "low rank, INT4": Row((factor, int4)),
    }
    # To score one takes minutes: it is done once.
    return Subject("SmolLM2-135M", SMOLLM, rows, 1, TIMED, {})


SUBJECTS: dict[str, Callable[[], Subject]] = {"clinc": clinc, "smollm": smollm}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=SUBJECTS, help="of the subjects")
    parser.add_argument(
        "--rows", nargs="*", help="names, or beginnings of names; the others stay as they are"
    )
    parser.add_argument("--seeds", type=int, help="of the passes; unset: 3 of the classifier, 1 of SmolLM2")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--train", action="store_true", help="train and score alone")
    half.add_argument("--time", action="store_true", help="time alone")
    parser.add_argument("--publish", action="store_true", help="put the tables into the README, run nothing")
    parser.add_argument("--quick", action="store_true", help="tiny models, to try it")
    options = parser.parse_args()
    if options.publish:
        readme = ROOT / "README.md"
        write_text(readme, published(readme.read_text(encoding="utf-8")))
        return 0
    benches = []
    for name, subject in SUBJECTS.items():
        if options.only not in (None, name):
            continue
        made = subject()
        if reason := missing(made.profile):
            print(f"{made.title} is skipped: {reason}", flush=True)
            continue
        benches.append(Bench(name, toy(name, made) if options.quick else made, options))
    for bench in benches:
        bench.run(lambda: report(benches, options.quick))
    return 0


class Bench:
    """A subject, and what was found of its rows so far."""

    def __init__(self, name: str, subject: Subject, options: argparse.Namespace) -> None:
        self.name, self.subject, self.options = name, subject, options
        self.work = Cache.default().root / (NAME + ".quick" * options.quick) / name

    @property
    def seeds(self) -> int:
        """Of the passes."""
        return int(self.options.seeds or self.subject.seeds)

    def run(self, report: Callable[[], None]) -> None:
        """Train and score seed by seed, then time; what stands is not trained again, and what was refused is tried."""
        rows = {name: row for name, row in self.subject.rows.items() if is_asked(name, self.options.rows)}
        if not self.options.time:
            for seed in range(1, self.seeds + 1):
                for name, row in rows.items():
                    if seed in row.seeds_of(self.seeds) and not self.is_scored(name, seed):
                        self.measure(name, row, seed, self.subject.scored, self.file(name, seed))
                        report()
        if not self.options.train:
            for name, row in rows.items():
                if self.is_scored(name, 1):
                    self.measure(name, row, 1, TIMED, self.file(name, "timed"))
                    report()

    def is_scored(self, row: str, seed: int) -> bool:
        """Whether a row stands."""
        return "row" in (self.found(row, seed) or {})

    def file(self, row: str, what: int | Literal["timed"]) -> Path:
        """Where the figures of a row stand."""
        return self.work / f"{re.sub(r'[^a-z0-9]+', '_', row.lower())}-{what}.json"

    def found(self, row: str, what: int | Literal["timed"]) -> dict[str, Any] | None:
        """What was found of a row as it is asked for now; None where it was not run."""
        file, seed = self.file(row, what), what if isinstance(what, int) else 1
        if not file.exists():
            return None
        body = dict(read_mapping(file))
        return body if body["passes"] == self.subject.rows[row].seeded(seed) else None

    def measure(self, name: str, row: Row, seed: int, measure: Mapping[str, Any], file: Path) -> None:
        """Run the profile of a row, and write down what its report says."""
        print(f"{self.subject.title}: {name}, seed {seed}", flush=True)
        make_folder(self.work)
        passes = row.seeded(seed)
        quick = SCORED if self.options.quick else measure
        wanted = {"name": NAME, "budget": None, **self.subject.shared, "measure": quick, "passes": passes}
        load = os.getloadavg()[1]
        try:
            rows = run_profile(self.subject.profile, wanted)["rows"]
        except CompressError as error:
            body: dict[str, Any] = {"passed_over": reason_of(error)}
            print(f"{name} is passed over: {body['passed_over']}", flush=True)
        else:
            busy = self._busy([one["key"] for one in rows], max(load, os.getloadavg()[1]))
            body = {
                "teacher": {**figures(rows[0]), "busy": busy[0]},
                "row": figures(rows[-1]),
                "training_seconds": sum(one["training_seconds"] or 0 for one in rows[1:]),
                "seconds": sum(one["seconds"] for one in rows[1:]),
                "busy": any(busy[1:]),
            }
        write_json(file, {"passes": passes, **body})

    def _busy(self, keys: Sequence[str], load: float) -> list[bool]:
        """Whether others used the machine when each of some steps was made: the first time that it was seen here."""
        file = self.work / "busy.json"
        seen = dict(read_mapping(file)) if file.exists() else {}
        busy = [bool(seen.setdefault(key, load > BUSY * (os.cpu_count() or 1))) for key in keys]
        write_json(file, seen)
        return busy

    def rows(self) -> list[dict[str, Any]]:
        """The table of what was found so far, the teacher first."""
        scored = {
            name: [one for seed in row.seeds_of(self.seeds) if (one := self.found(name, seed))]
            for name, row in self.subject.rows.items()
        }
        timed = {name: self.found(name, "timed") for name in self.subject.rows}
        drawn = {name for name, row in self.subject.rows.items() if row.is_drawn}
        return rows_of(self.subject.title, scored, timed, drawn)


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of a report says that the table is made of."""
    target = row["targets"][0]
    return {
        **{name: row.get(name) for name in (*SHOWN, *CLOCKED, "training_seconds")},
        "metric": target["metrics"][0]["name"],
        "hits": target["hits"],
        "examples": target["examples"],
        "read_speedup": read_speedup(target["latency"]),
    }


def read_speedup(timings: Sequence[Mapping[str, Any]]) -> float | None:
    """How many times faster a prompt is read; None of what is no language model, and where it was disturbed."""
    found = (one for one in timings if one["lengths"].startswith("read:") and not one["disturbed"])
    return next((one["speedup"] for one in found), None)


def rows_of(
    title: str,
    scored: Mapping[str, Sequence[Found]],
    timed: Mapping[str, Found | None],
    drawn: set[str],
) -> list[dict[str, Any]]:
    """The rows of a subject's table: means over seeds, and which scores cannot be told apart.

    Args:
        scored: of each method what its runs found, by seed.
        timed: of each method what its timing found.
        drawn: methods of which another seed makes another model.
    """
    runs = {name: [one for one in found if "row" in one] for name, found in scored.items()}
    some = [*(one for found in runs.values() for one in found)]
    if not some:
        return []
    clocks = [one for one in timed.values() if one is not None and "row" in one]
    whole = {TEACHER: [{"row": some[0]["teacher"]}]} | {name: found for name, found in runs.items() if found}
    alike = not_told_apart(whole, drawn)
    baseline = some[0]["teacher"]
    rows = [_row(title, TEACHER, whole[TEACHER], clocks[0]["teacher"] if clocks else None, baseline, alike)]
    # The teacher's own pair is the same file twice: its ratio is the noise of the machine.
    rows[0] |= {"training, s": _seconds(baseline["training_seconds"], busy=baseline["busy"])}
    for name, found in scored.items():
        if runs[name]:
            clock = timed.get(name)
            clocked = clock["row"] if clock is not None and "row" in clock else None
            row = _row(title, name, runs[name], clocked, baseline, alike)
            busy = any(one["busy"] for one in runs[name])
            row |= {
                key: _seconds(statistics.mean(one[of] for one in runs[name]), busy=busy)
                for key, of in (("training, s", "training_seconds"), ("all work, s", "seconds"))
            }
            rows.append(row)
        elif found:
            rows.append({"model": title, "method": name, "note": found[0]["passed_over"]})
    return rows


def _row(
    title: str,
    name: str,
    runs: Sequence[Found],
    clocked: Found | None,
    baseline: Found,
    alike: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    each = [one["row"] for one in runs]
    scores, kept = [one["score"] for one in each], [one["retention"] for one in each]
    size = statistics.mean(one["size_mb"] for one in each)
    clock = clocked if clocked is not None and not clocked["disturbed"] else None
    memory = (clocked or each[0])["peak_memory_mb"]
    return {
        "model": title,
        "method": name,
        "seeds": len(each),
        "metric": each[0]["metric"],
        "score": _rounded(statistics.mean(scores), 4),
        "spread": _rounded(statistics.stdev(scores), 4) if len(scores) > 1 else None,
        "retention": _rounded(statistics.mean(kept), 4),
        "95 % of it": _interval(each[0], "retention") if len(each) == 1 else None,
        "not told apart from": "; ".join(alike[name]) or None,
        "times faster": _rounded(clock["speedup"], 2) if clock else None,
        "95 % of that": _interval(clock, "speedup") if clock else None,
        "p50, ms": _rounded(clock["latency_p50_ms"], 3) if clock else None,
        "times faster, reading": _rounded(clock["read_speedup"], 2) if clock else None,
        "memory, MB": _rounded(memory, 1),
        "MB": _rounded(size, 2),
        "times smaller": _rounded(baseline["size_mb"] / size, 2),
        "parameters": round(statistics.mean(one["parameters"] for one in each)),
        "training, s": None,
        "all work, s": None,
        "note": "timing disturbed" if clocked is not None and clock is None else None,
    }


def not_told_apart(runs: Mapping[str, Sequence[Found]], drawn: set[str]) -> dict[str, list[str]]:
    """For each method those whose scores may be no other: of classifiers by the paired bootstrap over examples and
    seeds, of the rest where the intervals of what is kept overlap."""
    found: dict[str, list[str]] = {name: [] for name in runs}
    for one, other in combinations(runs, 2):
        first, second = ([each["row"] for each in runs[name]] for name in (one, other))
        if _told_apart(first, second, one in drawn, other in drawn):
            continue
        found[one].append(other)
        found[other].append(one)
    return found


def _told_apart(first: Sequence[Found], second: Sequence[Found], *drawn: bool) -> bool:
    if first[0]["hits"] is not None and second[0]["hits"] is not None:
        hits = paired_hits([hits_of(each) for each in (first, second)], drawn)
        return paired_difference(*hits, resamples=RESAMPLES).verdict != "no difference"
    intervals = [[(one["retention_low"], one["retention_high"]) for one in each] for each in (first, second)]
    # The teacher has no interval: it keeps all.
    low, high = zip(*(ends(each) for each in intervals), strict=True)
    return bool(max(low) > min(high))


def ends(intervals: Sequence[tuple[float | None, float | None]]) -> tuple[float, float]:
    """The lowest and the highest end; of none 1 and 1."""
    lows, highs = ([end for end in each if end is not None] for each in zip(*intervals, strict=True))
    return min(lows, default=1.0), max(highs, default=1.0)


def hits_of(runs: Sequence[Found]) -> Hits:
    """Right answers, (seeds, examples)."""
    return np.array([decode_hits(one["hits"], one["examples"]) for one in runs], dtype=np.bool_)


def paired_hits(hits: Sequence[Hits], drawn: Sequence[bool]) -> tuple[Hits, Hits]:
    """Two methods with as many seeds each: those that both have; a model that no seed changes is the same for all."""
    first, second = hits
    seeds = [len(each) for each, differs in zip(hits, drawn, strict=True) if differs] or [1]
    first, second = (
        each if differs else np.repeat(each[:1], min(seeds), axis=0)
        for each, differs in zip((first, second), drawn, strict=True)
    )
    return first[: min(seeds)], second[: min(seeds)]


def report(benches: Sequence[Bench], quick: bool) -> None:
    """Write the table and the plots of what was found so far."""
    name = NAME + ".quick" * quick
    found = {bench.subject.title: bench.rows() for bench in benches}
    # Of a subject of which nothing was found here, what was found before stays.
    before = [row for row in read_rows(name) if not found.get(row["model"])]
    rows = [*before, *(row for own in found.values() for row in own)]
    write_rows(name, rows, note=NOTE, script=NAME)
    for bench in benches:
        picture = plot(rows, bench.subject.title)
        if picture is not None:
            write_text(FOLDER / f"{name}.{bench.name}.svg", picture)


def plot(rows: Sequence[Mapping[str, Any]], title: str) -> str | None:
    """What is kept over the size, the area that of the seconds of training; None where there is nothing to compare."""
    shown = [row for row in rows if row["model"] == title and row.get("MB") is not None]
    if len(shown) < 3:
        return None
    costs = [(-row["retention"], row["MB"], 0.0) for row in shown]
    points = tuple(
        Point(
            row["method"],
            "baseline" if row["method"] == TEACHER else "step",
            (row["MB"],) * 3,
            (100 * row["retention"],) * 3,
            0.0 if row["method"] == TEACHER else float(str(row["training, s"] or 0).partition(",")[0]),
            not better,
        )
        for row, better in zip(shown, dominators(costs), strict=True)
    )
    svg = draw(BubblePlot("MB (area: seconds of training)", "retention, %", points), f"{NAME}-{title}")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    width, height = box.groups()
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = f'<svg {spaces} width="{width}" height="{height}" style="background: #ffffff; {COLOURS}"'
    return svg.replace("<svg", head, 1) + "\n"


def published(readme: str) -> str:
    """The README with the tables of the report, one for each subject that has a place in it and was run."""
    file = FOLDER / f"{NAME}.json"
    if not file.exists():
        return readme
    body = read_mapping(file)
    for name, subject in SUBJECTS.items():
        place, title = f"{NAME}.{name}", subject().title
        if mark(place) in readme and any(row["model"] == title for row in body["rows"]):
            readme = with_table(readme, place, readme_table(body["rows"], name, title, body["machine"]))
    return readme


def readme_table(rows: Sequence[Mapping[str, Any]], name: str, title: str, measured_on: str) -> str:
    """The rows of a subject with the columns that fit into a page, and its plot."""
    own = [row for row in rows if row["model"] == title and row.get("MB") is not None]
    columns = ("score", "spread", "retention", "times faster", "memory, MB", "MB", "training, s")
    kept = [column for column in ("method", *columns) if any(row.get(column) is not None for row in own)]
    named = {column: own[0]["metric"] if column == "score" else column for column in kept}
    table = markdown([{named[column]: row.get(column) for column in kept} for row in own])
    picture = f"reports/benchmarks/{NAME}.{name}.svg"
    shown = f"\n\n![{title}: retention over size]({picture})" if (ROOT / picture).exists() else ""
    return f"{table}\n\nWritten by `benchmarks/{NAME}.py`; measured on {measured_on}.{shown}"


def toy(name: str, subject: Subject) -> Subject:
    """The same rows with everything small: a tiny teacher, few examples, short trainings."""
    folder = Cache.default().root / f"{NAME}.quick" / "sources"
    shared = _tiny_classifier(folder) if name == "clinc" else _tiny_decoder(folder)
    rows = {key: shortened(row) for key, row in subject.rows.items()}
    return replace(subject, rows=rows, seeds=min(subject.seeds, 2), scored=SCORED, shared=shared)


def shortened(row: Row) -> Row:
    """The same passes with little training."""
    return Row(tuple(map(_short, row.passes)), row.seeds)


def _short(one: Pass) -> Pass:
    ((kind, body),) = copy.deepcopy(one).items()
    if kind == "distill":
        sizes = {"hidden_size": 32, "heads": 2} if "hidden_size" in body["student"] else {}
        body["student"] = {"layers": 1, "intermediate_size": 64, "from": "teacher", **sizes}
        body["epochs"] = 1
        if "augment" in body:
            body["augment"]["copies"] = 1
    if kind == "prune":
        body |= {"importance_batches": 2}
        if "layers" in body["remove"]:
            body["remove"]["layers"] = 0.5
    if kind == "low_rank":
        body |= {"round_to": 8}
    for training in ("recover", "train"):
        if training in body:
            body[training] |= {"epochs": 1}
    return {kind: body}


def _tiny_classifier(folder: Path) -> dict[str, Any]:
    """A BERT with random weights and the tokenizer of the real one, and 8 of the intents."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    base = yaml.safe_load(CLINC.read_text())
    source = str(local_path(base["teacher"]["model"], CLINC.parent))
    model = folder / "bert"
    config = AutoConfig.from_pretrained(source)
    config.update(
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    )
    AutoModel.from_config(config).save_pretrained(model)
    AutoTokenizer.from_pretrained(source).save_pretrained(model)
    data = (CLINC.parent / base["data"]["path"]).resolve()
    few: Counter[str] = Counter()
    intents: list[str] = []
    for split, count in (("train", 40), ("validation", 10), ("test", 20)):
        with (data / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
        intents = intents or sorted({label for _, label in rows})[:8]
        few.clear()
        kept = []
        for text, label in rows:
            few[label] += 1
            if label in intents and few[label] <= count:
                kept.append((text, label))
        target = folder / "intents" / f"{split}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *kept])
    finetune = {"epochs": 12, "learning_rate": 3e-3}
    return {
        "teacher": {"model": str(model), "finetune": finetune},
        "data.path": str(folder / "intents"),
    }


def _tiny_decoder(folder: Path) -> dict[str, Any]:
    """A decoder that is made and trained here, and 120 articles."""
    base = yaml.safe_load(SMOLLM.read_text())
    source = Path(str(local_path(base["data"]["path"], SMOLLM.parent)))
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(source.rglob("*.txt"))]
    target = folder / "articles.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    chosen = texts[:: max(1, len(texts) // 120)]
    target.write_text("".join(json.dumps({"text": text[:600]}) + "\n" for text in chosen))
    config = {"model_type": "llama", "layers": 2, "hidden_size": 64, "heads": 4, "groups": 2}
    return {
        "teacher": {
            "config": {**config, "tokenizer": {"vocabulary": 600}},
            "finetune": {"epochs": 3, "learning_rate": 3e-3, "batch_size": 16},
        },
        "data.path": str(target),
        "data.max_length": 64,
        "targets": [{"device": "cpu", "sequence_lengths": [16]}],
    }


def passes_of(profile: Path) -> list[Pass]:
    """The passes of a profile as it is written."""
    passes: list[Pass] = yaml.safe_load(profile.read_text(encoding="utf-8"))["passes"]
    return passes


def reason_of(error: CompressError) -> str:
    """What an error says, in one line without places."""
    return re.sub(r"^[^ ]*\.yaml[:\d]*: ", "", str(error).splitlines()[0])


def _seconds(value: float | None, *, busy: bool) -> str | int | None:
    return None if value is None else f"{value:.0f}, busy" if busy and value else round(value)


def _interval(values: Found, name: str) -> str | None:
    low, high = values[f"{name}_low"], values[f"{name}_high"]
    return None if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _rounded(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)


if __name__ == "__main__":
    sys.exit(main())
