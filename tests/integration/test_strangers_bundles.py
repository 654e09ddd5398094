"""Bundles that somebody else made, with right hashes: what of them is run, what is refused, and what they cannot do."""

from __future__ import annotations

import json
import py_compile
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compress.bundles import confinement as held
from compress.bundles.confinement import Sandbox, find_sandbox, run_python
from compress.bundles.manifest import write_manifest_metrics
from compress.bundles.verify import verify_bundle
from compress.bundles.web import folder
from compress.bundles.web.folder import write_page
from compress.cli.root import main
from compress.core.errors import ModelError, UsageError
from tests.integration.test_bundles import export_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(tmp_path_factory.mktemp("made"), "text-classification")


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def signed(bundle: Path) -> Path:
    """The bundle with the hashes of what lies there now."""
    write_manifest_metrics(bundle, {})
    return bundle


def refused(bundle: Path, ran: Path) -> None:
    with pytest.raises(UsageError) as caught:
        verify_bundle(signed(bundle))
    assert (caught.value.code, caught.value.exit_code) == ("code-not-allowed", 2)
    assert not ran.exists()


def evil(ran: Path) -> str:
    return f"open({str(ran)!r}, 'w').close()\n"


def test_a_runner_of_somebody_elses_is_not_run(bundle: Path, tmp_path: Path) -> None:
    own = (bundle / "runner.py").read_text()
    (bundle / "runner.py").write_text(evil(tmp_path / "ran") + own)
    refused(bundle, tmp_path / "ran")


def test_the_command_says_what_to_do(bundle: Path, tmp_path: Path) -> None:
    own = (bundle / "runner.py").read_text()
    (bundle / "runner.py").write_text(own + "\n# somebody else's\n")
    refused = CliRunner().invoke(main, ["verify", str(signed(bundle))])
    assert refused.exit_code == 2
    assert "[code-not-allowed]" in refused.output
    assert "--allow-code" in refused.output
    allowed = CliRunner().invoke(main, ["verify", str(bundle), "--allow-code", "--json"])
    assert allowed.exit_code == 0
    body = json.loads(allowed.output)
    assert (body["ok"], body["examples"], body["notes"][0]) == (
        True,
        5,
        "the bundle's own code was run: runner.py",
    )


def test_with_permission_it_runs_and_can_write_nothing(bundle: Path, tmp_path: Path) -> None:
    own = (bundle / "runner.py").read_text()
    (bundle / "runner.py").write_text(
        own + f"\ntry:\n    {evil(tmp_path / 'ran')}except OSError:\n    pass\n"
    )
    result = verify_bundle(signed(bundle), allow_code=True)
    assert (result.problems, result.examples) == ((), 5)
    assert "the bundle's own code was run: runner.py" in result.notes
    assert (tmp_path / "ran").exists() == (find_sandbox().name is None)


@pytest.mark.parametrize(
    "name",
    ["predict.py", "onnxruntime.py", "numpy/__init__.py", "tokenizers.so", "__pycache__/runner.pyc", "run"],
)
def test_other_code_that_the_manifest_lists_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text(evil(tmp_path / "ran"))
    refused(bundle, tmp_path / "ran")


def test_a_compiled_file_beside_right_hashes_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(evil(tmp_path / "ran"))
    cached = bundle / "__pycache__" / f"runner.{sys.implementation.cache_tag}.pyc"
    cached.parent.mkdir()
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(tmp_path / "evil.py"), str(cached), invalidation_mode=mode)
    (problem,) = verify_bundle(bundle).problems
    assert problem.startswith(f"__pycache__/{cached.name} is not in the manifest")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", [Path("/etc"), Path("model.onnx")])
def test_a_link_that_the_manifest_does_not_list_is_refused(bundle: Path, where: Path) -> None:
    (bundle / "onnxruntime").symlink_to(where)
    assert verify_bundle(bundle).problems == ("onnxruntime is not in the manifest",)


def test_predicting_leaves_nothing_that_is_not_listed(bundle: Path) -> None:
    words = [sys.executable, str(bundle / "predict.py"), "red"]
    subprocess.run(words, check=True, capture_output=True, env={"PATH": "/bin"})
    assert verify_bundle(bundle).ok


def change(golden: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**golden, **values}


def first(golden: dict[str, Any], **values: Any) -> dict[str, Any]:
    examples = golden["examples"]
    return {**golden, "examples": [{**examples[0], **values}, *examples[1:]]}


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no examples": lambda golden: change(golden, examples=[]),
    "examples that are none": lambda golden: change(golden, examples=[1, None]),
    "no tolerance": lambda golden: change(golden, tolerance=None),
    "a tolerance without end": lambda golden: change(golden, tolerance=float("inf")),
    "a tolerance that is no number": lambda golden: change(golden, tolerance=float("nan")),
    "a tolerance below 0": lambda golden: change(golden, tolerance=-1.0),
    "a tolerance of 0": lambda golden: change(golden, tolerance=0),
    "everything is tolerated": lambda golden: change(golden, tolerance=1),
    "yes": lambda golden: change(golden, tolerance=True),
    "another than the manifest's": lambda golden: change(golden, tolerance=0.04),
    "neither text nor image": lambda golden: first(golden, text=None),
    "both": lambda golden: first(golden, image="golden/000.png"),
    "no probabilities": lambda golden: first(golden, probabilities=[]),
    "probabilities of nothing": lambda golden: first(golden, probabilities=[0, 0, 0]),
    "a probability that is no number": lambda golden: first(golden, probabilities=["1", 0, 0]),
    "another label": lambda golden: first(golden, label="nobody's"),
    "a list": lambda golden: golden["examples"],
}


