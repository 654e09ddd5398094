"""What the bundle of a language model says: in parts as all its tokens say it, within its context; what it refuses."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from compress.bundles.layout import TEMPLATES
from compress.bundles.manifest import numbers_text, write_manifest
from compress.core.disk.files import copy_file, write_json
from compress.core.forms import ONNX_FLOAT, NumberFormat
from compress.lowering.step import lower
from compress.passes.export.golden import golden_examples
from compress.runtimes import runner
from compress.tasks.causal_lm import bundle as of_language
from compress.tasks.causal_lm.bundle import TEXTS
from compress.tasks.causal_lm.text.chat_pieces import pieces_of_template
from compress.tasks.causal_lm.text.documents import messages_item
from tests.tiny_decoders import lowered_decoder, tiny_decoder
from tests.tiny_language import BEGIN, END, byte_tokenizer

POSITIONS = 48
IN_BLOCKS = ONNX_FLOAT.with_fields(numbers=NumberFormat.WEIGHT_ONLY)
NODE = shutil.which("node")
PAGE = TEMPLATES.parent / "web" / "page"
PREDICT = Path(of_language.__file__).with_name("predict.py")
SAID = "[{}]{}"


def short(messages: Sequence[Any], asks: bool) -> str:
    """A template of few tokens."""
    return "".join(SAID.format(one["role"][0], one["content"]) for one in messages) + "[a]" * asks


def byte_fallback(adds_space: bool) -> Tokenizer:
    """A few letters, and every byte for all others, as Llama 2 (which adds a space) and Gemma have them."""
    tokens = ["<unk>", BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁ab!STOP\n"]
    made = Tokenizer(
        models.BPE(
            {token: place for place, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True
        )
    )
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if adds_space else spaces
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if adds_space else parts)
    made.add_special_tokens([BEGIN, END])
    return made


TOKENIZERS = {
    "bytes": byte_tokenizer([("S", "T"), ("O", "P"), ("Ġ", "a")]),
    "byte fallback": byte_fallback(False),
    "byte fallback, a space before": byte_fallback(True),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without a manifest: a random GPT-2, whose table of positions ends."""
    folder = tmp_path_factory.mktemp("bundle")
    model = tiny_decoder("gpt2", vocab_size=258, n_positions=POSITIONS)
    lowered_decoder(model, folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    for name, file in {**TEXTS.code(), "runner.py": Path(runner.__file__)}.items():
        copy_file(file, folder / name)
    described = {
        "task": "causal-lm",
        "labels": [],
        "max_length": 16,
        "pad_id": 1,
        "begin_id": None,
        "end_id": None,
        "written": "messages",
        "chat": pieces_of_template("", short),
        "positions": lower(model, {})[1]["positions"],
    }
    write_json(folder / "task.json", described)
    return folder


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Any:
    return runner.open_predictor(str(bundle))


@pytest.fixture(scope="module")
def parts(predictor: Any) -> Any:
    return predictor.stream.__func__.__globals__["parts"]


def cut(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str]) -> str:
    """What tokens say until the first of them with which a stop is there."""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count])
        places = [text.find(stop) for stop in stops if stop in text]
        if places:
            return text[: min(places)]
    return tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("stops", [(), ("STOP",), ("P 🙂", "🙂🙂"), ("!", "漢a", "é")])
