"""Texts in windows: what is learnt, what is scored, and how a conversation becomes text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from compress.core.artifacts import Artifact
from compress.core.errors import DataError, ModelError
from compress.core.forms import ONNX_FLOAT
from compress.data.sources import load
from compress.data.splits import UNLABELLED, Examples
from compress.generation.prompts import PromptCodec
from compress.measuring.variants import sample_for_scoring
from compress.models.text.chat import renderer
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.schema import DataSpec
from compress.tasks.base import Scored, TrainingData, Truth
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.record import language_record, log_perplexity_test
from compress.tasks.causal_lm.scorer import answers, bucketed_divergence, log_softmax
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text import windows as windows_module
from compress.tasks.causal_lm.text.chat_pieces import pieces_of_template, render_pieces
from compress.tasks.causal_lm.text.documents import Piece, messages_item, pieces_of, prompt_item
from compress.tasks.causal_lm.text.windows import (
    BYTES,
    COMPARED,
    DOCUMENT,
    LOSS_MASK,
    encode_documents,
    split_windows,
)
from tests.steps import context
from tests.tiny_language import BEGIN, CHATML, byte_tokenizer

LLAMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


def folder_of(path: Path, **changed: object) -> Path:
    byte_tokenizer().save(str(path / "tokenizer.json"))
    described = {
        "max_length": 16,
        "pad_id": 0,
        "begin_id": None,
        "end_id": 259,
        "chat_template": CHATML,
        "special_tokens": {},
        "input_names": ["input_ids", "attention_mask"],
        **changed,
    }
    (path / "task.json").write_text(json.dumps(described))
    return path


def examples(*items: str) -> Examples:
    return Examples(items, np.full(len(items), UNLABELLED, np.int64))


def data(**keys: object) -> LanguageData:
    return LanguageData.model_validate({"path": "x.jsonl", "max_length": 16, **keys})


@given(
    length=st.integers(0, 60),
    longest=st.integers(2, 20),
    context=st.integers(1, 19),
    begins=st.integers(0, 60),
)
def test_each_token_is_scored_once_with_what_stands_before_it(
    length: int, longest: int, context: int, begins: int
):
    context = min(context, longest - 1)
    tokens = np.stack([np.arange(length), np.arange(length) >= begins, np.ones(length)], axis=1).astype(
        np.int64
    )
    windows = list(split_windows(tokens.reshape(-1, 3), longest, context))
    scored = [token for window in windows for token, learnt, _ in window.tolist() if learnt]
    # The first token of all stands behind nothing.
    assert scored == [token for token in range(1, length) if token >= begins]
    for window in windows:
        assert len(window) <= longest
        assert window[:, 0].tolist() == list(range(window[0, 0], window[0, 0] + len(window)))
        assert not window[0, 1]
    for window in windows[1:]:
        first = next(place for place, learnt in enumerate(window[:, 1]) if learnt)
        assert first >= min(context, int(window[first, 0]))


def test_a_batch_says_what_is_scored_of_which_text_and_how_many_bytes(tmp_path: Path):
    inputs = encode_documents(examples("abcdefghij" * 2, "né"), data(context=4), folder_of(tmp_path))
    assert inputs.lengths.tolist() == [16, 8, 3]
    batch = inputs.batch([0, 1, 2])
    assert batch[DOCUMENT].tolist() == [0, 0, 1]
    # Twenty letters less the first; the two bytes of é stand behind n.
    assert batch[BYTES].tolist() == [15, 4, 2]
    assert batch[LOSS_MASK][1, :8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert batch["attention_mask"][2].tolist() == [1] * 3 + [0] * 13
    assert len({inputs.digest(), encode_documents(examples("ab"), data(), tmp_path).digest()}) == 2


def test_texts_of_one_token_each_are_refused_where_there_are_no_others(tmp_path: Path):
    folder = folder_of(tmp_path)
    assert encode_documents(examples("a", "bc", "d"), data(), folder).batch([0])[DOCUMENT].tolist() == [1]
    with pytest.raises(DataError, match="nothing to learn or to score"):
        encode_documents(examples("a", "b"), data(), folder)
    # Behind a token that begins texts, the first one is scored.
    assert len(encode_documents(examples("a", "b"), data(), folder_of(tmp_path, begin_id=258))) == 2


def test_only_completions_and_the_assistants_words_are_learnt(tmp_path: Path):
    asked = encode_documents(
        examples(prompt_item("ab", "cd")),
        data(prompt_column="p", completion_column="c"),
        folder_of(tmp_path, begin_id=258),
    )
    batch = asked.batch([0])
    # begin, a, b, c, d, end
    assert batch["input_ids"][0, [0, -1]].tolist() == [258, 259]
    assert batch[LOSS_MASK].tolist() == [[0, 0, 0, 1, 1, 1]]
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!"},
    ]
    talk = encode_documents(
        examples(messages_item(said)),
        data(messages_column="m", max_length=256),
        folder_of(tmp_path, max_length=256),
    ).batch([0])
    text = byte_tokenizer().decode(talk["input_ids"][0][talk[LOSS_MASK][0] == 1].tolist())
    assert text == "yo<|im_end|>\n!<|im_end|>\n"


def test_a_template_that_rewrites_the_past_is_refused():
    rewriting = "{% for m in messages %}{{ m.content if loop.last else '-' }}{% endfor %}"
    item = messages_item(
        [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    )
    with pytest.raises(DataError) as caught:
        pieces_of(item, "messages", renderer(rewriting, {}, "model"))
    assert (caught.value.code, caught.value.where) == ("chat-template", "data.messages_column")
    with pytest.raises(DataError) as caught:
        pieces_of(item, "messages", None)
    assert caught.value.code == "no-chat-template"
    with pytest.raises(ModelError, match="cannot render"):
        pieces_of(item, "messages", renderer("{{ raise_exception('no') }}", {}, "model"))


def test_a_template_that_leaves_out_a_part_of_an_answer_is_refused():
    def learnt(template: str, answer: str) -> str:
        said = [{"role": "user", "content": "2 and 2"}, {"role": "assistant", "content": answer}]
        return pieces_of(messages_item(said), "messages", renderer(template, {}, "model"))[-1].text

    thoughtless = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}"
    asks = "{% if add_generation_prompt %}[assistant]{% endif %}"
    with pytest.raises(DataError, match="leaves out or changes part of the assistant's message") as caught:
        learnt(thoughtless + asks, "<think>two more</think> 4")
    assert (caught.value.code, caught.value.where) == ("chat-template", "data.messages_column")
    assert learnt(thoughtless + asks, " 4") == " 4"
    assert learnt(thoughtless + asks, "") == ""
    # Blanks are the template's own, and it may say the first words itself when it asks.
    spaced = "{% for m in messages %}[{{ m.role }}]{{ m.content | replace('>', '>\n') | trim }}{% endfor %}"
    assert learnt(spaced + asks, " <think>so</think>4 ") == "<think>\nso</think>\n4"
    thinks = "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
    assert learnt(spaced + thinks, "<think>so</think>4") == "so</think>\n4"


def test_a_template_runs_in_a_sandbox(tmp_path: Path):
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelError, match="cannot render"):
        renderer(evil, {}, "model")([{"role": "user", "content": "x"}], True)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ("text", "no-messages"),
        ([], "no-messages"),
        ([{"role": "robot", "content": "x"}], "no-messages"),
        ([{"role": "user", "content": 3}], "no-messages"),
        ('[{"role": "user", "content": "\\ud83d"}]', "text-unicode"),
        ([{"role": "user", "content": "x"}], "no-answer"),
        ([{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}], "no-question"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: object, code: str):
    with pytest.raises(DataError) as caught:
        messages_item(messages)
    assert caught.value.code == code


def test_conversations_may_be_json_or_in_the_words_of_others():
    plain = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    shared = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
    assert messages_item(shared) == messages_item(json.dumps(plain)) == messages_item(plain)


@pytest.mark.parametrize("form", ["prompts", "messages"])
def test_examples_that_differ_in_blanks_alone_are_one(form: str, tmp_path: Path):
    def row(prompt: str, answer: str) -> dict[str, object]:
        if form == "prompts":
            return {"p": prompt, "c": answer}
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return {"m": said}

    keys = {"prompt_column": "p", "completion_column": "c"} if form == "prompts" else {"messages_column": "m"}
    splits = {
        "test": [row("What  is\nthis?", "A cat"), row("b", "c")],
        "validation": [row("b ", " C"), row("d", "e"), row("f", "g")],
        # The same prompt with another answer is another example; so is what only reads alike from end to end.
        "train": [row("what is this?", "a CAT"), row("What is this?", "no"), row("d e", "e"), row("x", "y")],
    }
    (tmp_path / "data").mkdir()
    for name, rows in splits.items():
        lines = "".join(json.dumps(one) + "\n" for one in rows)
        (tmp_path / "data" / f"{name}.jsonl").write_text(lines)
    spec = LanguageData.model_validate({"path": "data", **keys})
    found = load(spec, tmp_path, 0, "causal-lm")
    assert [len(each) for each in (found.train, found.validation, found.test)] == [3, 2, 2]
    assert any("1 text of 4 dropped from 'train'" in note for note in found.notes)
    assert any("1 text of 3 dropped from 'validation'" in note for note in found.notes)


def test_a_template_becomes_pieces_where_it_depends_on_roles_alone():
    render = renderer(CHATML, {}, "model")
    pieces = pieces_of_template(CHATML, render)
    assert pieces is not None
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert render_pieces(pieces, messages, True) == render(messages, True)
    # Another default, counted turns, contents that are changed: no fixed pieces.
    counted = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"
    changed = "{% for m in messages %}{{ m.content | trim | upper }}{% endfor %}"
    left = "{% for m in messages %}{{ m.content.lstrip() }};{% endfor %}"
    lines = "{% for m in messages %}{{ m.content.strip('\n') }};{% endfor %}"
    silent = "{% for m in messages if m.content %}[{{ m.content }}]{% endfor %}"
    clock = CHATML + "{% if strftime_now is defined and false %}{{ strftime_now('%Y') }}{% endif %}"
    for template in (counted, changed, left, lines, silent, clock):
        assert pieces_of_template(template, renderer(template, {}, "model")) is None


def test_a_template_that_takes_no_system_message_becomes_pieces_without_one():
    # As those of Gemma and of Mistral's first models.
    template = (
        "{{ bos_token }}{% for m in messages %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + eos_token }}{% endfor %}"
    )
    render = renderer(template, {"bos_token": "<s>", "eos_token": "</s>"}, "model")
    pieces = pieces_of_template(template, render)
    assert pieces is not None
    assert "system" not in pieces["start"]
    messages = [{"role": role, "content": f" {role}"} for role in ("user", "assistant", "user")]
    assert render_pieces(pieces, messages, True) == render(messages, True)
    # One that leaves it out without a word must not seem to take it.
    deaf = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert pieces_of_template(deaf, renderer(deaf, {}, "model"))["start"].keys() == {"user"}


def test_pieces_trim_what_the_template_trims():
    rare = "\u3000\x1c a \ufeff\x85\n"
    some = "[{{ m.content | trim if m.role == 'user' else m.content }}]"
    for words, roles in ((" {{ m.content.strip() }} ", ["assistant", "system", "user"]), (some, ["user"])):
        template = "{% for m in messages %}" + words + "{% endfor %}"
        render = renderer(template, {}, "model")
        pieces = pieces_of_template(template, render)
        assert pieces is not None
        assert pieces["trim"] == roles
        messages = [{"role": role, "content": rare} for role in ("system", "user", "assistant", "user")]
        assert render_pieces(pieces, messages, True) == render(messages, True)


def test_the_tokens_of_pieces_are_those_of_each_by_itself():
    assert pieces_of("a text", "texts", None) == [Piece("a text", is_target=True)]
    assert pieces_of(prompt_item("p", "c"), "prompts", None) == [
        Piece("p", is_target=False),
        Piece("c", is_target=True, has_end_token=True),
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"prompt_column": "p"},
        {"prompt_column": "p", "completion_column": "c", "messages_column": "m"},
        {"context": 16},
    ],
)
def test_keys_that_make_no_sense_together_are_refused(keys: dict[str, object]):
    with pytest.raises(ValueError, match=r"`context`|go together|either conversations or prompts"):
        data(**keys)
    assert isinstance(data(), DataSpec)


def test_sums_are_those_of_torch():
    random = np.random.default_rng(0)
    logits = random.normal(size=(2, 5, 11)).astype(np.float32) * 4
    ids = random.integers(0, 11, (2, 5))
    learnt = np.array([[0, 1, 1, 0, 1], [0, 0, 1, 1, 0]])
    batch = {"input_ids": ids, LOSS_MASK: learnt, BYTES: np.array([7, 3]), DOCUMENT: np.array([0, 4])}
    found = answers(logits, batch, {"length": 6})
    losses = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits[:, :-1]).double().flatten(0, 1),
        torch.from_numpy(ids[:, 1:]).flatten(),
        reduction="none",
    ).numpy()
    kept = losses.reshape(2, 4) * learnt[:, 1:]
    assert found["nats"] == pytest.approx(kept.sum(axis=1), rel=1e-9)
    assert found["tokens"].tolist() == [3, 2]
    best = logits[:, :-1].argmax(-1)
    assert found["right"].tolist() == ((best == ids[:, 1:]) & (learnt[:, 1:] == 1)).sum(axis=1).tolist()
    assert found["likeliest"].tolist() == [
        [-1, best[0, 0], best[0, 1], -1, best[0, 3], -1],
        [-1, -1, best[1, 1], best[1, 2], -1, -1],
    ]
    assert answers(np.zeros((2, 5, 11), np.float32), batch, {})["nats"] == pytest.approx(
        [3 * math.log(11), 2 * math.log(11)]
    )
    with pytest.raises(ValueError, match="one row of logits"):
        answers(logits[:, :4], batch, {})


def test_the_distance_from_the_baseline_is_that_of_all_words(tmp_path: Path):
    rng = np.random.default_rng(3)
    windows = encode_documents(
        examples("one text of some words", "another"), data(), folder_of(tmp_path, words=300)
    )
    first = windows.against(None)
    batch = first.batch(range(len(windows)))
    theirs = rng.normal(scale=3, size=(*batch["input_ids"].shape, 300)).astype(np.float32)
    own = theirs + rng.normal(scale=0.5, size=theirs.shape).astype(np.float32)
    reference = answers(theirs, batch, {})
    # Every token that is scored, as there are few.
    assert (reference["compared"] >= 0).sum() == reference["tokens"].sum()
    second = windows.against(reference).batch(range(len(windows)))
    found = answers(own, second, {})["divergence"]
    exact = np.zeros(len(windows))
    for row, places in enumerate(batch[COMPARED]):
        for place in places[places > 0]:
            sure, guess = (log_softmax(each[row, place - 1]) for each in (theirs, own))
            exact[row] += (np.exp(sure) * (sure - guess)).sum()
    assert (found <= exact + 1e-9).all()
    assert found == pytest.approx(exact, rel=0.1)
    assert answers(theirs, second, {})["divergence"] == pytest.approx(0, abs=1e-4)
    # All words, none left over.
    logs = log_softmax(theirs[0, :4])
    assert bucketed_divergence(logs, log_softmax(own[0, :4])) == pytest.approx(
        (np.exp(logs) * (logs - log_softmax(own[0, :4]))).sum(axis=1), abs=1e-9
    )
    # A model that reads other tokens is not compared.
    assert COMPARED not in windows.against({"compared": batch[COMPARED][:, :3]}).batch([0])


def test_tokens_that_are_compared_are_spread_over_all_windows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(windows_module, "MOST_COMPARED", 12)
    made = encode_documents(examples("x" * 40, "ab", "y" * 15), data(), folder_of(tmp_path))
    places = made.against(None).batch(range(len(made)))[COMPARED]
    assert places.shape[1] == 12 // len(made)
    for row, kept, learnt in zip(places, (places >= 0).sum(axis=1), made.target_mask, strict=True):
        scored = np.flatnonzero(learnt)
        assert set(row[row >= 0]) <= set(scored)
        assert kept == min(places.shape[1], len(scored))
        assert (row[0], row[kept - 1]) == (scored[0], scored[-1])


def test_variants_are_scored_on_windows_of_all_documents(tmp_path: Path):
    folder = folder_of(tmp_path)
    for texts in (["x" * 80] * 4, ["a", "b", "cd"]):
        made = encode_documents(examples(*texts), data(), folder)
        chosen, truth = sample_for_scoring(made, Truth.of(examples(*texts)), seed=0)
        assert chosen.tolist() == list(range(len(made)))
        assert len(truth.labels) == len(made)
    assert set(made.documents) == {2}


def scored(own: dict[str, np.ndarray], theirs: dict[str, np.ndarray], number: int) -> Scored:
    texts = examples(*map(str, range(number)))
    task = CausalLanguageModel(data())
    baseline = language_record(Scored(task, theirs, texts, None, theirs, 1, 0, "d"))
    return Scored(task, own, texts, baseline, theirs, 1, 0, "d")


def sums(documents: Sequence[int], nats: Sequence[float] | np.ndarray) -> dict[str, np.ndarray]:
    """Of windows of four tokens and four bytes each."""
    count = len(documents)
    return {
        "document": np.array(documents),
        "nats": np.array(nats, float),
        **{name: np.full(count, 4) for name in ("tokens", "bytes")},
        "right": np.ones(count, int),
        "likeliest": np.zeros((count, 4), np.int32),
        "compared": np.ones((count, 2), np.int64),
        "divergence": np.full(count, 0.1),
    }


def test_a_text_without_a_window_leaves_the_intervals_alone():
    own, theirs = sums([0, 2, 3], [4, 8, 6]), sums([0, 2, 3], [4, 7, 6])
    found = language_record(scored(own, theirs, 5))
    closed = language_record(
        scored({**own, "document": np.arange(3)}, {**theirs, "document": np.arange(3)}, 3)
    )
    assert found.metrics == closed.metrics
    assert (found.retention_low, found.p_value) == (closed.retention_low, closed.p_value)
    assert all(metric.low < metric.high for metric in found.metrics if metric.name == "perplexity")
    # The last text has a window where one token more is made of it.
    assert 0 < language_record(scored(sums([0, 1, 2], [4, 8, 6]), sums([0, 1], [4, 7]), 3)).p_value <= 1


def test_a_difference_that_rounding_makes_is_none():
    random = np.random.default_rng(0)
    many = 5000
    assert log_perplexity_test(1e-5 + 1e-6 * random.normal(size=1000), many) == (1.0, False)
    p_value, worse = log_perplexity_test(0.02 + 0.001 * random.normal(size=1000), many)
    assert (p_value, worse) == (pytest.approx(0.002, rel=0.02), True)
    p_value, worse = log_perplexity_test(-0.02 + 0.001 * random.normal(size=1000), many)
    assert (p_value, worse) == (pytest.approx(0.002, rel=0.02), False)
    p_value, worse = log_perplexity_test(0.02 + 0.02 * random.normal(size=4000), many)
    # Normal: the share below 0.001 is that beyond 0.95 standard deviations.
    assert (p_value, worse) == (pytest.approx(2 * 0.171, abs=0.03), True)


def test_other_tokens_are_scored_per_token_of_the_baseline():
    # The same likelihood of the same texts, in eight times as many tokens.
    nats = np.random.default_rng(0).normal(12, 1, 40)
    theirs = sums(range(40), nats)
    own = {**sums(range(40), nats), "tokens": np.full(40, 32), "likeliest": np.zeros((40, 32), np.int32)}
    del own["divergence"], own["compared"]
    run = scored(own, theirs, 40)
    found = language_record(run)
    before, after = (record.metrics[0] for record in (run.baseline, found))
    assert after.value == pytest.approx(np.exp(nats.sum() / 160))
    assert (after.value, after.low, after.high, after.n) == pytest.approx(
        (before.value, before.low, before.high, before.n)
    )
    assert (found.retention, found.verdict) == (pytest.approx(1), "no difference")
    assert found.metrics[2].n == 40 * 32


@pytest.mark.parametrize("documents", [1, 2, 4])
def test_so_few_documents_prove_no_difference(documents: int):
    places = list(range(documents))
    own = sums(places, [8.0 + place for place in places])
    theirs = sums(places, [4.0 + place for place in places])
    found = language_record(scored(own, theirs, documents))
    assert (found.verdict, found.p_value > 0.05) == ("no difference", True)


def rendered(template: str, roles: Sequence[str]) -> str:
    messages = [{"role": role, "content": role} for role in roles]
    return renderer(template, {"bos_token": "<s>", "eos_token": "</s>"}, "model")(messages, True)


def test_special_tokens_reach_the_template():
    assert rendered(LLAMA, ["user"]) == "<s>[INST] user [/INST]"


@pytest.mark.parametrize(("tokens", "windows"), [(None, 9), (40, 3), (1, 1)])
def test_what_methods_learn_from_are_all_windows_or_so_many_tokens(
    tmp_path: Path, tokens: int | None, windows: int
):
    """Three texts are nine windows of 16 tokens, of which those that are drawn are read one at a time."""
    texts = examples(*(letter * 46 for letter in "abc"))
    task = CausalLanguageModel(data())
    source = Artifact(folder_of(tmp_path), ONNX_FLOAT, {}, {})
    ctx = context(tmp_path / "step", WeightOnlySpec(), {}, task, TrainingData(texts, texts, ()))
    start = calibration_batches(ctx, source, 3, tokens)
    read = [batch["input_ids"] for batch in start()]
    assert [ids.shape for ids in read] == [(1, 16)] * windows
    assert [ids.tolist() for ids in read] == [batch["input_ids"].tolist() for batch in start()]


def test_what_was_encoded_is_kept_as_long_as_nothing_changes_that_it_is_made_of(tmp_path: Path):
    folder = folder_of(tmp_path)
    task = CausalLanguageModel(data())
    first = task.encode(examples("abcab", "né"), folder)
    assert task.encode(examples("abcab", "né"), folder) is first
    others = [examples("abcabn", "é"), examples("né", "abcab"), examples("abcab")]
    for other in others:
        found, made = task.encode(other, folder), encode_documents(other, data(), folder)
        assert found is not first
        assert found.digest() == made.digest()
    # The first was asked for the longest time ago of more than are kept.
    task.encode(examples("bc"), folder)
    again = task.encode(examples("abcab", "né"), folder)
    assert again is not first
    assert again.digest() == first.digest()
    described = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**described, "max_length": 2}))
    assert task.encode(examples("abcab", "né"), folder) is not again
    (folder / "task.json").write_text(json.dumps(described))
    assert task.encode(examples("abcab", "né"), folder) is again
    file = folder / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert task.encode(examples("abcab", "né"), folder) is not again
    file.unlink()
    with pytest.raises(ModelError):
        task.encode(examples("abcab", "né"), folder)


def llama2(kind: str) -> Tokenizer:
    """Letters, every byte, and a space before the first word: of every stretch between special tokens (as Llama 2's
    file has it, and in the words of another component), or of the text alone."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁[]INST/helowrd!?",
        "▁[",
        "▁h",
    ]
    merges = [("▁", "["), ("▁", "h")]
    made = Tokenizer(
        models.BPE(
            {token: place for place, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    if kind == "normalizer":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", kind, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.add_special_tokens(["<s>", "</s>"])
    return made


TURNS = [
    {"role": ("user", "assistant")[place % 2], "content": text}
    for place, text in enumerate(["hello", "ho", "hé?", "wow!", "lo", "he"])
]


@pytest.mark.parametrize("kind", ["normalizer", "always", "first"])
@pytest.mark.parametrize(
    "template",
    [
        LLAMA,
        LLAMA.replace("{{ ' ' + message", "{{ message"),
        # Nothing special between the turns: each goes on where the last one ends.
        LLAMA.replace(" + eos_token", " + '!'"),
    ],
)
def test_a_conversation_is_learnt_in_the_ids_that_it_is_answered_by(kind: str, template: str, tmp_path: Path):
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    folder = folder_of(tmp_path, max_length=256, begin_id=1, chat_template=template, special_tokens=special)
    tokenizer = llama2(kind)
    tokenizer.save(str(folder / "tokenizer.json"))
    spec = data(messages_column="m", max_length=256)
    batch = encode_documents(examples(messages_item(TURNS)), spec, folder).batch([0])
    ids, learnt = batch["input_ids"][0].tolist(), batch[LOSS_MASK][0]
    writer = PromptCodec(folder)
    for place in (1, 3, 5):
        prompt = writer.encode_prompt(TURNS[:place])
        assert ids[: len(prompt)] == prompt
        assert learnt[len(prompt)] == 1
        assert not learnt[len(prompt) - 1]
    whole = renderer(template, special, "model")(TURNS, False)
    assert ids == tokenizer.encode(whole, add_special_tokens=False).ids
    # Every byte of an answer is counted once.
    answers_bytes = sum(len(one["content"].encode()) for one in TURNS[1::2])
    around = whole.count(" ho") * 3 + 3 * len("</s>" if "eos" in template else "!")
    assert batch[BYTES].tolist() == [answers_bytes + around]


def test_a_completion_goes_on_where_its_prompt_ends(tmp_path: Path):
    folder = folder_of(tmp_path, begin_id=1, end_id=2)
    tokenizer = llama2("normalizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    spec = data(prompt_column="p", completion_column="c")
    for prompt, completion in (("hello", " word"), ("he", "ll"), ("he ", "ll")):
        inputs = encode_documents(examples(prompt_item(prompt, completion)), spec, folder)
        whole = tokenizer.encode(prompt + completion, add_special_tokens=False).ids
        assert inputs.batch([0])["input_ids"][0].tolist() == [1, *whole, 2]
        # What is written there, in tokens, is what is learnt from.
        writer, asked = PromptCodec(folder), tokenizer.encode(prompt, add_special_tokens=False).ids
        assert writer.decode_answer([*whole[len(asked) :], 2], (), asked) == completion
        assert writer.decode_answer(whole[len(asked) :], ()) == completion.lstrip()
    # At the beginning of a text its first word has its space.
    empty = encode_documents(examples(prompt_item("", "hello")), spec, folder).batch([0])
    assert empty["input_ids"][0].tolist() == [1, *tokenizer.encode("hello").ids, 2]


@pytest.mark.parametrize("before", ["", "<begin>"])
def test_the_token_that_begins_texts_stands_there_once(before: str, tmp_path: Path):
    folder = folder_of(tmp_path, begin_id=byte_tokenizer().token_to_id(BEGIN))
    wanted = byte_tokenizer().encode(f"{BEGIN}ab").ids
    prompts = data(prompt_column="p", completion_column="c")
    for item, spec in ((prompt_item(f"{before}a", "b", ends=False), prompts), (f"{before}ab", data())):
        batch = encode_documents(examples(item), spec, folder).batch([0])
        assert batch["input_ids"][0].tolist() == wanted
        assert batch[LOSS_MASK][0].tolist() == [0, int(spec is not prompts), 1]
    assert PromptCodec(folder).encode_prompt(f"{before}ab") == wanted


def test_a_template_that_reads_the_clock_sees_the_same_day_always():
    # As Llama 3.2's and SmolLM3's do.
    template = (
        "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- endif %}\n{{ day }}|"
        "{{ strftime_now('%B %-d, %H:%M') }}|{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    said = renderer(template, {}, "model")([{"role": "user", "content": "hi"}], True)
    assert said == "26 Jul 2024|July 26, 00:00|hi"
