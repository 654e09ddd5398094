"""Benchmarks of students of language models, whole, on a tiny model: they run, report, and go on where they were."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.integration.test_pairs_of_documents import PAIRS, Asking, document
from tests.speaking_server import listening
from tests.tiny_language import WORDS, toy, write_model, write_texts

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
SCRIPT = """
import sys, pathlib
sys.path.insert(0, {folder!r})
import writing
writing.FOLDER = pathlib.Path("reports")
sys.argv = [{name!r}, *{arguments!r}]
__import__({name!r}).main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("benchmarks")
    write_model(made / "model")
    write_texts(made / "data")
    profile = toy(ROOT / "profiles" / "smollm_prune_distill.yaml")
    (made / "toy.yaml").write_text(yaml.safe_dump(profile))
    drawn = random.Random(1)
    articles = [
        f" = Title {n} = \n\n = = Part = = \n\n {' '.join(drawn.choice(WORDS) for _ in range(50))} \n\n"
        for n in range(20)
    ]
    (made / "articles.txt").write_text("".join(articles))
    return made


SHARED = ("--profile", "toy.yaml", "--seeds", "1", "--steps", "3", "--tokens", "300")


def run(folder: Path, name: str, *further: str, shared: Sequence[str] = SHARED) -> str:
    """What a script says, run as it stands with its report in the folder."""
    arguments = [*shared, *further]
    code = SCRIPT.format(folder=str(ROOT / "benchmarks"), name=name, arguments=arguments)
    environment = {**os.environ, "COMPRESS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_teachers_and_one_student(folder: Path):
    assert "skipped: nothing.txt" in run(folder, "llm_teachers", "--encyclopaedia", "nothing.txt")
    report = folder / "reports" / "llm_teachers.json"
    run(folder, "llm_teachers", "--encyclopaedia", "articles.txt", "--arms", "both", "news")
    assert not any("held" in row for row in json.loads(report.read_text())["rows"])
    whole = run(folder, "llm_teachers", "--encyclopaedia", "articles.txt")
    assert "both, seed 0" not in whole
    assert "encyclopaedia, seed 0" in whole
    rows = json.loads(report.read_text())["rows"]
    assert [row["text"] for row in rows if "held" in row] == ["news", "encyclopaedia"]


def test_selective_and_all_tokens(folder: Path):
    run(folder, "llm_selective", "--confidence", "0.03")
    rows = json.loads((folder / "reports" / "llm_selective.json").read_text())["rows"]
    shares = {row["learnt from"]: row["learnt"] for row in rows if "learnt" in row}
    assert shares["all"] == "100.0%"
    assert 0 < float(shares["right"].removesuffix("%")) < 100
    assert [row["learnt from"] for row in rows][-2:] == ["confident, beside all", "right, beside all"]


def test_what_pruning_took_is_learnt_again(folder: Path):
    run(folder, "llm_prune_distill")
    rows = json.loads((folder / "reports" / "llm_prune_distill.json").read_text())["rows"]
    assert [row["arm"] for row in rows[1:4]] == ["pruned", "pruned at random", "pruned, reconstructed"]
    assert rows[1]["gap closed"] == 0 == rows[2]["from random"]
    assert len({row["log perplexity"] for row in rows[:4]}) == 4
    assert [row["arm"] for row in rows if str(row.get("seed")).startswith("all")] == [
        "kd",
        "labels",
        "scratch",
        "refitted",
    ]


def test_a_teacher_that_is_killed_goes_on_and_its_pairs_are_learnt(folder: Path):
    documents = folder / "documents"
    documents.mkdir()
    for split, numbers in {
        "train": range(40),
        "validation": range(200, 220),
        "test": range(400, 404),
    }.items():
        rows = [json.dumps({"text": document(number)}) + "\n" for number in numbers]
        (documents / f"{split}.jsonl").write_text("".join(rows))
    body = yaml.safe_load((ROOT / "profiles" / "docs_to_qa.yaml").read_text())
    body["data"] |= {"path": "documents", "max_length": 128}
    body["teacher"]["model"] = "model"
    body["targets"][0]["sequence_lengths"] = [16]
    with listening(Asking(seconds=0.15)) as there:
        assert isinstance(there, Asking)
        prune, distill = body["passes"][0]["prune"], body["passes"][1]["distill"]
        prune |= {"remove": {"layers": 0.5}, "round_to": 8, "importance_batches": 2}
        distill["student"] = {"layers": 1}
        distill["sequence"] |= {"most": 20, "server": {"url": there.url, "model": "m", "concurrency": 1}}
        distill["synthetic"] |= {**PAIRS, "passage_tokens": [8, 48], "prompt": "{question}"}
        (folder / "pairs.yaml").write_text(yaml.safe_dump(body))
        options = ["--profile", "pairs.yaml", "--passages", "30", "--held-out", "20", "--epochs", "1"]
        run(folder, "docs_to_qa", *options, "--recover", "0.9", "--work", "pairs", shared=())
        prompts = [json.dumps(one["messages"]) for one in there.asked]
    # What was in flight when the process died may have been asked, and not kept.
    assert len(set(prompts)) == 50 <= len(prompts) <= 51
    rows = json.loads((folder / "reports" / "docs_to_qa.json").read_text())["rows"]
    assert [row.get("taught") for row in rows] == ["untaught", "documents", "pairs", None]
    assert rows[-1]["asked twice"] == 0
    assert rows[-1]["as it was"]
    assert 20 <= rows[-1]["killed after"] <= rows[-1]["written before"] < 50
    pairs = json.loads((folder / "reports" / "docs_to_qa_pairs.json").read_text())["rows"]
    assert all(row["answer"].split()[1] in row["passage"] for row in pairs)
