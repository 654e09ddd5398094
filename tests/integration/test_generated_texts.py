"""A classifier's student learns texts that a language model writes: from a profile to a report, a card, another run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress import api
from tests.jobs import write_job
from tests.tiny_language import write_model

pytestmark = pytest.mark.slow
GENERATE = {
    "model": "writer",
    "license": "apache-2.0",
    "license_ok": True,
    "count": 9,
    "most": 7,
    "agree": False,
    "tries": 8,
    "finetune": {"epochs": 1, "learning_rate": 3e-3, "lora": None},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, api.Run]]:
    """A run, in the folder of its profile."""
    place = tmp_path_factory.mktemp("generated") / "job"
    distill = {"student": {"layers": 1, "hidden_size": 16}, "vocabulary": "trim", "epochs": 2}
    file = write_job(
        place,
        data={"path": "data.csv", "max_length": 16, "unlabeled": {"generate": GENERATE}},
        passes=[{"distill": {**distill, "control": True}}, {"export": {"formats": ["onnx"], "golden": 2}}],
    )
    write_model(place / "writer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COMPRESS_CACHE", str(place / "cache"))
        yield file, api.run(file, quiet=True)


def test_the_student_learns_them_beside_the_data(done: tuple[Path, api.Run]):
    record = done[1].record
    steps = {step.step: step for step in record.steps}
    told, shown = steps["distill"].facts["generated"], steps["distill"].facts["shown"]
    assert told["kept"] == told["wanted"] == shown["unlabeled"] == 9
    assert shown["train"] == record.splits["train"]
    assert told["writer"]["steps"] > 0 > told["writer"]["validation_score"]
    # The control learns the labels of the data alone.
    assert "generated" not in steps["distill.control"].facts
    assert "generated" in steps["export"].facts
    assert {one.why for one in steps["distill"].samples} >= {"kept"}
    assert not steps["export"].samples


def test_report_and_card_say_who_wrote(done: tuple[Path, api.Run]):
    folder = done[0].parent / "reports" / "tiny"
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "## Generated texts labelled by the teacher" in page
    assert "distill: 9 of the 9 requested texts are kept." in page
    assert "| distill | writer | apache-2.0 |" in page
    bundle = Path(str(done[1].record.bundle))
    assert json.loads((bundle / "manifest.json").read_text())["learnt_from"] == [
        {"model": "writer", "license": "apache-2.0"}
    ]
    assert "writer (apache-2.0)" in (bundle / "README.md").read_text(encoding="utf-8")


def test_more_texts_neither_train_nor_ask_again(done: tuple[Path, api.Run]):
    states = {row.name: row.state for row in api.plan(done[0])}
    assert set(states.values()) == {"cached"}
    more = api.plan(done[0], ("data.unlabeled.generate.count=12",))
    changed = {row.name for row in more if row.state != "cached"}
    assert {"generate", "distill"} <= changed
    assert not changed & {"source", "teacher", "generate.writer.source", "generate.writer"}
    steps = api.run(done[0], ("data.unlabeled.generate.count=12",), quiet=True).record.steps
    found = next(step.facts["generated"] for step in steps if step.step == "distill")
    assert 0 < found["written_before"] < found["answers"]
