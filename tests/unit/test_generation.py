"""A model writes answers: the same in both forms, in any company, and once each however often it is killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from compress.core.artifacts import Artifact, seal
from compress.core.errors import DataError, ModelError
from compress.core.forms import ONNX_FLOAT, TORCH_FLOAT
from compress.generation.answers import Answer, read_answers
from compress.generation.prompts import PromptCodec, before_stop
from compress.generation.writing import (
    PREFETCH_BATCHES,
    GenerationSettings,
    answer_key,
    answers_file,
    write_answers,
)
from compress.lowering.decoder.graph import decoder_graph
from compress.lowering.decoder.layout import layout_of
from compress.models.io.checkpoints import save_model
from compress.models.text.chat import EMPTY_USER_TURN
from compress.runtimes import decoding, runner
from compress.runtimes.decoding import Sampling
from compress.runtimes.torch_worker import TorchRuntime
from tests.tiny_language import CHATML, byte_tokenizer

PROMPTS = ["a", "the red cat", "big", "a small house sees", "dog runs", "xyz" * 9]
DRAWN = Sampling(temperature=1.0, top_k=40, top_p=0.95, seed=5)


def tiny_model() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        vocab_size=260,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=0.4)
    return model


def artifact_of(
    folder: Path, model: transformers.PreTrainedModel, *, onnx: bool, **changed: object
) -> Artifact:
    folder.mkdir()
    if onnx:
        ir.save(decoder_graph(layout_of(model.config), model.state_dict()), folder / "model.onnx")
    else:
        save_model(model, folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    described = {
        "max_length": 64,
        "pad_id": 259,
        "begin_id": 258,
        "end_id": 259,
        "chat_template": CHATML,
        "special_tokens": {},
        **changed,
    }
    (folder / "task.json").write_text(json.dumps(described))
    return seal(folder, ONNX_FLOAT if onnx else TORCH_FLOAT, {"parameters": 1})


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def onnx(model: transformers.PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(tmp_path_factory.mktemp("onnx") / "model", model, onnx=True)


def written(
    model: Artifact, prompts: Sequence[str], how: GenerationSettings, folder: Path, **said: int
) -> dict[str, Answer]:
    found = list(read_answers(write_answers(model, prompts, how, folder, **said)))
    assert len({answer.key for answer in found}) == len(found)
    return {answer.key: answer for answer in found}


def test_both_forms_write_what_the_model_says(model, onnx: Artifact, tmp_path: Path):
    plain = artifact_of(tmp_path / "torch", model, onnx=False)
    ends = set()
    for together in (1, 4):
        both = [
            written(
                one,
                PROMPTS,
                GenerationSettings(24),
                tmp_path / f"{one.form.framework}{together}",
                batch_size=together,
            )
            for one in (onnx, plain)
        ]
        assert both[0] == both[1]
        for prompt in PROMPTS:
            ids = [258, *byte_tokenizer().encode(prompt, add_special_tokens=False).ids]
            with torch.no_grad():
                wanted = model.generate(
                    torch.tensor([ids]),
                    max_new_tokens=24,
                    do_sample=False,
                    eos_token_id=259,
                    pad_token_id=259,
                )[0, len(ids) :].tolist()
            answer = both[0][answer_key(prompt, 0)]
            ends.add(answer.ended)
            assert (answer.prompt, answer.tokens) == (prompt, wanted)
            assert answer.text == byte_tokenizer().decode([one for one in wanted if one < 258])
    assert "length" in ends


def test_an_answer_does_not_hang_on_its_neighbours(onnx: Artifact, tmp_path: Path):
    how = GenerationSettings(30, DRAWN, samples=2)
    alone: dict[str, Answer] = {}
    for number, prompt in enumerate(PROMPTS):
        alone |= written(onnx, [prompt], how, tmp_path / str(number))
    together = written(onnx, PROMPTS, how, tmp_path / "all", batch_size=3)
    turned = written(onnx, PROMPTS[::-1], how, tmp_path / "turned", batch_size=5)
    assert alone == together == turned
    first, second = (together[answer_key(PROMPTS[0], sample)].tokens for sample in (0, 1))
    assert first != second
    other = GenerationSettings(30, DRAWN._replace(seed=6), samples=2)
    assert written(onnx, PROMPTS[:1], other, tmp_path / "all")[answer_key(PROMPTS[0], 0)].tokens != first


def test_a_killed_run_goes_on_and_writes_nothing_twice(onnx: Artifact, tmp_path: Path):
    how, prompts = GenerationSettings(12, DRAWN), [f"{number} cats" for number in range(40)]
    undisturbed = written(onnx, prompts, how, tmp_path / "undisturbed")
    told: list[int] = []

    def killed(steps: int = 1, note: str | None = None) -> None:
        told.append(steps)
        if len(told) == 17:
            raise KeyboardInterrupt

    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        write_answers(onnx, prompts, how, folder, batch_size=4, advance=killed)
    file = answers_file(folder, onnx, how)
    kept = list(read_answers(file))
    assert len(kept) == 17
    whole = file.read_bytes()
    # The last line half-written, as by a loss of power.
    file.write_bytes(whole[:-9])
    assert written(onnx, prompts, how, folder, batch_size=4) == undisturbed
    assert file.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1) + 1])
    before = file.read_bytes()
    counted: list[int] = []
    write_answers(onnx, prompts, how, folder, advance=lambda steps=1, note=None: counted.append(steps))
    assert (file.read_bytes(), sum(counted)) == (before, 40)


def test_few_prompts_are_held_at_once(onnx: Artifact, tmp_path: Path):
    taken, done = [0], [0]
    most = [0]

    def prompts() -> Iterator[str]:
        for number in range(120):
            taken[0] += 1
            most[0] = max(most[0], taken[0] - done[0])
            yield str(number)

    def advance(steps: int = 1, note: str | None = None) -> None:
        done[0] += steps

    write_answers(onnx, prompts(), GenerationSettings(2), tmp_path, batch_size=2, advance=advance)
    assert done[0] == 120
    assert most[0] <= 2 * PREFETCH_BATCHES


def test_an_answer_ends_before_a_stop(onnx: Artifact, tmp_path: Path):
    free = written(onnx, PROMPTS, GenerationSettings(24, DRAWN), tmp_path)
    stop = free[answer_key(PROMPTS[1], 0)].text[7:9]
    found = written(onnx, PROMPTS, GenerationSettings(24, DRAWN, (stop, "never")), tmp_path, batch_size=2)
    assert found[answer_key(PROMPTS[1], 0)].ended == "stop"
    for key, answer in found.items():
        cut = before_stop(free[key].text, [stop])
        assert answer.text == (free[key].text if cut is None else cut)
        assert free[key].tokens[: len(answer.tokens)] == answer.tokens


def test_conversations_are_written_down_by_the_template(model, onnx: Artifact, tmp_path: Path):
    asked = [{"role": "user", "content": "hello"}]
    (answer,) = read_answers(write_answers(onnx, [asked], GenerationSettings(6), tmp_path))
    without = artifact_of(tmp_path / "without", model, onnx=True, chat_template=None, begin_id=None)
    # The same text, without the token that stands before plain ones.
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    (same,) = read_answers(write_answers(without, [text], GenerationSettings(6), tmp_path))
    assert (answer.prompt, answer.tokens) == (asked, same.tokens)
    with pytest.raises(DataError, match="need a chat template"):
        write_answers(without, [asked], GenerationSettings(6), tmp_path)
    with pytest.raises(DataError, match="no tokens to continue from"):
        write_answers(without, ["x", ""], GenerationSettings(6), tmp_path)


@pytest.mark.parametrize(
    ("template", "before", "ends"),
    [
        (CHATML, "<|im_start|>user\n", ("<|im_end|>",)),
        ("{{ bos_token }}[INST] {{ messages[0].content | trim }} [/INST]", "<begin>[INST] ", ("[/INST]",)),
        ("{{ messages[0].content }}<end>bot:", "", ("<end>",)),
        (
            "be brief\nuser: {{ messages[0].content }}\n\n### Reply:\n<end>",
            "be brief\nuser: ",
            ("### Reply:", "<end>"),
        ),
        ("{{ messages[0].content }}", "", ()),
    ],
)
def test_what_stands_around_the_words_of_a_user(
    template: str, before: str, ends: tuple[str, ...], onnx: Artifact, tmp_path: Path
):
    said = json.loads((onnx.path / "task.json").read_text())
    said |= {"chat_template": template, "special_tokens": {"bos_token": "<begin>"}, "begin_id": 0}
    (tmp_path / "task.json").write_text(json.dumps(said))
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    writer = PromptCodec(tmp_path)
    assert (writer.render_prompt(EMPTY_USER_TURN), writer.message_stops(EMPTY_USER_TURN)) == (before, ends)
    assert writer.render_without_bos(EMPTY_USER_TURN) == before.removeprefix("<begin>")
    assert writer.empty_prompt == ""
    with_system = [{"role": "system", "content": "be brief"}, *EMPTY_USER_TURN]
    assert template != CHATML or writer.render_prompt(with_system).endswith(f"be brief<|im_end|>\n{before}")


def test_a_template_without_the_words_of_a_user_is_told(model, onnx: Artifact, tmp_path: Path):
    mute = artifact_of(tmp_path / "mute", model, onnx=True, chat_template="hello")
    with pytest.raises(ModelError, match="leaves out the user's message"):
        PromptCodec(mute.path).render_prompt(EMPTY_USER_TURN)


def test_special_tokens_end_answers_too(model, onnx: Artifact, tmp_path: Path):
    free = written(onnx, PROMPTS, GenerationSettings(40, DRAWN), tmp_path)
    drawn = {token for answer in free.values() for token in answer.tokens}
    assert drawn & {0, 1}, "a special token that no text shows"
    for answer in written(
        onnx, PROMPTS, GenerationSettings(40, DRAWN, ("<begin>", "<end>")), tmp_path
    ).values():
        whole = free[answer.key].tokens
        place = next((place for place, token in enumerate(whole) if token in (0, 1)), None)
        assert answer.tokens == (whole if place is None else whole[: place + 1])
        assert place is None or answer.ended == "end"


def test_what_is_too_long_is_told(model, onnx: Artifact, tmp_path: Path):
    plain = artifact_of(tmp_path / "torch", model, onnx=False)
    for one, words in ((onnx, "20 tokens after a prompt of 121"), (plain, "has only 128 positions")):
        with pytest.raises(ModelError, match=words):
            write_answers(one, ["x" * 120], GenerationSettings(20), tmp_path)


def test_a_job_writes_where_the_model_runs(model, onnx: Artifact, tmp_path: Path):
    plain = artifact_of(tmp_path / "torch", model, onnx=False)
    ids = [byte_tokenizer().encode(prompt, add_special_tokens=False).ids for prompt in PROMPTS]
    mask = (np.arange(max(map(len, ids))) < np.array([[len(row)] for row in ids])).astype(np.int64)
    padded = np.zeros_like(mask)
    padded[mask > 0] = np.concatenate(ids)
    feeds = str(tmp_path / "feeds.npz")
    runner.write_batches(feeds, [{"input_ids": padded, "attention_mask": mask}])
    found = []
    for runtime, path in ((runner.OnnxRuntime(), onnx.model_file), (TorchRuntime(), plain.path)):
        job = {
            "model": str(path),
            "feeds": feeds,
            "scorer": decoding.__file__,
            "settings": {"most": 10, "ends": [259, 7, 8, *range(100, 120)], "together": 4},
            "outputs": str(tmp_path / "written.npz"),
            "threads": 1,
            "device": "cpu",
        }
        assert runner.score_job(job, runtime)["shape"] == [10]
        found.append(np.load(job["outputs"])["written"])
    assert np.array_equal(*found)
    session = runner.CachedSession(runner.open_session(str(onnx.model_file)))
    wanted = decoding.generate(decoding.Decoder(session, 60), ids, 10, job["settings"]["ends"])
    assert [row[row >= 0].tolist() for row in found[0]] == wanted
    assert min(map(len, wanted)) < 10


def test_texts_are_cut_before_the_first_stop():
    assert before_stop("one two three", ["three", "two"]) == "one "
    assert before_stop("one", ["two"]) is None
    assert before_stop("one", []) is None
    assert before_stop("stop", ["stop"]) == ""


class Counting:
    """Rows that all go on together, and how many began at once."""

    supports_refill = False

    def __init__(self) -> None:
        self.begun: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]], most: int = 0) -> NDArray[np.float32]:
        self.begun.append(len(prompts))
        return self.append_tokens(prompts)

    def append_tokens(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return np.eye(8, dtype=np.float32)[[7] * len(tokens)]

    def select_rows(self, rows: Sequence[int]) -> None:
        """Nothing is held."""


def test_rows_that_end_one_by_one_are_followed_by_as_many_as_go_together():
    decoder = Counting()
    lengths = [3, 1, 2, 4, 1, 3, 2, 2, 1, 4]
    written = Counter[int]()

    def stopped(row: int, token: int) -> bool:
        return written[row] == lengths[row]

    for row, _ in decoding.stream(decoder, [[1]] * len(lengths), 9, max_rows=4, should_stop=stopped):
        written[row] += 1
    assert [written[row] for row in range(len(lengths))] == lengths
    assert decoder.begun == [4, 4, 2]
