"""What others wrote is printed as what it is; an output that nobody reads, or that is full, ends nothing wrongly."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from compress.core.terminal.console import Terminal, TerminalProgress
from compress.core.terminal.printing import echo, printable
from compress.reporting.render.terminal import RowLine, RunTable, summary_lines
from compress.reporting.render.write import write_report
from tests.records import bert_run, change_step

STEERING = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202egpj.exe \u2066 \r \x08 \x00 \ud800"
MARKUP = "[/] [red]x[/red] [link=file:///etc]y[/link] :smile: [unclosed"


def test_what_steers_is_spelled_out():
    assert printable("a\tb\nc é 日 👩‍👩‍👧") == "a\tb\nc é 日 👩‍👩‍👧"
    assert printable("\x1b[1m\u202e\x7f\ud800") == r"\u001b[1m\u202e\u007f\ud800"
    assert printable(printable(STEERING)) == printable(STEERING)
    printable(STEERING).encode()


def test_json_stays_json():
    text = json.dumps({"a": "\u202e\x7f"}, ensure_ascii=False)
    assert json.loads(printable(text)) == json.loads(text)


def test_echo(capsys: pytest.CaptureFixture[str]):
    echo(STEERING)
    echo(STEERING, err=True)
    shown = capsys.readouterr()
    assert shown.out == shown.err == printable(STEERING) + "\n"


def test_names_are_no_markup_and_steer_nothing(capsys: pytest.CaptureFixture[str]):
    name = MARKUP + STEERING
    run = bert_run(profile=name, labels=(name, "b", "c", "d", "e"), targets=("cpu-onnxruntime-2t",))
    run = change_step(run, "prune", step=name, status="failed", error=name)
    terminal = Terminal()
    for step in run.steps:
        terminal.print(RowLine(run, step))
    terminal.print(RunTable(run))
    for line in summary_lines(run):
        terminal.print(line, soft_wrap=True)
    plain = Table("a")
    plain.add_row(name)
    terminal.print(plain, name, Text(name), soft_wrap=True)
    progress = TerminalProgress(Terminal(stderr=True))
    progress.say(name)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\r\x08\x00\ud800")
        assert "[/] [red]x[/red]" in text
        assert ":smile:" in text


def test_bars_of_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    terminal = Terminal(stderr=True)
    terminal._force_terminal = True
    with TerminalProgress(terminal).bar(MARKUP + STEERING, 2) as advance:
        advance(1, MARKUP + STEERING)
    assert "\x1b[31m" not in stream.getvalue()
    assert "title\x07" not in stream.getvalue()


def test_reports_spell_it_out_and_hold_no_formulas(tmp_path: Path):
    name = f"=cmd|'/C calc'!A0 | <script> {STEERING}".replace("\ud800", "")
    run = change_step(bert_run(profile=name, labels=(name, "b", "c", "d", "e")), "prune", step=name)
    paths = write_report(run, tmp_path)
    for text in (paths.html.read_text(), paths.markdown.read_text()):
        assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\x08\x00")
        assert "<script>" not in text
    cells = [cell for line in paths.csv.read_text().splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell.strip('"').startswith(("=", "@", "+"))]


def _child(code: str, out: str) -> subprocess.CompletedProcess[bytes]:
    whole = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{code}"
    command = f'"$0" -c "$1" {out}; echo "code ${{PIPESTATUS[0]}}" >&2'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, whole], capture_output=True, timeout=60, check=False
    )


MANY = "from compress.core.terminal.printing import echo\nfor n in range(20000): echo(n)"
RICH = "from compress.core.terminal.console import Terminal\nt = Terminal()\nfor n in range(3000): t.print('x' * 70)"


@pytest.mark.parametrize("code", [MANY, RICH])
def test_nobody_reads_to_the_end(code: str):
    done = _child(code, "| head -1")
    assert done.stderr == b"code 0\n"
    assert done.stdout.count(b"\n") == 1


@pytest.mark.parametrize("code", [MANY, RICH])
def test_no_output_at_all(code: str):
    assert _child(code, ">&-").stderr == b"code 0\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_output_that_is_full():
    done = _child("from compress.cli.root import main\nsys.argv[1:] = ['schema']\nmain()", "> /dev/full")
    assert done.stderr.endswith(b"code 7\n")
    assert b"standard output" in done.stderr
    assert b"Exception ignored" not in done.stderr


HANGS_UP = """
import os, signal, sys, time
from compress.cli import root
from compress.cli.verbs.run import Interruption

@root.main.command("wait")
def wait():
    Interruption().listen()
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(0.2)

sys.argv[1:] = ["wait"]
root.main()
"""


@pytest.mark.parametrize(("ignored", "code"), [(False, 130), (True, 0)])
def test_a_terminal_that_is_closed_interrupts_unless_that_was_to_be_ignored(ignored: bool, code: int):
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" if ignored else ""
    done = _child(before + HANGS_UP, "")
    assert done.stderr.endswith(f"code {code}\n".encode())
    assert b"Traceback" not in done.stderr
