"""`compress init`: what it writes is a valid profile of the user's own model and data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compress.cli.root import main
from compress.core.errors import DataError
from compress.profile.load import load_profile
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.fit import fit_problems
from compress.profile.schema import Profile
from compress.starter.writing import starter_profile
from compress.tasks.causal_lm.keys import LanguageData


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [
        ("prajjwal1/bert-tiny", "nyu-mll/glue", "glue_bert_tiny"),
        ("package://the_shop/model", "package://news4all/bbc/data", "bbc_the_shop"),
        ("python:my.models:make", "reviews", "reviews_make"),
    ],
)
def test_it_names_the_users_model_and_data(model: str, data: str, name: str):
    profile = Profile.model_validate(yaml.safe_load(starter_profile(model, data)))
    assert (profile.teacher.model, profile.data.path, profile.name) == (model, data, name)
    assert [spec.kind for spec in profile.specs] == ["distill", "prune", "quantize", "export"]


def test_paths_are_written_as_the_profile_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("my model", "profiles"):
        (tmp_path / folder).mkdir()
    (tmp_path / "reviews.csv").write_text("text,label\n")
    file = tmp_path / "profiles" / "mine.yaml"
    file.write_text(starter_profile("my model", "reviews.csv", file.parent))
    loaded = load_profile(file)
    assert loaded.profile.teacher.model == "../my model"
    assert loaded.profile.data.path == "../reviews.csv"
    assert loaded.profile.name == "reviews_my_model"
    here = Profile.model_validate(yaml.safe_load(starter_profile("my model", "reviews.csv")))
    assert (here.teacher.model, here.data.path) == ("./my model", "./reviews.csv")


def test_what_is_commented_out_is_valid_too():
    text = starter_profile("prajjwal1/bert-tiny", "nyu-mll/glue")
    for key in ("text_column", "label_column", "labels", "splits", "control", "size_mb", "speedup"):
        assert f"# {key}:" in text
        text = text.replace(f"# {key}:", f"{key}:")
    profile = Profile.model_validate(yaml.safe_load(text))
    assert profile.budget.speedup == 10
    assert profile.data.labels == profile.teacher.labels == ("negative", "positive")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


@settings(deadline=None)
@example("0", "0")
@example("...", "---")
@example("null", "1e3")
@example("a: b # c", "x\ny\u2028")
@given(model=TEXT, data=TEXT)
def test_any_text_comes_back_from_the_yaml(model: str, data: str):
    profile = Profile.model_validate(yaml.safe_load(starter_profile(model, data, Path.cwd())))
    if not Path(model).exists():
        assert profile.teacher.model == model
    if not Path(data).exists():
        assert profile.data.path == data


@pytest.mark.parametrize(
    ("rows", "written", "columns"),
    [
        ([{"conversations": [{"from": "gpt", "value": "x"}]}] * 3, "messages", "conversations"),
        ([{"question": "why", "answer": "so"}] * 3, "prompts", "question"),
        ([{"text": "a long text", "topic": "x"}] * 3, "texts", "text"),
    ],
)
def test_a_decoder_gets_the_task_and_the_columns_of_its_texts(
    rows: list[dict[str, object]], written: str, columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    profile = Profile.model_validate(yaml.safe_load(starter_profile("m", "rows.jsonl")))
    assert profile.task == "causal-lm"
    assert isinstance(profile.data, LanguageData)
    assert (profile.data.example_format, profile.data.max_length) == (written, 64)
    assert columns in (profile.data.messages_column, profile.data.prompt_column, profile.data.text_column)
    # Of a model that does not lie here, conversations and prompts tell as much.
    if written != "texts":
        elsewhere = Profile.model_validate(yaml.safe_load(starter_profile("owner/unknown", "rows.jsonl")))
        assert elsewhere.task == "causal-lm"


@pytest.mark.parametrize(
    ("positions", "lengths"), [(160, ()), (159, (127,)), (64, (32,)), (33, (1,)), (32, None)]
)
def test_a_decoder_is_timed_at_lengths_that_it_takes(
    positions: int, lengths: tuple[int, ...] | None, tmp_path: Path
):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    text = starter_profile(str(tmp_path), "owner/data", tmp_path)
    profile = Profile.model_validate(yaml.safe_load(text))
    problems = list(fit_problems(profile, ModelFiles(tmp_path)))
    if lengths is not None:
        assert profile.targets[0].sequence_lengths == lengths
        assert problems == []
    else:
        ((path, problem),) = problems
        assert path == ("teacher", "model")
        assert "needs 33 tokens at least, but the teacher takes 32" in problem.message


def test_columns_beside_prompts_that_are_not_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"sum up {one}", "input": "a text", "output": "x"} for one in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    told = [line for line in starter_profile("owner/unknown", "rows.json").splitlines() if "not read" in line]
    assert told == [
        "# Found: not read of its columns: input; what belongs to a prompt must stand in it.",
    ]


def test_paths_lead_from_where_a_linked_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("here", "far/away"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    Path("reviews.csv").write_text("text,label\n")
    Path("link").symlink_to(tmp_path / "far" / "away")
    written = yaml.safe_load(starter_profile("owner/model", "reviews.csv", Path("link")))
    assert (Path("link") / written["data"]["path"]).resolve() == Path("reviews.csv").resolve()
    assert yaml.safe_load(starter_profile("owner/model", "reviews.csv"))["data"]["path"] == "./reviews.csv"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("reviews.csv").write_text("text,label\n")
    done = CliRunner().invoke(main, ["init", "owner/model", "reviews.csv", "--out", "new/job.yaml"])
    assert done.exit_code == 2
    assert "new: there is no such folder" in done.output


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_head_of_a_decoder_is_told_whatever_its_class_is_called(kind: str, tmp_path: Path):
    head = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}[kind]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [head]}))
    (tmp_path / "rows.csv").write_text("text,topic\na long text,x\nanother text,x\na third text,y\n")
    text = starter_profile(str(tmp_path), str(tmp_path / "rows.csv"))
    assert Profile.model_validate(yaml.safe_load(text)).task == "causal-lm"


@pytest.mark.parametrize("column", ["rating", "score_of_user"])
def test_a_table_without_labels_is_refused_with_what_to_change(column: str, tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text(f"text,{column}\n" + "".join(f"text number {i},{i / 7:.3f}\n" for i in range(1, 7)))
    with pytest.raises(DataError, match="no column looks like labels") as caught:
        starter_profile("owner/unknown", str(file), task="text-classification")
    assert f"the columns are: 'text', '{column}'" in str(caught.value)
    assert "Regression" in str(caught.value)
    file.write_text(file.read_text().replace(column, "label", 1))
    assert "label_column" in starter_profile("owner/unknown", str(file), task="text-classification")


def test_a_model_that_is_not_here_is_said_to_be_one_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    told = "# Found: no file or folder models/mine here; it is taken for a model of the hub.\n"
    assert told in starter_profile("models/mine", "owner/data")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert "taken for" not in starter_profile("models/mine", "owner/data")
    assert "taken for" not in starter_profile("package://shop/model", "owner/data")
