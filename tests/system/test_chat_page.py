"""The page of a language model in a real browser: it answers as predict.py does, and stops when it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from compress import api
from compress.bundles.web.folder import WebPage, write_page
from compress.runtimes.runner import open_predictor
from tests.system.browser import Browser, served
from tests.tiny_decoders import tiny_decoder
from tests.tiny_language import profile, write_model, write_texts

pytestmark = pytest.mark.system

MERGES = [("t", "h"), ("th", "e"), ("r", "e"), ("Ġ", "s")]
SHORT = (
    "{% for message in messages %}[{{ message['role'][0] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
"""A template of few tokens: the model takes 128."""
ANSWER = "#talk li.assistant:last-child"
EXPORT = {"export": {"golden": 4}}
INT4 = {"quantize": {"bits": 4, "method": "rtn", "block_size": 16}}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    place = tmp_path_factory.mktemp("language")
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COMPRESS_CACHE", str(place / "cache"))
        for folder in ("model", "random"):
            write_model(place / folder, MERGES)
            (place / folder / "chat_template.jinja").write_text(SHORT)
        # Its answers are any bytes, so that half letters are met.
        tiny_decoder("llama, tied with biases", vocab_size=260 + len(MERGES)).save_pretrained(
            place / "random"
        )
        write_texts(place / "data")
        for name, changed in (
            ("float", {"teacher": {"model": "random"}, "passes": [EXPORT]}),
            ("int4", {"passes": [INT4, EXPORT]}),
        ):
            body = profile(name=name, **changed)
            (place / f"{name}.yaml").write_text(yaml.safe_dump(body))
            made[name] = api.run(place / f"{name}.yaml", quiet=True).bundle
        yield made


@pytest.fixture(scope="module")
def page(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> WebPage:
    return write_page(bundles["float"], tmp_path_factory.mktemp("page") / "web")


def ask(window: Browser, text: str) -> str:
    # Keys of a keyboard have no emoji.
    window.run("document.getElementById('text').value = arguments[0]", text)
    window.run("document.getElementById('state').textContent = ''")
    window.click("#run")
    window.wait("#state", "ready")
    return window.text(ANSWER)


def test_it_chats_as_predict_does(window: Browser, page: WebPage, bundles: dict[str, Path]) -> None:
    assert page.trial is not None
    assert page.trial.max_difference < 1e-3
    said = ["the red cat", "a dog, ünïcödé 🙂?", "sees", "the big house", "runs"]
    command = [sys.executable, str(bundles["float"] / "predict.py"), "--chat", "--most", "16", *said]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with served(page.path) as address:
        window.open(address)
        window.wait("#state", "ready")
        window.type("#most", "16")
        answers = [ask(window, text) for text in said]
        assert "".join(f"{answer}\n" for answer in answers) == done.stdout
        assert len(set("".join(answers))) > 3
        # More was said than the model holds.
        assert window.text("#talk li.note") + "\n" == done.stderr
        window.run("document.getElementById('text').value = 'a'.repeat(400)")
        window.click("#run")
        assert "nothing can be written behind it" in window.wait("#state", "failed")
        assert "a second" in window.text("#time")
        window.click("#check")
        assert "4 examples right" in window.wait("#checked", "4 examples")
        assert window.errors() == []
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")


def test_it_draws_and_it_stops(window: Browser, page: WebPage) -> None:
    with served(page.path) as address:
        window.open(address)
        window.wait("#state", "ready")
        window.type("#most", "60")
        window.type("#temperature", "1.5")
        drawn = set()
        for _ in range(2):
            drawn.add(ask(window, "red"))
            window.click("#clear")
            assert window.run("return document.getElementById('talk').children.length") == 0
        assert len(drawn) == 2
        window.type("#text", "red")
        window.run(
            "document.getElementById('state').textContent = '';"
            "new MutationObserver(() => document.getElementById('stop').click())"
            ".observe(document.getElementById('talk'), {childList: true, subtree: true, characterData: true});"
            "document.getElementById('run').click()"
        )
        window.wait("#state", "ready")
        assert len(window.text(ANSWER)) <= 3
        assert window.run("return document.getElementById('stop').disabled")


def test_four_bits_run_there_too(window: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    page = write_page(bundles["int4"], tmp_path / "web")
    assert page.trial is not None
    assert page.trial.max_difference < json.loads((bundles["int4"] / "golden.json").read_text())["tolerance"]
    predictor = open_predictor(str(bundles["int4"]))
    first = predictor.tokens(predictor.chat([{"role": "user", "content": "the cat"}]), begins=False)
    expected = "".join(predictor.stream(first, most=3))
    with served(page.path) as address:
        window.open(address)
        window.wait("#state", "ready")
        window.type("#most", "3")
        assert ask(window, "the cat") == expected
        assert window.errors() == []
