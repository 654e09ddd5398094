"""A student learns what a server writes: from a profile to a report and a bundle, and the key is nowhere in them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress import api
from compress.core.errors import ModelError, ProfileError
from compress.engine.examining import examine
from tests.speaking_server import Speaker, listening
from tests.tiny_language import profile, write_model

SECRET = "sk-Very/Secret+42"
LICENSED = {"license": "apache-2.0", "license_ok": True}


class Telling(Speaker):
    """Repeats the key in its answers and errors."""

    def said(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        said = super().said(path, asked)
        said["choices"][0]["message"]["content"] += f" {SECRET}"
        return said


def written(place: Path, server: dict[str, Any], **sequence: Any) -> Path:
    rows = [{"ask": f"{number} cats", "say": "never learnt"} for number in range(60)]
    (place / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    distill = {
        "student": {"layers": 1},
        "epochs": 1,
        "learning_rate": 3e-3,
        "sequence": {"most": 30, "server": server, **LICENSED, **sequence},
    }
    body = profile(
        data={"path": "asked.jsonl", "prompt_column": "ask", "completion_column": "say", "max_length": 64},
        teacher={"model": "model"},
        passes=[{"distill": distill}, {"export": {"golden": 2}}],
    )
    file = place / "p.yaml"
    file.write_text(yaml.safe_dump(body))
    return file


@pytest.mark.slow
def test_a_student_learns_what_a_server_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ITS_KEY", "another")
    write_model(tmp_path / "model")
    with listening(Telling(key=SECRET)) as there:
        assert isinstance(there, Telling)
        server = {"url": there.url, "model": "scripted", "key_env": "ITS_KEY"}
        file = written(tmp_path, server)
        with pytest.raises(ModelError, match="does not take the key") as caught:
            api.run(file, quiet=True)
        assert caught.value.exit_code == 4
        refused = len(there.asked)
        monkeypatch.setenv("ITS_KEY", SECRET)
        done = api.run(file, quiet=True)
        step = next(one for one in done.record.steps if one.step == "distill")
        told, prompts = step.facts["written"], done.record.splits["train"]
        assert len(there.asked) == refused + prompts
        assert (told["model"], told["answers"], told["by_reason"]) == ("scripted", prompts, {"kept": prompts})
        assert (told["tokens"], told["prompt_tokens"]) == (4 * prompts, 2 * prompts)
        assert step.facts["shown"] == {"written": prompts}
        assert all("times ***" in one.answer for one in step.samples)
        # How it is asked is no part of what is learnt.
        again = api.run(written(tmp_path, {**server, "concurrency": 9, "timeout_s": 5}), quiet=True)
        assert again.record.steps[-1].artifact == done.record.steps[-1].artifact
        assert len(there.asked) == refused + prompts
    shown = (tmp_path / "reports" / "tiny-lm" / "report.md").read_text()
    assert "the server read" in shown
    assert "It learnt texts that other models wrote" in next(tmp_path.rglob("bundle/README.md")).read_text()
    files = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert len(files) > 30
    for one in files:
        assert SECRET.encode() not in one.read_bytes(), one
        assert SECRET not in str(one)
    assert SECRET not in caplog.text + "".join(capfd.readouterr()) + str(caught.value)


@pytest.mark.parametrize(
    ("server", "sequence", "words"),
    [
        ({"key_env": "ITS_KEY"}, {}, "sequence.server.key_env: the environment variable ITS_KEY is not set"),
        ({"model": "gpt-4o"}, {}, "sequence.license: OpenAI forbids"),
        ({}, {"temperature": 1.0, "top_k": 5}, "has no `top_k`"),
        ({"url": "http://example.com/v1"}, {}, "http is not encrypted"),
        ({"url": "https://me:hunter2@a/v1"}, {}, "without names, passwords"),
        ({"key": SECRET}, {}, "unknown key"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_validate(
    server: dict[str, Any], sequence: dict[str, Any], words: str, tmp_path: Path
):
    write_model(tmp_path / "model")
    file = written(tmp_path, {"url": "https://a/v1", "model": "scripted", **server}, **sequence)
    try:
        found = "\n".join(map(str, examine(file).faults))
    except ProfileError as error:
        found = str(error)
    assert words in found
    assert SECRET not in found
    assert "hunter2" not in found
