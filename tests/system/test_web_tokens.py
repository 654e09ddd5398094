"""Texts become the same token ids in JavaScript as in Python, whatever stands in them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from compress.bundles.web import tokenizing
from compress.bundles.web.packages import TOKENIZERS, install_packages
from compress.bundles.web.tokenizing import HARD_TEXTS, tokenizer_facts
from compress.models.text.chat import renderer
from compress.models.text.vocabulary import choose_tokens, id_table, read_vocabulary, trim_tokenizer
from compress.runtimes.runner import encode, load_tokenizer
from compress.tasks.causal_lm.text.chat_pieces import pieces_of_template
from tests.tiny import SPECIAL

pytestmark = pytest.mark.system

PAGE = Path(tokenizing.__file__).with_name("page")
MAX_LENGTH = 24
CORPUS = [text for text in HARD_TEXTS if text.strip()] * 20 + [
    "the cat sat on the mat",
    "unhappiness and café",
] * 50


def word_piece(lowercase: bool, strip_accents: bool | None) -> Tokenizer:
    """Every letter of the corpus, alone and continuing a word, some words, and BERT's rules."""
    letters = sorted(set("".join(CORPUS)) | set("abcdefghijklmnopqrstuvwxyz"))
    tokens = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), "hello", "the", "##ing", "naive"]
    made = Tokenizer(
        models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(list(SPECIAL))
    return made


def byte_pairs() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"],
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return made


def trimmed(folder: Path) -> str:
    whole = folder / "whole.json"
    word_piece(True, None).save(str(whole))
    vocabulary = read_vocabulary(whole)
    used = np.array(Tokenizer.from_file(str(whole)).encode("hello the naïve cat!").ids)
    kept = choose_tokens(vocabulary, [used], 5)
    text = trim_tokenizer(whole, id_table(vocabulary, kept))
    ids = list(json.loads(text)["model"]["vocab"].values())
    assert len(ids) > len(set(ids))
    return text


KINDS: dict[str, Callable[[Path], str]] = {
    "uncased": lambda _: word_piece(True, None).to_str(),
    "cased": lambda _: word_piece(False, False).to_str(),
    "accents kept": lambda _: word_piece(True, False).to_str(),
    "trimmed": trimmed,
    "byte pairs": lambda _: byte_pairs().to_str(),
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    install_packages([TOKENIZERS], folder, None)
    for name in ("texts.mjs", "bert.mjs"):
        shutil.copyfile(PAGE / name, folder / name)
    return folder


@pytest.fixture(params=KINDS)
def compare(request: pytest.FixtureRequest, scripts: Path, tmp_path: Path) -> Callable[[list[str]], None]:
    """Fails where the ids of a text differ."""
    file = tmp_path / "tokenizer.json"
    file.write_text(KINDS[request.param](tmp_path), encoding="utf-8")
    page = {"max_length": MAX_LENGTH, **tokenizer_facts(file)}
    tokenizer = load_tokenizer(str(tmp_path), MAX_LENGTH)
    task = {"pad_id": 0, "input_names": ["input_ids"]}

    return lambda texts: check_ids(scripts, file, page, texts, tokenizer, task)


def check_ids(
    scripts: Path,
    file: Path,
    page: dict[str, Any],
    texts: list[str],
    tokenizer: Tokenizer,
    task: dict[str, Any],
) -> None:
    """The page's ids of each text are those of Python."""
    asked = {"tokenizer": json.loads(file.read_text(encoding="utf-8")), "page": page, "texts": texts}
    command = ["node", str(Path(__file__).with_name("ids.mjs")), str(scripts)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    for text, found in zip(texts, json.loads(done.stdout), strict=True):
        assert found == encode(tokenizer, [text], task)["input_ids"][0].tolist(), repr(text)


def test_awkward_texts_have_the_ids_of_python(compare: Callable[[list[str]], None]) -> None:
    compare([*HARD_TEXTS, *(f"{one} {other}" for one in HARD_TEXTS for other in HARD_TEXTS)])


PREPARED = [
    {"prefix": "query: ", "strip": True, "lowercase": True, "cut": "right"},
    {"prefix": "", "strip": True, "lowercase": False, "cut": "left"},
]


@pytest.mark.parametrize("said", PREPARED, ids=str)
@pytest.mark.parametrize("kind", ["cased", "byte pairs"])
def test_texts_are_prepared_and_cut_as_in_python(scripts: Path, tmp_path: Path, kind: str, said: Any) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(KINDS[kind](tmp_path), encoding="utf-8")
    page = {"max_length": MAX_LENGTH, "texts": said, **tokenizer_facts(file)}
    task = {"pad_id": 0, "input_names": ["input_ids"], "texts": said}
    tokenizer = load_tokenizer(str(tmp_path), MAX_LENGTH, said["cut"])
    blanks = [f"{one} Hello THE cat{one}" for one in "\x1c\x1f\x85\xa0\ufeff\u200b\u2028\u3000"]
    texts = [*HARD_TEXTS, *blanks, "the cat " * 60, " ".join(f"word{n}" for n in range(80))]
    check_ids(scripts, file, page, texts, tokenizer, task)


LETTERS = st.characters(exclude_categories=["Cs"])
# Words of the corpus among any letters: of letters alone nearly every text is one unknown token after another.
TEXTS = st.lists(st.one_of(st.sampled_from(CORPUS), st.text(LETTERS, max_size=12)), max_size=6).map(" ".join)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, min_size=150, max_size=150))
def test_any_text_has_the_ids_of_python(compare: Callable[[list[str]], None], texts: list[str]) -> None:
    compare(texts)


def smollm() -> Tokenizer:
    """As SmolLM2's: digits alone, then bytes, and special tokens that may stand in a text."""
    made = byte_pairs()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return made


def test_a_chatting_page_cuts_and_joins_as_python(scripts: Path) -> None:
    shutil.copyfile(PAGE / "writing.mjs", scripts / "writing.mjs")
    texts = [*HARD_TEXTS, *(f"{one} {other}" for one in HARD_TEXTS for other in HARD_TEXTS)]
    texts += [f"<|im_start|>user\n{text}<|im_end|>\n" for text in HARD_TEXTS]
    for made in (smollm(), byte_pairs()):
        asked = {"tokenizer": json.loads(made.to_str()), "page": {"begin_id": None}, "texts": texts}
        command = ["node", str(Path(__file__).with_name("words.mjs")), str(scripts)]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
        for text, (ids, joined) in zip(texts, json.loads(done.stdout), strict=True):
            wanted = made.encode(text, add_special_tokens=False).ids
            assert ids == wanted, repr(text)
            assert joined == made.decode(wanted), repr(text)


def test_a_chatting_page_trims_and_ends_as_python(scripts: Path) -> None:
    shutil.copyfile(PAGE / "writing.mjs", scripts / "writing.mjs")
    said = "{{ m.content | trim if m.role == 'user' else m.content }}"
    template = "{% for m in messages %}[{{ m.role }}]" + said + "{% endfor %};"
    render = renderer(template, {}, "model")
    pieces = pieces_of_template(template, render)
    assert pieces is not None
    blanks = ["", " \n", "\u3000\x1c a\tb \ufeff", "\ufeffa\x85", *HARD_TEXTS]
    talks = [
        [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
        for text in blanks
    ]
    asked = {"pieces": pieces, "talks": talks, "tokens": [3, 1, 4, 2, 0], "ends": [0, 2]}
    command = ["node", str(Path(__file__).with_name("talk.mjs")), str(scripts)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"texts": [render(talk, True) for talk in talks], "told": "3 1 4"}
