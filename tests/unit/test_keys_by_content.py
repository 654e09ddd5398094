"""A key holds of the data what steps read of it: files are edited, and keys compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from compress.core.numerics import Numerics
from compress.engine import contents
from compress.engine.contents import cached_content_digests
from compress.engine.explain_plan import explain_plan
from compress.engine.resolve import fingerprints, resolve_job
from compress.planning.keys import all_parts, key_of
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
from compress.store.cache import Cache
from tests.jobs import tiny_texts, write_job
from tests.profiles import write_profile

Table = dict[str, list[Any]]
WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "csv": lambda table, file: table.to_csv(file, index=False),
    "jsonl": lambda table, file: table.to_json(file, orient="records", lines=True),
    "parquet": lambda table, file: table.to_parquet(file),
}


def split(name: str, rows: int) -> Table:
    texts = [f"{name} text {number}, with a comma" for number in range(rows)]
    return {"text": texts, "label": ["ab"[number % 2] for number in range(rows)]}


def splits() -> dict[str, Table]:
    return {name: split(name, rows) for name, rows in (("train", 12), ("validation", 6), ("test", 6))}


def write(folder: Path, tables: dict[str, Table], kind: str, **data: Any) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for old in (folder / "data").iterdir():
        old.unlink()
    for name, table in tables.items():
        WRITERS[kind](pd.DataFrame(table), folder / "data" / f"{name}.{kind}")
    return write_profile(
        folder / "job.yaml",
        data={"path": "./data", **data},
        teacher={"model": "owner/model", "finetune": {}},
        passes=[{"distill": {}}, {"quantize": {"bits": 8}}, {"export": {}}],
    )


def keys(profile: Path) -> dict[str, str]:
    loaded = load_profile(profile)
    plan = build_plan(loaded.profile)
    known = cached_content_digests(loaded, fingerprints(loaded, plan), Cache(profile.parent / "none"))
    known = replace(known, models=dict.fromkeys(known.models, "m"))
    parts = all_parts(plan, known, Numerics("cpu", 2, bf16=True))
    found = {name: key_of(one) for name, one in parts.items()}
    return {name: key for name, key in found.items() if key is not None}


def add_a_column(tables: dict[str, Table]) -> None:
    for table in tables.values():
        table["note"] = list(range(len(table["text"])))


def turn_columns_around(tables: dict[str, Table]) -> None:
    for name, table in tables.items():
        tables[name] = dict(reversed(table.items()))


def change_a_test_text(tables: dict[str, Table]) -> None:
    tables["test"]["text"][0] = "quite another one"


def take_another_test_split(tables: dict[str, Table]) -> None:
    tables["test"] = split("other", 8)


def change_a_training_text(tables: dict[str, Table]) -> None:
    tables["train"]["text"][3] += "!"


def change_a_label(tables: dict[str, Table]) -> None:
    tables["train"]["label"][3] = "a"


def name_another_class(tables: dict[str, Table]) -> None:
    for table in tables.values():
        table["label"] = [label.replace("b", "c") for label in table["label"]]


def change_validation(tables: dict[str, Table]) -> None:
    tables["validation"]["text"][0] += "!"


def change_the_order(tables: dict[str, Table]) -> None:
    for column in tables["train"].values():
        column.insert(0, column.pop(2))


def remove_a_row(tables: dict[str, Table]) -> None:
    for column in tables["train"].values():
        column.pop()


def test_what_is_trained_on(tables: dict[str, Table]) -> None:
    """Which takes a row away from training."""
    tables["test"]["text"][0] = tables["train"]["text"][0]


test_what_is_trained_on.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "edit", [add_a_column, turn_columns_around, change_a_test_text, take_another_test_split]
)
def test_what_no_step_reads_changes_no_key(
    edit: Callable[[dict[str, Table]], None], kind: str, tmp_path: Path
):
    before, after = splits(), splits()
    edit(after)
    assert after != before or edit is turn_columns_around
    first = keys(write(tmp_path, before, kind))
    assert {"teacher", "distill", "quantize", "export"} <= first.keys()
    assert keys(write(tmp_path, after, kind)) == first


def test_made_up_texts_depend_on_what_they_must_be_no_copies_of(tmp_path: Path):
    def step(tables: dict[str, Table], **distill: Any) -> str:
        file = write(tmp_path, tables, "jsonl")
        body = yaml.safe_load(file.read_text())
        sequence = {"license": "mit", "license_ok": True}
        body |= {"task": "causal-lm", "data": {"path": "./data", "text_column": "text", "max_length": 256}}
        body |= {
            "teacher": {"model": "owner/model"},
            "passes": [{"distill": {"sequence": sequence, **distill}}],
        }
        file.write_text(yaml.safe_dump(body))
        return keys(file)["distill"]

    after = splits()
    change_a_test_text(after)
    assert step(splits(), data_free={}) != step(after, data_free={})
    assert step(splits()) == step(after)


@pytest.mark.parametrize(
    "edit",
    [
        change_a_training_text,
        change_a_label,
        name_another_class,
        change_validation,
        change_the_order,
        remove_a_row,
        test_what_is_trained_on,
    ],
)
def test_what_is_read_changes_every_key(edit: Callable[[dict[str, Table]], None], tmp_path: Path):
    before, after = splits(), splits()
    edit(after)
    first, second = keys(write(tmp_path, before, "csv")), keys(write(tmp_path, after, "csv"))
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_the_format_and_the_names_of_columns_do_not_matter(tmp_path: Path):
    renamed = {name: {"body": one["text"], "kind": one["label"]} for name, one in splits().items()}
    found = [keys(write(tmp_path, splits(), kind)) for kind in WRITERS]
    found.append(keys(write(tmp_path, renamed, "csv", text_column="body", label_column="kind")))
    elsewhere = {"tuning": splits()["train"], **{k: v for k, v in splits().items() if k != "train"}}
    found.append(keys(write(tmp_path, elsewhere, "csv", splits={"train": "tuning"})))
    assert all(one == found[0] for one in found)


def test_unlabelled_texts_are_read_by_distill_alone(tmp_path: Path):
    further = tmp_path / "further.jsonl"
    found = []
    for text in ("one more", "one more still"):
        further.write_text(json.dumps({"text": text, "number": len(found)}) + "\n")
        found.append(keys(write(tmp_path, splits(), "csv", unlabeled={"path": "./further.jsonl"})))
    assert found[0]["teacher"] == found[1]["teacher"]
    assert found[0]["distill"] != found[1]["distill"]
    further.write_text(json.dumps({"number": 7, "text": "one more"}) + "\n")
    assert keys(write(tmp_path, splits(), "csv", unlabeled={"path": "./further.jsonl"})) == found[0]


def test_a_run_notes_what_it_read_and_plan_goes_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_job(tmp_path / "job", teacher={"model": "teacher"})
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    loaded, cache = load_profile(file), Cache.default()
    job = resolve_job(loaded, allow_code=False)
    assert job.key_fingerprints.by_content
    assert {row.name: row.key for row in explain_plan(loaded)} == job.keys
    job.prepare(cache)
    monkeypatch.setattr(contents, "load", lambda *_: pytest.fail("read again"))
    assert {row.name: row.key for row in explain_plan(loaded)} == job.keys


def test_another_test_split_is_another_run_of_the_same_steps(tmp_path: Path):
    file = write_job(
        tmp_path / "job", teacher={"model": "teacher"}, data={"path": "./splits", "max_length": 16}
    )
    folder, jobs = tmp_path / "job" / "splits", []
    folder.mkdir()
    texts = tiny_texts(60, seed=1)
    for tested in (texts[40:50], texts[50:]):
        for name, rows in (("train", texts[:30]), ("validation", texts[30:40]), ("test", tested)):
            lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        jobs.append(resolve_job(load_profile(file), allow_code=False))
    first, second = jobs
    assert second.keys == first.keys
    assert second.run_id != first.run_id
