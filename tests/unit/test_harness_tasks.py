"""Tasks of lm-eval in a profile: refused before anything is trained, or scored and compared by document."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress import api
from compress.core.errors import CompressError, DataError, UsageError
from compress.core.records import Metric, TaskScore
from compress.tasks.causal_lm.keys import LanguageData, LmEvalSpec
from tests.sshd import start_sshd
from tests.tiny_language import WORDS, profile, write_model, write_texts

INSTALLED = importlib.util.find_spec("lm_eval") is not None


def asked(**keys: object) -> LanguageData:
    said = {"path": "x", "max_length": 64, "lm_eval": {"tasks": ["tiny_choice"], **keys}}
    return LanguageData.model_validate(said)


def write_task(folder: Path, **keys: object) -> None:
    folder.mkdir()
    rows = [
        {"text": f"the {word}", "choices": [" cat", " red dog"], "gold": n % 2}
        for n, word in enumerate(WORDS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 2.0},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(task | keys))


WRITES = {
    "output_type": "generate_until",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_it_is_refused_where_it_is_not_installed(tmp_path: Path):
    with pytest.raises(DataError) as found:
        asked().check(tmp_path, allow_code=False)
    assert "pip install lm-eval" in str(found.value.hint)


def test_own_tasks_need_leave_to_run_code(tmp_path: Path):
    write_task(tmp_path / "tasks")
    with pytest.raises(UsageError, match="which is not allowed by default"):
        asked(include="tasks").check(tmp_path, allow_code=False)
    with pytest.raises(DataError, match="this folder of tasks does not exist"):
        asked(include="elsewhere").check(tmp_path, allow_code=True)
    assert [file.name for file in asked(include="tasks").scoring_files(tmp_path)] == [
        "rows.jsonl",
        "tiny.yaml",
    ]


@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed")
def test_tasks_that_are_not_scored_here_are_refused_by_name(tmp_path: Path):
    from compress.tasks.causal_lm.harness.tasks import check_tasks

    write_task(tmp_path / "tasks", output_type="loglikelihood_rolling")
    with pytest.raises(DataError, match="'tiny_choice' is not a single task"):
        check_tasks(LmEvalSpec(tasks=("tiny_choice",), include="tasks"), tmp_path, allow_code=True)
    for name, keys in {"drawn": {"generation_kwargs": {"do_sample": True}}, "often": {"repeats": 4}}.items():
        write_task(tmp_path / name, **WRITES, **keys)
        with pytest.raises(DataError, match="'tiny_choice' asks for sampled answers"):
            check_tasks(LmEvalSpec(tasks=("tiny_choice",), include=name), tmp_path, allow_code=True)
    write_task(tmp_path / "none", num_fewshot=0)
    with pytest.raises(DataError, match="is fixed at zero shots"):
        check_tasks(LmEvalSpec(tasks=("tiny_choice",), include="none", shots=2), tmp_path, allow_code=True)


def test_what_is_kept_is_held_against_the_baselines_score():
    from compress.tasks.causal_lm.sections import score_retention

    def score(value: float) -> TaskScore:
        metric = Metric(name="acc", value=value, low=0, high=1, n=4)
        return TaskScore(
            task="t", version="1", harness="h", shots=0, documents="d", metrics=(metric,), right=(True,) * 4
        )

    assert score_retention(score(0.6), score(0.8)) == pytest.approx(0.75)
    assert score_retention(score(0.6), score(0.0)) is None
    assert score_retention(score(0.6), None) is None


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if request.param != "ssh":
        yield {"runtime": request.param}
        return
    server = start_sshd(tmp_path / "sshd")
    monkeypatch.setenv("PATH", server.path)
    (tmp_path / "there").mkdir()
    yield {"device": server.device, "python": sys.executable, "folder": str(tmp_path / "there")}
    server.stop()


INT4 = {"bits": 4, "method": "rtn", "block_size": 16}


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed")
@pytest.mark.parametrize(
    ("target", "quantize"),
    [
        ("onnxruntime", INT4),
        ("torch", {"library": "bitsandbytes", "bits": 8}),
        pytest.param("ssh", INT4, marks=pytest.mark.system),
    ],
    indirect=["target"],
)
def test_every_step_is_scored_in_them(
    target: dict[str, Any], quantize: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    write_texts(tmp_path / "data")
    write_task(tmp_path / "tasks")
    ways = [{"name": name, "filter": [{"function": "take_first"}]} for name in ("whole", "again")]
    written = {
        **WRITES,
        "task": "tiny_write",
        "doc_to_target": " cat",
        "filter_list": ways,
        "doc_to_choice": None,
    }
    limits = {"generation_kwargs": {"until": ["."], "max_gen_toks": 5}}
    write_task(tmp_path / "tasks" / "writes", **written, **limits)
    said = profile(passes=[{"quantize": quantize}], targets=[{"sequence_lengths": [16], **target}])
    said["data"]["lm_eval"] = {
        "tasks": ["tiny_choice", "tiny_write"],
        "include": "tasks",
        "limit": 10,
        "shots": 2,
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(CompressError, match="not allowed by default"):
        api.run(tmp_path / "p.yaml", quiet=True)
    run = api.run(tmp_path / "p.yaml", quiet=True, allow_code=True)
    scored = [step.measurements[0].accuracy for step in run.record.steps if step.measurements]
    assert len(scored) > 1
    for one in scored:
        task, writes = one.tasks
        assert (task.version, task.shots, len(task.right)) == ("2.0", 2, 10)
        assert {metric.name for metric in task.metrics} == {"acc", "acc_norm"}
        share = next(metric for metric in one.metrics if metric.name == "task_accuracy")
        assert {metric.name for metric in writes.metrics} == {"exact_match,whole", "exact_match,again"}
        assert share.value == pytest.approx(sum(task.right + writes.right) / 20)
    assert scored[0].tasks[0].p_value is None
    assert scored[-1].tasks[0].p_value is not None
    assert "lm-eval tasks" in next(tmp_path.glob("reports/*/report.md")).read_text()