@pytest.mark.parametrize("edit", CHANGES.values(), ids=CHANGES)
def test_golden_examples_that_prove_nothing_are_refused(
    bundle: Path, edit: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    golden = json.loads((bundle / "golden.json").read_text())
    (bundle / "golden.json").write_text(json.dumps(edit(golden)))
    result = verify_bundle(signed(bundle))
    assert result.problems
    assert all("golden" in problem for problem in result.problems)
    assert result.models == ()
    with pytest.raises(ModelError, match="golden"):
        write_page(bundle, tmp_path / "page")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle of a model of images, of which a page can be made without npm."""
    monkeypatch.setattr(folder, "install_packages", lambda *_: None)
    made = export_bundle(tmp_path / "made", "image-classification")
    return Path(shutil.copytree(made, tmp_path / "new" / "bundle"))


@pytest.mark.parametrize("said", [{"inputs": None}, {"inputs": [3]}, {"form": {}}, {"facts": [], "form": 3}])
def test_a_manifest_that_says_nonsense_makes_no_page(pictures: Path, said: dict[str, Any]) -> None:
    manifest = json.loads((pictures / "manifest.json").read_text())
    (pictures / "manifest.json").write_text(json.dumps({**manifest, **said}))
    with pytest.raises(ModelError, match="this bundle cannot be understood"):
        write_page(pictures, pictures.with_name("page"))
    assert [file.name for file in pictures.parent.iterdir()] == ["bundle"]


def test_a_model_that_is_none_makes_no_page_and_is_told_of(pictures: Path) -> None:
    (pictures / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="this bundle cannot be understood") as caught:
        write_page(signed(pictures), pictures.with_name("page"))
    assert "\n" not in caught.value.message
    assert [file.name for file in pictures.parent.iterdir()] == ["bundle"]
    (problem,) = verify_bundle(pictures).problems
    assert problem.startswith("model.onnx: the bundle's code failed: ")


ANSWERS = {
    "nothing": "import os; os._exit(0)",
    "no JSON": "import os; os.write(1, b'all is well'); os._exit(0)",
    "an empty mapping": "import os; os.write(1, b'{}'); os._exit(0)",
    "no examples": """import os; os.write(1, b'{"examples": 0, "modules": [], "problems": []}'); os._exit(0)""",
    "a list": """import os; os.write(1, b'{"examples": [5], "modules": [], "problems": []}'); os._exit(0)""",
    "a crash": "raise RuntimeError('out of order')",
}


@pytest.mark.parametrize("code", ANSWERS.values(), ids=ANSWERS)
def test_a_runner_that_answers_nothing_proves_nothing(bundle: Path, code: str) -> None:
    (bundle / "runner.py").write_text(code)
    result = verify_bundle(signed(bundle), allow_code=True)
    assert [problem.split(":")[0] for problem in result.problems] == ["model.onnx", "model.ort"]


# What holds the code.

FREE = """
import json, os, socket, sys
def tried(act):
    try:
        act()
    except OSError:
        return False
    return True
talk = lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 2)
print(json.dumps({
    "writes": tried(lambda: open(sys.argv[1], "w").close()),
    "talks": tried(talk),
    "home": os.environ.get("HOME"),
    "token": os.environ.get("HF_TOKEN"),
    "user site": any("site-packages" in p and ".local" in p for p in sys.path),
    "here": "" in sys.path,
}))
"""


def what_it_can(one: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HF_TOKEN", "secret")
    (tmp_path / "free.py").write_text(FREE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = [str(tmp_path / "free.py"), str(tmp_path / "written"), str(listener.getsockname()[1])]
        done = run_python(words, one, 60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


KINDS = {
    "bubblewrap": lambda: Sandbox("bubblewrap", (shutil.which("bwrap") or "bwrap", *held._BUBBLEWRAP)),
    "namespaces": lambda: Sandbox("namespaces", (sys.executable, "-I", "-S", str(held.CONFINE_SCRIPT))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_held_code_writes_nothing_and_talks_to_nobody(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = KINDS[kind]()
    if not held._works(one):
        pytest.skip(f"this system has no {kind}")
    can = what_it_can(one, tmp_path, monkeypatch)
    assert can == dict.fromkeys(["writes", "talks", "user site", "here"], False) | {
        "home": None,
        "token": None,
    }
    assert not (tmp_path / "written").exists()


def test_code_that_nothing_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_sandbox.cache_clear()
    monkeypatch.setattr(held, "_works", lambda one: False)
    try:
        one = find_sandbox()
        assert one.name is None
        assert "network and files" in (one.note or "")
        can = what_it_can(one, tmp_path, monkeypatch)
        assert (can["writes"], can["talks"], can["token"]) == (True, True, None)
    finally:
        find_sandbox.cache_clear()
