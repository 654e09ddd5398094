"""A student learns what a server writes: from a profile to a report and a bundle, and the key is nowhere in them."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress import api
from compress.core.errors import ModelError, ProfileError
from compress.engine.examining import examine
from compress.generation.answers import read_answers
from tests.speaking_server import FAULTS, Proxy, Speaker, listening, prompt_in, text_of
from tests.tiny_language import profile, write_model

SECRET = "sk-Very/Secret+42"
LICENSED = {"license": "apache-2.0", "license_ok": True}


class Telling(Speaker):
    """Repeats the key in its answers to every third prompt."""

    def said(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        said = super().said(path, asked)
        if int(prompt_in(asked).split()[0]) % 3 == 0:
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
        with pytest.raises(ModelError, match="rejects the key") as caught:
            api.run(file, quiet=True)
        assert caught.value.exit_code == 4
        refused = len(there.asked)
        monkeypatch.setenv("ITS_KEY", SECRET)
        done = api.run(file, quiet=True)
        step = next(one for one in done.record.steps if one.step == "distill")
        told, prompts = step.facts["written"], done.record.splits["train"]
        assert len(there.asked) == refused + prompts
        assert (told["model"], told["answers"]) == ("scripted", prompts)
        kept, leaking = (told["by_reason"][why] for why in ("kept", "holds the key of the server"))
        assert kept + leaking == prompts
        assert leaking == sum(int(prompt_in(one).split()[0]) % 3 == 0 for one in there.asked[refused:])
        assert (told["tokens"], told["prompt_tokens"]) == (4 * prompts, 2 * prompts)
        assert step.facts["shown"] == {"written": kept}
        assert {one.why for one in step.samples if "***" in one.answer} == {"holds the key of the server"}
        # How it is asked is no part of what is learnt.
        again = api.run(written(tmp_path, {**server, "concurrency": 9, "timeout_s": 5}), quiet=True)
        assert again.record.steps[-1].artifact == done.record.steps[-1].artifact
        assert len(there.asked) == refused + prompts
    shown = (tmp_path / "reports" / "tiny-lm" / "report.md").read_text()
    assert "the server read" in shown
    assert (
        "It was trained on texts written by other models"
        in next(tmp_path.rglob("bundle/README.md")).read_text()
    )
    files = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert len(files) > 30
    for one in files:
        assert SECRET.encode() not in one.read_bytes(), one
        assert SECRET not in str(one)
    assert SECRET not in caplog.text + "".join(capfd.readouterr()) + str(caught.value)


@pytest.mark.slow
def test_a_command_that_faults_end_goes_on_without_asking_twice(tmp_path: Path):
    write_model(tmp_path / "model")
    chance, dead = random.Random(0), [False]
    quick = [fault for fault in FAULTS if fault != "slow"]

    def fault(number: int) -> str | None:
        return "closed" if dead[0] else chance.choice([*quick, *[None] * 16])

    def run(**server: Any) -> tuple[int, str]:
        asked = {"url": proxy.url, "model": "scripted", "key_env": "ITS_KEY", "concurrency": 8, **server}
        done = subprocess.run(
            [sys.executable, "-m", "compress", "run", str(written(tmp_path, asked))],
            env={**os.environ, "ITS_KEY": SECRET, "COMPRESS_CACHE": str(tmp_path / "cache")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert SECRET not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    with listening(Speaker(key=SECRET)) as speaker, listening(Proxy(speaker, fault)) as proxy:
        assert isinstance(proxy, Proxy)
        code, said = run(max_tokens_total=120)
        assert (code, "of `max_tokens_total: 120`" in said, "answers are kept" in said) == (7, True, True)
        first = len(proxy.delivered)
        assert 0 < first < 40
        dead[0] = True
        began = time.monotonic()
        code, said = run(patience_s=2)
        assert (code, "the server gave no answer for" in said, f"{first} answers are kept" in said) == (
            4,
            True,
            True,
        )
        assert time.monotonic() - began < 120
        dead[0] = False
        code, said = run()
        assert code == 0, said
        # Nothing is asked twice, and nothing is lost.
        assert set(proxy.delivered.values()) == {1}
        record = json.loads(next(tmp_path.glob("reports/tiny-lm/report.json")).read_text())
        assert record["status"] == "ok"
        (file,) = tmp_path.glob("cache/signals/*/*.jsonl")
        kept = [(one.prompt, one.text) for one in read_answers(file)]
        assert len(set(kept)) == len(kept) == len(proxy.delivered)
        assert set(kept) == {(prompt, text_of(prompt, seed)) for prompt, seed in proxy.delivered}
    for one in tmp_path.rglob("*"):
        assert not one.is_file() or SECRET.encode() not in one.read_bytes(), one


@pytest.mark.parametrize(
    ("server", "sequence", "words"),
    [
        ({"key_env": "ITS_KEY"}, {}, "sequence.server.key_env: the environment variable ITS_KEY is not set"),
        ({"model": "gpt-4o"}, {}, "sequence.license: OpenAI forbids"),
        ({}, {"temperature": 1.0, "top_k": 5}, "has no `top_k`"),
        ({"url": "http://example.com/v1"}, {}, "http is not encrypted"),
        ({"url": "https://me:hunter2@a/v1"}, {}, "without user names, passwords"),
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
