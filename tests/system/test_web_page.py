"""The page of a bundle in a real browser: it answers what Python answers, on texts, images and sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from compress.bundles.web.examples import PageExamples
from compress.bundles.web.folder import WebPage, write_page
from compress.bundles.web.node_check import try_page
from compress.core.errors import ModelError
from compress.runtimes.runner import cosine, open_predictor, softmax
from tests.bundles import image_bundle, sentence_bundle, text_bundle
from tests.system.browser import Browser, served

pytestmark = pytest.mark.system

CLOSE = 1e-3
# Where a float falls on the edge between two integers, the two builds may round apart; these texts have none.
TEXTS = ("red cats and the dog sings", "THE bird, runs!", "rèd 中cat\U00020000 [SEP] the DÖG", "a " * 80)


def made(folder: Path, bundle: Path) -> WebPage:
    page = write_page(bundle, folder / "web")
    assert page.trial is not None
    assert page.trial.max_difference < CLOSE
    return page


def outputs(window: Browser) -> Any:
    return np.array(json.loads(window.text("#outputs")), np.float32)


def ask(window: Browser) -> Any:
    """Press the button and wait for the answer to be another one than before."""
    window.run("document.getElementById('outputs').textContent = ''")
    window.click("#run")
    window.wait("#outputs", "[")
    return outputs(window)


def check(window: Browser) -> None:
    """The page's own comparison, and that nothing was refused or failed meanwhile."""
    window.click("#check")
    assert "examples right" in window.wait("#checked", "4 examples")
    assert window.errors() == []


def test_a_text_classifier_answers_as_in_python(window: Browser, tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "made")
    made(tmp_path, bundle)
    predictor = open_predictor(str(bundle))
    with served(tmp_path) as address:
        window.open(f"{address}/web/")
        window.wait("#state", "ready")
        for text in TEXTS:
            window.run("document.getElementById('text').value = arguments[0]", text)
            np.testing.assert_allclose(ask(window), predictor.outputs([text])[0], atol=CLOSE)
        window.type("#text", "blue birds sing")
        found, expected = ask(window), predictor.outputs(["blue birds sing"])[0]
        np.testing.assert_allclose(found, expected, atol=CLOSE)
        assert window.text("#bars li span").strip() == predictor.labels[int(expected.argmax())]
        assert window.text("#bars li span + span") == f"{softmax(expected).max() * 100:.1f} %"
        assert window.text("#time").endswith(" ms for one inference")
        check(window)
        # Nothing stands outside of a narrow screen.
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")


def test_an_image_classifier_answers_as_in_python(window: Browser, tmp_path: Path) -> None:
    bundle = image_bundle(tmp_path / "made")
    made(tmp_path, bundle)
    predictor = open_predictor(str(bundle))
    random = np.random.default_rng(0)
    with served(tmp_path / "web") as address:
        window.open(address)
        window.wait("#state", "ready")
        # The model's own size in grey; then larger, of other sides, in colour; then smaller.
        for number, shape in enumerate([(8, 8), (61, 37, 3), (5, 6, 3), (300, 8)]):
            file = tmp_path / f"{number}.png"
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(file)
            window.run("document.getElementById('outputs').textContent = ''")
            window.type("#image", str(file))
            window.wait("#outputs", "[")
            np.testing.assert_allclose(outputs(window), predictor.outputs([file])[0], atol=CLOSE)
        check(window)


def test_a_sentence_encoder_compares_as_in_python(window: Browser, tmp_path: Path) -> None:
    bundle = sentence_bundle(tmp_path / "made")
    made(tmp_path, bundle)
    predictor = open_predictor(str(bundle))
    first, second = "the red cat sleeps", "blue dogs and a bird"
    with served(tmp_path / "web") as address:
        window.open(address)
        window.wait("#state", "ready")
        window.type("#text", first)
        window.type("#other", second)
        vectors = ask(window)
        expected = [predictor.outputs([text])[0] for text in (first, second)]
        np.testing.assert_allclose(vectors, expected, atol=CLOSE)
        assert float(window.text("#bars li span + span")) == pytest.approx(cosine(*expected), abs=CLOSE)
        check(window)


def test_a_file_is_no_page_and_a_missing_operator_is_named(window: Browser, tmp_path: Path) -> None:
    page = made(tmp_path, image_bundle(tmp_path / "made")).path
    window.open((page / "index.html").as_uri())
    assert "python3 -m http.server" in window.wait("#state", "This page must be served.")
    # The same folder with an operator that nobody has.
    model = onnx.load(str(page / "model.onnx"))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Nope", "com.microsoft"
    onnx.save(model, str(page / "model.onnx"))
    with pytest.raises(
        ModelError, match=r"it lacks the operator (com\.microsoft:)?Nope, which the model uses"
    ):
        try_page(page, PageExamples([], [], [], 0.1))
