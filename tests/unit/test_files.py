"""The one place that writes what must last: as a whole or not at all, on the disk before it has its name."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.core.disk import files

PACKAGE = Path(files.__file__).parents[2]

ALLOWED = {
    "core/disk/files.py": "the one place",
    "runtimes/runner.py": "stands alone: a bundle and a device get it as one file",
    "targets/ssh/agent.py": "stands alone: a device gets it as one file",
    "bundles/templates/embed.py": "stands alone: a bundle gets it as its predict.py",
    "bundles/templates/confine.py": "stands alone: what a bundle runs is started by it",
}
"""Files that may write, rename and remove by themselves, and why."""

ALLOWED_CALLS = {
    ("models/io/weights.py", "save_file"): "to the temporary name of `replacing`",
    ("training/checkpointing.py", "save_file"): "to the temporary name of `replacing`",
    ("measuring/scoring.py", "np.savez"): "to the temporary name of `replacing`",
    ("models/io/onnx_files.py", "onnx.save"): "to the temporary name of `replacing`",
    ("passes/quantize/half/conversion.py", "onnx.save"): "to the temporary name of `replacing`",
    ("passes/export/golden.py", "save"): "an image, to the temporary name of `replacing`",
    (
        "lowering/files.py",
        "ir.save",
    ): "to the temporary name of `replacing`; with weights beside, into a folder that is not published yet",
    ("passes/quantize/calibration/activation_capture.py", "ir.save"): "is read by one session and removed",
    ("passes/quantize/int8/gain/probe.py", "onnx.save"): "into a temporary folder",
    ("passes/prune/choosing/latency_table.py", "onnx.save"): "into a temporary folder",
    ("targets/ssh/connection.py", "open"): "results of a device, into a temporary folder",
    ("engine/distributed.py", "open"): "what training processes print; read while they run",
    ("engine/worker.py", "open"): "bars of a training process; read while it runs",
    ("targets/ssh/pipes.py", "os.write"): "into a pipe",
    ("bundles/templates/confine.py", "open"): "of /proc, to confine itself",
    ("core/terminal/printing.py", "os.open"): "the place of an output that nobody reads",
    ("reporting/render/write.py", "rename"): "of columns, not of a file",
    ("reporting/plots/plots.py", "savefig"): "into memory",
    ("store/cache.py", "os.utime"): "when a step was last asked for; nothing hangs on it",
    ("training/signals/teachers.py", "os.utime"): "when signals were last asked for; nothing hangs on it",
    (
        "store/flat.py",
        "os.open",
    ): "opens the file that `allocate` made, to fill it in place; `publish` forces it",
}

OS_CALLS = {
    "open",
    "replace",
    "rename",
    "renames",
    "unlink",
    "remove",
    "rmdir",
    "removedirs",
    "mkdir",
    "makedirs",
}
OS_CALLS |= {"link", "symlink", "truncate", "ftruncate", "utime", "mkfifo", "chmod", "write", "pwrite"}
FLAGS = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)")
SHUTIL_CALLS = {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree"}
METHODS = {
    "unlink",
    "mkdir",
    "rmdir",
    "rename",
    "touch",
    "write_text",
    "write_bytes",
    "hardlink_to",
    "symlink_to",
}
METHODS |= {"savefig", "save", "save_pretrained", "to_parquet"}
SAVERS = {"np.save", "np.savez", "np.savez_compressed", "onnx.save", "ir.save", "torch.save"}


def changes_of_files(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls that write, rename or remove something on a disk: their lines and names."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name):
            if function.id == "save_file" or (function.id == "open" and _writes(node, 1)):
                yield node.lineno, function.id
        elif isinstance(function, ast.Attribute):
            name, owner = function.attr, ast.unparse(function.value)
            whole = f"{owner}.{name}"
            if whole == "os.open" and not FLAGS.search(ast.unparse(node)):
                continue
            if (
                (owner == "os" and name in OS_CALLS)
                or (owner == "shutil" and name in SHUTIL_CALLS)
                or whole in SAVERS
            ):
                yield node.lineno, whole
            elif owner == "files":
                continue
            elif (
                name in METHODS
                or (name == "open" and _writes(node, 0))
                or (
                    name == "replace" and len(node.args) == 1 and not node.keywords and owner != "dataclasses"
                )
            ):
                yield node.lineno, name


def _writes(call: ast.Call, position: int) -> bool:
    modes = [one.value for one in call.keywords if one.arg == "mode"] + call.args[position : position + 1]
    return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)


def test_only_one_module_writes_renames_and_removes():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        if name in ALLOWED:
            continue
        for line, call in changes_of_files(ast.parse(file.read_text(encoding="utf-8"))):
            if (name, call) not in ALLOWED_CALLS:
                found.append(f"compress/{name}:{line}: {call} goes around compress/core/disk/files.py")
    assert not found, "\n".join(found)


def test_what_is_allowed_is_there():
    calls = {
        (str(file.relative_to(PACKAGE)), call)
        for file in PACKAGE.rglob("*.py")
        for _, call in changes_of_files(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert set(ALLOWED_CALLS) <= calls
    assert all((PACKAGE / name).is_file() for name in ALLOWED)


@pytest.mark.parametrize(
    "source",
    [
        "open('x', 'w')",
        "open('x', mode='ab')",
        "path.open('r+b')",
        "os.replace(a, b)",
        "path.replace(target)",
        "shutil.rmtree(folder)",
        "np.save(file, array)",
        "save_file(tensors, path)",
        "path.write_text('x')",
    ],
)
def test_the_walk_sees_a_write(source: str):
    assert [*changes_of_files(ast.parse(source))]


@pytest.mark.parametrize(
    "source", ["open('x')", "path.open('rb')", "text.replace('a', 'b')", "replace(spec, a=1)"]
)
def test_the_walk_leaves_reading_alone(source: str):
    assert not [*changes_of_files(ast.parse(source))]


class Journal:
    """Stands for `os`, keeps what was on the disk when: the bytes of each file and the names of each folder that was
    forced. A rename of something that is not on the disk as it is now fails the test: a power cut after it would leave
    the name on nothing."""

    def __init__(self) -> None:
        self.forced: dict[int, Any] = {}
        self.renamed: list[tuple[Path, Path]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        self.forced[path.stat().st_ino] = self.state(path)

    def replace(self, source: Path, target: Path) -> None:
        for path in (source, *(source.rglob("*") if source.is_dir() else ())):
            assert self.forced.get(path.stat().st_ino) == self.state(path), f"{path} is not on the disk"
        os.replace(source, target)
        self.renamed.append((source, target))

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    @staticmethod
    def state(path: Path) -> Any:
        if path.is_dir():
            return sorted(os.listdir(path))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def assert_names_last(self) -> None:
        """Whether the folders that names were put into were forced afterwards."""
        for _, target in self.renamed:
            names = self.forced[target.parent.stat().st_ino]
            assert target.name in names or not target.exists()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    journal = Journal()
    monkeypatch.setattr(files, "os", journal)
    return journal


def test_no_name_before_its_content_is_on_the_disk(tmp_path: Path, journal: Journal):
    files.write_text(tmp_path / "text", "one")
    files.write_texts({tmp_path / "a": "1", tmp_path / "b": "2"})
    files.write_json(tmp_path / "j.json", {"x": 1})
    files.write_sealed(tmp_path / "s.json", {"x": 1})
    files.write_bytes(tmp_path / "bytes", b"123")
    files.copy_file(tmp_path / "bytes", tmp_path / "copy")
    with files.replacing(tmp_path / "library.bin") as temporary:
        temporary.write_bytes(b"by a library that does not force it")
    folder = tmp_path / "making" / "one"
    files.make_folder(folder / "inner")
    (folder / "inner" / "weights").write_bytes(b"by a library")
    (folder / "loose").write_bytes(b"by a library")
    files.publish(folder, tmp_path / "published")
    files.copy_tree(tmp_path / "published", tmp_path / "bundle")
    files.copy_tree(tmp_path / "published", tmp_path / "bundle")
    assert len(journal.renamed) == 11
    journal.assert_names_last()
    assert (tmp_path / "bundle" / "inner" / "weights").read_bytes() == b"by a library"


def test_the_journal_sees_a_name_on_nothing(tmp_path: Path, journal: Journal):
    (tmp_path / "loose").write_text("never forced")
    with pytest.raises(AssertionError, match="not on the disk"):
        journal.replace(tmp_path / "loose", tmp_path / "named")


def test_a_folder_replaces_a_full_one(tmp_path: Path):
    for name in ("old", "new"):
        files.make_folder(tmp_path / name)
        files.write_text(tmp_path / name / name, name)
    files.publish(tmp_path / "new", tmp_path / "old")
    assert sorted(os.listdir(tmp_path)) == ["old"]
    assert os.listdir(tmp_path / "old") == ["new"]


def test_a_name_left_by_a_kill_is_known(tmp_path: Path):
    with files.replacing(tmp_path / "model.onnx") as temporary:
        temporary.write_text("half")
        assert files.is_temporary(temporary)
        assert temporary.suffix == ".onnx"
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert not files.is_temporary(tmp_path / "model.onnx")


def test_a_failed_write_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, descriptor: int, content: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "os", Full())
    with pytest.raises(OSError, match="No space") as caught:
        files.write_text(tmp_path / "text", "one")
    assert Path(caught.value.filename).parent == tmp_path
    assert not os.listdir(tmp_path)


def test_what_was_changed_is_not_read(tmp_path: Path):
    file = tmp_path / "measured.json"
    body = {"accuracy": 0.908, "name": "Größe \ud800", "nested": {"b": [1, 2.5e-300], "a": None}}
    files.write_sealed(file, body)
    assert files.read_sealed(file) == body
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert files.read_sealed(file) == body
    file.write_text(file.read_text().replace("0.908", "9.08"))
    with pytest.raises(files.DamagedFileError):
        files.read_sealed(file)
    for text in ("", "{", "[]", "{}", "null", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(files.DamagedFileError):
            files.read_sealed(file)
