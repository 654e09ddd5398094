"""A profile's text: what is no profile is a fault with a place, never an internal error and never a wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.cli.root import main
from compress.core.errors import ProfileError
from compress.profile.load import load_profile
from compress.profile.yaml_lines import override, read_source
from tests.jobs import write_job


def values(text: str, folder: Path) -> dict:
    (folder / "p.yaml").write_text(text, encoding="utf-8")
    return read_source(folder / "p.yaml").values


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("010", 10), ("-007", -7), ("+3", 3), ("0x1F", 31), ("0o17", 15), ("1e5", "1e5"), ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("0x_", "0x_"), ("1_000", "1_000"), ("0b1", "0b1"), ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2026-01-01", "2026-01-01"),
        ("'010'", "010"), ("~", None), ("yes", True), ("0x", "0x"), ("-", "-"), ("1.", 1.0),
    ],
)  # fmt: skip
def test_numbers(written: str, value: object, tmp_path: Path) -> None:
    if written == "-":
        written = "'-'"
    found = values(f"a: {written}", tmp_path)["a"]
    assert (found, type(found)) == (value, type(value))
    source = override(read_source(tmp_path / "p.yaml"), (f"a={written}",))
    assert source.values["a"] == value


BAD = {
    "nesting": "a: " + "[" * 3000,
    "nested mappings": "".join(f"{' ' * n}a:\n" for n in range(400)),
    "digits": "a: " + "9" * 5000,
    "tagged": "a: !!int x",
    "escape": 'a: "\\e[31m"',
    "zero": 'a: "\\0"',
    "surrogate": 'a: "\\ud800"',
    "key": '"a\\0": 1',
    "itself": "a: &x [*x]",
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "python": "a: !!python/object/apply:os.system [true]",
    "raw control": "a: \x01",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_profile(name: str, tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(ProfileError) as raised:
        values(BAD[name], tmp_path)
    assert raised.value.exit_code == 2
    assert raised.value.faults[0].file == str(tmp_path / "p.yaml")
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "assignment",
    [
        "a", "=1", "seed", "a." * 60 + "a=1", "passes.99999999999999999999=1", "passes." + "9" * 5000 + "=1",
        "seed=" + "9" * 5000,
        "seed=[[[[" * 200, "seed=" + "[" * 3000, "seed=!!int x", 'name="\\0"', "a\0b=1", "seed=&x [*x]",
        "seed=\udcff", "٣=1",
        "passes=" + BAD["aliases"].splitlines()[0][3:], "seed=" + "1" * 41,
    ],
    ids=lambda word: ascii(word)[:25],
)  # fmt: skip
def test_assignments(assignment: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as raised:
        load_profile(write_job(tmp_path), (assignment,))
    assert raised.value.exit_code == 2
    assert str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_text("a: 1 # " + "x" * 300_000)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name in ("pipe", ".", "large.yaml", "latin.yaml", "missing", "/dev/zero"):
        with pytest.raises(ProfileError):
            read_source(tmp_path / name)


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))
    file.write_text("name: x")
    done = CliRunner().invoke(main, ["validate", str(file)])
    assert done.exit_code == 2
    assert "\\udcff" in done.stderr


@pytest.mark.parametrize("key", ["data.revision", "data.name", "teacher.revision"])
@pytest.mark.parametrize("value", ["../../x", "/etc", "a/../../b", "a\\b"])
def test_what_is_looked_for_in_the_cache_of_the_hub_stays_there(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as raised:
        load_profile(write_job(tmp_path), (f"{key}='{value}'",))
    assert key in {fault.path for fault in raised.value.faults}


@pytest.mark.parametrize(
    "word",
    ["layers=1000000000", "hidden_size=0", "hidden_size=1000000000", "heads=99999999", "layers=[99999]"],
)
def test_sizes_of_no_student(word: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError):
        load_profile(write_job(tmp_path), (f"passes.0.distill.student.{word}",))


GONE = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from compress.cli.root import main
os.mkdir("x")
os.chdir("x")
os.rmdir("../x")
sys.argv[1:] = ["cache", "list"]
main()
"""


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GONE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "[no-folder]" in done.stderr


def test_what_was_assigned_stands_above_the_text(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: a\nseed: 1\n")
    source = read_source(tmp_path / "p.yaml")
    assert source.text_with_overrides == source.text
    changed = override(source, ("seed=2", "name=b", "seed=3", "data={path:\n  x}"))
    assert list(changed.overridden.values()) == ["--set name=b", "--set seed=3", "--set data={path:\n  x}"]
    assert (
        changed.text_with_overrides
        == "# --set name=b\n# --set seed=3\n# --set data={path:\n#   x}\nname: a\nseed: 1\n"
    )


def test_the_order_of_assignments_stays(tmp_path: Path) -> None:
    """The processes of a training are given them again."""
    (tmp_path / "p.yaml").write_text("train: {processes: 1}\n")
    source = read_source(tmp_path / "p.yaml")
    words = ("train.processes=2", "train={strategy: fsdp}", "train.processes=3")
    once = override(source, words)
    again = override(source, tuple(word.removeprefix("--set ") for word in once.overridden.values()))
    assert again.values == once.values == {"train": {"strategy": "fsdp", "processes": 3}}