def test_what_comes_in_parts_is_what_all_tokens_say(parts: Any, kind: str, stops: Sequence[str]) -> None:
    tokenizer, drawn = TOKENIZERS[kind], random.Random(0)
    shown = [
        "a🙂b STOP a",
        "a漢b ab",
        "aéb🙂🙂 P 🙂!",
        "🙂",
        "STO STOP",
        "éé漢🙂a\ufffdb",
        "a SSTOP",
        "ST🙂OP",
    ]
    written = [tokenizer.encode(text, add_special_tokens=False).ids for text in shown]
    # What a model writes need be no text at all: halves of letters, tokens that nobody sees.
    written += [
        [
            token
            for part in drawn.choices(written, k=2)
            for token in part[drawn.randrange(4) :][: drawn.randrange(9)]
        ]
        + drawn.choices(range(1, tokenizer.get_vocab_size()), k=drawn.randrange(3))
        for _ in range(25)
    ]
    for ids in written:
        for end in range(len(ids) + 1):
            assert "".join(parts(ids[:end], tokenizer, stops)) == cut(tokenizer, ids[:end], stops)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_can_change_no_more_is_told_at_once(parts: Any, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("a b a🙂b", add_special_tokens=False).ids
    told = list(parts(ids, tokenizer, ("STOP", "b!")))
    # The last letter may be the beginning of a stop; of the smiley nothing is told before it is whole.
    assert "".join(told[:-1]) == "a b a🙂"
    assert all("\ufffd" not in part for part in told)
    assert next(part for part in told if part).strip() == "a"


def test_special_tokens_are_stops_too(predictor: Any) -> None:
    free = predictor.tokenizer.token_to_id(END)
    assert predictor.stopping(["x", END, "a b"]) == (free,)
    assert predictor.stopping([END[:-1]]) == ()


def test_a_conversation_proves_a_bundle_whoever_begins_it(bundle: Path, predictor: Any) -> None:
    expected = {
        "user assistant": "[u]0[a]",
        "system user assistant user assistant": "[s]0[u]1[a]",
        "assistant user assistant": "0",
        "system system user assistant": "0",
        "system assistant": "0",
    }
    items = [
        messages_item([{"role": role, "content": str(place)} for place, role in enumerate(roles.split())])
        for roles in expected
    ]
    assert [predictor.tokenizer.decode(predictor.prompt_of(item)) for item in items] == [*expected.values()]
    examples = golden_examples(bundle, items, TEXTS, 1e-3)["examples"]
    assert [len(example["outputs"]) for example in examples] == [256] * len(items)


def asked(file: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a bundle's predict.py."""
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setitem(sys.modules, "runner", runner)
    try:
        return int(runner.load_file(str(file)).main())
    except SystemExit as ended:
        return int(ended.code or 0)


def test_a_line_without_words_is_no_prompt(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(bundle / "predict.py", monkeypatch, "--chat", "--most", "2", "hello") == 0
    told = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n  \nhello\n"))
    assert asked(bundle / "predict.py", monkeypatch, "--chat", "--most", "2") == 0
    assert capsys.readouterr().out == told


def test_an_answer_ends_where_the_model_holds_no_more(
    bundle: Path, predictor: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predictor.positions == POSITIONS
    whole = "".join(predictor.stream(predictor.tokens("the cat"), most=POSITIONS - len("the cat")))
    assert asked(bundle / "predict.py", monkeypatch, "the cat") == 0
    assert capsys.readouterr().out == whole + "\n"
    assert len(list(predictor.stream([5] * (POSITIONS - 1)))) == 2
    for more in ([], ["--chat"]):
        assert asked(bundle / "predict.py", monkeypatch, "a" * POSITIONS, *more) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert f"the model holds {POSITIONS}, so nothing can be written behind it" in told.err


@pytest.mark.parametrize("chats", [(), ("--chat",)])
def test_a_prompt_that_is_too_long_is_named_and_the_others_are_answered(
    chats: Sequence[str], bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = [*chats, "--most", "2", "--stop", "\\n"]
    assert asked(bundle / "predict.py", monkeypatch, "the cat", "a dog", *how) == 0
    answers = capsys.readouterr().out
    assert asked(bundle / "predict.py", monkeypatch, "the cat", "a" * POSITIONS, "a dog", *how) == 1
    told = capsys.readouterr()
    # To a conversation it was never said.
    assert told.out == answers
    assert told.err.startswith("text 2: the prompt has ")
    assert told.err.count("\n") == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"the cat\n\n{'a' * POSITIONS}\na dog\n"))
    assert asked(bundle / "predict.py", monkeypatch, *how) == 1
    told = capsys.readouterr()
    assert told.out == answers
    assert told.err.startswith("line 3: the prompt has ")


def test_a_prompt_that_has_the_beginning_already_gets_no_second(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    task = json.loads((bundle / "task.json").read_text())
    tokenizer = byte_tokenizer()
    write_json(tmp_path / "bundle" / "task.json", {**task, "begin_id": tokenizer.token_to_id(BEGIN)})
    predictor = runner.open_predictor(str(tmp_path / "bundle"))
    wanted = tokenizer.encode(f"{BEGIN}a").ids
    assert predictor.tokens("a") == predictor.tokens(f"{BEGIN}a") == wanted
    assert predictor.tokens(f"{BEGIN}a", begins=False) == wanted


def test_a_chat_forgets_its_oldest_turns_and_says_so_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["the red cat", "sees", "a dog", "and runs"]
    assert asked(bundle / "predict.py", monkeypatch, "--chat", "--most", "9", "--stop", "\\n", *said) == 0
    told = capsys.readouterr()
    assert told.err == f"the oldest turns are forgotten: the model holds {POSITIONS} tokens\n"
    assert len(told.out) > len(said)


def test_a_folder_that_says_no_context_bounds_nothing(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    task = json.loads((bundle / "task.json").read_text())
    del task["positions"]
    write_json(tmp_path / "bundle" / "task.json", task)
    predictor = runner.open_predictor(str(tmp_path / "bundle"))
    assert len(predictor(" cat", most=9)) > 0
    assert predictor.fitted(turn("y" * 60), 9) == turn("y" * 60)


def turn(*contents: str) -> list[dict[str, str]]:
    """What the user and the assistant say in turn."""
    return [
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)
    ]


def test_what_the_system_says_and_the_last_turn_stay(predictor: Any) -> None:
    system, last = [{"role": "system", "content": "be brief"}], turn("x" * 6)
    old, newer = turn("one", "two"), turn("three", "four")
    assert predictor.fitted([*system, *turn("q")], 9) == [*system, *turn("q")]
    assert predictor.fitted([*system, *old, *newer, *last], 9) == [*system, *newer, *last]
    assert predictor.fitted([*old, *turn("y" * 60)], 9) == turn("y" * 60)
    # An answer that may be longer than the context leaves half of it to what was said.
    assert predictor.fitted([*turn("a", "b"), *turn("c")], 1000) == [*turn("a", "b"), *turn("c")]


WRITING = """
import { readFileSync } from "node:fs";
import { fitted, stream, withRoom, Words } from "./writing.mjs";
const { page, chats, most, answer, prompt } = JSON.parse(readFileSync(0, "utf8"));
const words = new Words({}, page);
// A model that says these bytes, one after the other.
const next = (ids) => answer[ids.length - prompt.length];
const says = { after: async (ids) => Array.from({ length: 256 }, (_, byte) => Number(byte === next(ids))) };
const how = { most: 99, temperature: 0, ends: [], stopped: () => false };
const parts = [];
for await (const part of stream(says, words, prompt, how)) parts.push(part);
let refused = null;
try { withRoom(words, prompt.concat(answer)); } catch (error) { refused = error.message; }
const beginning = new Words({}, { ...page, begin_id: 104 });
const begun = ["hi", "i", ""].map((text) => beginning.ids(text, true));
console.log(JSON.stringify({ parts, refused, begun, kept: chats.map((one) => fitted(words, page.chat, one, most)) }));
"""
BYTES = """
export class Tokenizer {
  encode(text) { return { ids: [...new TextEncoder().encode(text)] }; }
  decode(ids) { return new TextDecoder().decode(Uint8Array.from(ids)); }
}
"""
"""Every byte a token, for where there is no npm."""


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_a_page_keeps_to_the_context_as_python_does(predictor: Any, tmp_path: Path) -> None:
    assert NODE is not None
    copy_file(PAGE / "writing.mjs", tmp_path / "writing.mjs")
    (tmp_path / "@huggingface" / "tokenizers").mkdir(parents=True)
    (tmp_path / "@huggingface" / "tokenizers" / "tokenizers.min.mjs").write_text(BYTES)
    (tmp_path / "try.mjs").write_text(WRITING)
    drawn = random.Random(0)
    system = [{"role": "system", "content": "be brief"}]
    chats = [
        [*system[drawn.randrange(2) :], *turn(*("é" * drawn.randrange(9) for _ in range(2 * turns + 1)))]
        for turns in range(6)
    ]
    answer = "🙂 é" * 9
    page = {"begin_id": None, "positions": POSITIONS, "chat": predictor.task["chat"]}
    given = {"page": page, "chats": chats, "most": 9, "answer": list(answer.encode()), "prompt": [97] * 9}
    command = [NODE, str(tmp_path / "try.mjs")]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    written = answer.encode()[: POSITIONS - 9].decode(errors="replace")
    assert "".join(found["parts"]) == written
    assert "\ufffd" not in "".join(found["parts"][:-1])
    assert found["refused"].endswith(
        f"the model holds {POSITIONS}, so nothing can be written behind it: shorten it"
    )
    assert found["begun"] == [[104, 105], [104, 105], [104]]
    assert found["kept"] == [predictor.fitted(chat, 9) for chat in chats]
    assert [len(kept) for kept in found["kept"]] != [len(chat) for chat in chats]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "-1"], "--temperature: expected a number, 0 or more, not '-1'"),
        (["--temperature", "nan"], "--temperature: expected a number, 0 or more, not 'nan'"),
        (["--temperature", "inf"], "--temperature: expected a number, 0 or more, not 'inf'"),
        (["--top-p", "2"], "--top-p: expected a number, from 0 to 1, not '2'"),
        (["--top-k", "-3"], "--top-k: expected a whole number, 0 or more, not '-3'"),
        (["--most", "0"], "--most: expected a whole number, 1 or more, not '0'"),
        (["--most", "1.5"], "--most: expected a whole number, 1 or more, not '1.5'"),
        (["--seed", "-1"], "--seed: expected a whole number, 0 or more, not '-1'"),
        (["--stop", ""], "--stop: expected a text"),
        (["--model", "nope.onnx"], "--model: there is no nope.onnx in this folder"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(PREDICT, monkeypatch, "the cat", *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(words)


@pytest.mark.parametrize("name", ["classify.py", "embed.py"])
def test_other_bundles_name_a_model_that_is_not_there(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(TEMPLATES / name, monkeypatch, "a text", "--model", "nope.onnx") == 2
    assert "there is no nope.onnx in this folder" in capsys.readouterr().err


def test_a_file_that_is_no_model_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    for name, content in (("model.onnx", "not a model"), ("tokenizer.json", "{}"), ("task.json", "{")):
        (tmp_path / "bundle" / name).write_text(content)
        assert asked(tmp_path / "bundle" / "predict.py", monkeypatch, "a text") == 1
        told = capsys.readouterr().err
        assert told.startswith("cannot load the model: ")
        assert told.count("\n") == 1


def test_a_model_of_a_language_that_fails_as_it_runs_is_told_of_in_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    beyond = models.WordLevel({"cat": 100_000, "[UNK]": 100_001}, unk_token="[UNK]")
    Tokenizer(beyond).save(str(tmp_path / "bundle" / "tokenizer.json"))
    assert asked(tmp_path / "bundle" / "predict.py", monkeypatch, "cat") == 1
    assert capsys.readouterr().err.startswith("the model failed: ")


def test_backslashes_of_stops_are_those_of_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "runner", runner)
    stop = runner.load_file(str(PREDICT)).stop
    assert [stop(text) for text in (r"\n\n", r"a\tb", r"\\n", r"\alpha", "é")] == [
        "\n\n", "a\tb", r"\n", r"\alpha", "é",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"bits": 8}, "8-bit weights"),
        ({"bits": 4, "blocks": [{"bits": 4}, {"bits": 4}]}, "4-bit weights"),
        ({"bits": 4, "blocks": [{"bits": 8}, {"bits": 4}]}, "4- and 8-bit weights"),
    ],
)
def test_weights_have_the_bits_that_they_have(facts: dict[str, Any], words: str) -> None:
    assert numbers_text({"form": IN_BLOCKS.as_dict(), "facts": facts}) == words


def test_a_card_says_what_is_so(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    task, facts = json.loads((bundle / "task.json").read_text()), {"parameters": 9, "bits": 8}
    write_manifest(tmp_path / "bundle", IN_BLOCKS, facts, task, 0.05, "tiny")
    card = " ".join((tmp_path / "bundle" / "README.md").read_text().split())
    assert ": 8-bit weights, 9 parameters" in card
    assert "Texts are truncated" not in card
    assert f"A prompt and its answer together have at most {POSITIONS} tokens" in card
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["positions"] == POSITIONS
