"""A teacher that is given no prompts writes them too: what a user would ask it, or how texts would begin."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer

from compress import api
from compress.core.artifacts import Artifact, seal
from compress.core.disk.files import copy_tree
from compress.core.errors import DataError, ModelError, PassError, ResourceError
from compress.core.forms import TORCH_FLOAT
from compress.data.splits import UNLABELLED, Examples
from compress.encoding.inputs import LOSS_MASK
from compress.generation.answers import Answer, read_answers
from compress.generation.copies import contained_in, find_duplicates
from compress.generation.prompts import PromptCodec
from compress.models.io.checkpoints import save_model
from compress.models.text.chat import EMPTY_USER_TURN
from compress.passes.distill import step as distill
from compress.passes.distill.sections.written import written
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.lessons import write_answers
from compress.step import StepContext
from compress.tasks.base import TrainingData
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.documents import messages_item
from tests.records import bert_run, change_step
from tests.speaking_server import Speaker, listening
from tests.steps import context
from tests.stopping import Killing
from tests.tiny_language import CHATML, byte_tokenizer, profile

START, STOP = "<|im_start|>", "<|im_end|>"
OK = {"license": "apache-2.0", "license_ok": True}
ASKED = [f"{first}{second}" for first in "abcd" for second in "wxyz"]


def talker() -> tuple[transformers.PreTrainedModel, Tokenizer]:
    """A model that has learnt what users ask, too."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([START, STOP])
    texts = [f"{START}user\n{one}{STOP}\n{START}assistant\n{one[-1]}{STOP}\n" for one in ASKED]
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=96,
        eos_token_id=tokenizer.token_to_id(STOP),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        ids = torch.tensor([one.ids for one in tokenizer.encode_batch(texts)])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("talker") / "model"
    folder.mkdir()
    model, tokenizer = talker()
    tokenizer.save(str(folder / "tokenizer.json"))
    end, words = tokenizer.token_to_id(STOP), tokenizer.get_vocab_size()
    save_model(model, folder)
    described = {
        "task": "causal-lm",
        "labels": [],
        "input_names": ["input_ids", "attention_mask"],
        "output_names": ["logits"],
        "max_length": 64,
        "words": words,
        "pad_id": end,
        "begin_id": None,
        "end_id": end,
        "chat_template": CHATML,
        "special_tokens": {},
    }
    (folder / "task.json").write_text(json.dumps(described))
    return seal(folder, TORCH_FLOAT, {"parameters": 1, "source": "talker"})


def beginning(teacher: Artifact, folder: Path, **changed: Any) -> Artifact:
    """The same with another `task.json`."""
    copy_tree(teacher.path, folder)
    said = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**said, **changed}))
    return seal(folder, TORCH_FLOAT, {"parameters": 1, "source": "talker"})


def prepared(
    folder: Path, teacher: Artifact, free: dict[str, Any], held_out: list[str], **keys: Any
) -> StepContext:
    """A step on data of which nothing may be learnt."""
    data = keys.pop("data", {"messages_column": "m"})
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x.jsonl", "max_length": 64, **data}))
    talk = [{"role": "user", "content": "never"}, {"role": "assistant", "content": "learnt"}]
    items = [messages_item(talk) if task.data.is_chat else "never learnt"] * 2
    examples = Examples(items, np.full(2, UNLABELLED, np.int64))
    spec = {
        "student": {"layers": 1, "intermediate_size": 48},
        "epochs": 1,
        "batch_size": 2,
        "data_free": free,
        "sequence": {"most": 8, **OK},
        **keys,
    }
    shown = TrainingData(examples, examples, (), is_heldout_copy=lambda texts: contained_in(texts, held_out))
    roles = dict.fromkeys(("model", "teacher", "original"), teacher)
    return context(folder, DistillSpec.model_validate(spec), roles, task, shown)


@pytest.mark.slow
def test_a_run_without_prompts_is_told_from_one_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    model, tokenizer = talker()
    model.save_pretrained(tmp_path / "model")
    carried = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=STOP, pad_token=STOP)
    carried.chat_template = CHATML
    carried.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    asked = {"train": [f"{number} dogs" for number in range(8)], "validation": ASKED[:3], "test": ASKED[3:6]}
    for split, questions in asked.items():
        rows = [
            {"m": [{"role": "user", "content": one}, {"role": "assistant", "content": one[-1]}]}
            for one in questions
        ]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    distill = {
        "student": {"layers": 1, "intermediate_size": 48},
        "epochs": 2,
        "batch_size": 4,
        "data_free": {"examples": 80, "most": 6},
        "sequence": {"most": 8, **OK},
        "control": True,
    }
    body = profile(
        data={"path": "data", "messages_column": "m", "max_length": 48},
        teacher={"model": "model"},
        passes=[{"distill": distill}, {"export": {"golden": 2}}],
    )
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(body))
    done = api.run(tmp_path / "p.yaml", quiet=True)
    steps = {step.step: step for step in done.record.steps}
    told = steps["distill"].facts["written"]["own_prompts"]
    assert told["by_reason"]["in the validation or test split"] > 0
    learnt = {sample.prompt for sample in steps["distill"].samples if sample.why == "kept"}
    assert learnt
    assert not learnt & {*ASKED[:6], *asked["train"]}
    assert steps["distill.control"].facts["shown"] == {"train": 8}
    shown = (tmp_path / "reports" / "tiny-lm" / "report.md").read_text()
    for words in (
        "Generated prompts",
        "no training data used",
        "for the same student trained on it",
    ):
        assert words in shown
    assert (
        "It was trained on texts written by other models"
        in next(tmp_path.rglob("bundle/README.md")).read_text()
    )


def written_in(folder: Path) -> list[Answer]:
    return [one for file in folder.glob("shared/*/*.jsonl") for one in read_answers(file)]


def lessons_of(ctx: StepContext) -> Any:
    return write_answers(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])


def test_what_a_user_would_ask_is_learnt_with_its_answer(teacher: Artifact, tmp_path: Path):
    free = {"examples": 40, "most": 6, "seed": 5}
    first = lessons_of(prepared(tmp_path / "first", teacher, free, []))
    prompts = [one for one in written_in(tmp_path / "first") if one.prompt == [{"role": "user"}]]
    assert len(prompts) == 40
    # It asks as it was taught, and a question ends where the template says.
    assert sum(one.text in ASKED and one.ended == "end" for one in prompts) > 30
    questions = [json.loads(item)["messages"][0]["content"] for item in first.examples.items]
    told = first.facts["own_prompts"]
    assert (told["prompts"], sum(told["by_reason"].values())) == (40, 40)
    assert told["by_reason"]["nearly a copy of another"] > 10
    assert find_duplicates(questions) == [None] * len(questions)
    assert first.facts["prompts"] == told["by_reason"]["kept"] >= len(questions) > 5
    talks = [json.loads(item)["messages"] for item in first.examples.items]
    assert sum(one[1]["content"] in "wxyz" for one in talks) > len(talks) / 2
    # What models are judged by is not learnt, whoever wrote it.
    ctx = prepared(tmp_path / "second", teacher, free, questions[:2])
    ctx = replace(ctx, shared=tmp_path / "first" / "shared")
    second = lessons_of(ctx)
    assert second.facts["own_prompts"]["written_before"] == 40
    assert second.facts["written_before"] == second.facts["prompts"]
    left = second.facts["own_prompts"]["by_reason"]["in the validation or test split"]
    assert left == sum(one.text in questions[:2] for one in prompts)
    assert second.examples.items == first.examples.items[2:]
    assert {one["why"] for one in second.samples} >= {"kept", "prompt: in the validation or test split"}
    assert "never" not in json.dumps([second.examples.items, second.samples])
    run = change_step(bert_run(), "distill", facts={"written": second.facts})
    tables = {one.caption: one.rows for one in written(run).tables}
    assert len(tables["Generated prompts"]) == len(second.facts["own_prompts"]["by_reason"])
    assert len(tables["Generating model and cost"]) == 2


def test_a_killed_run_asks_nothing_twice_and_its_student_is_taught(teacher: Artifact, tmp_path: Path):
    free = {"examples": 24, "most": 6}
    ctx = prepared(tmp_path, teacher, free, [], losses=[{"logits": {}}, {"next_token": {}}])
    for after in (10, 26):
        with pytest.raises(KeyboardInterrupt):
            distill.run(replace(ctx, progress=Killing(after)))
    assert len(written_in(tmp_path)) == 27
    result = distill.run(ctx)
    keys, told = [one.key for one in written_in(tmp_path)], result.facts["written"]
    assert len(set(keys)) == len(keys) == 24 + told["answers"]
    assert (told["own_prompts"]["written_before"], told["written_before"]) == (24, 3)
    assert result.facts["shown"] == {"written": told["by_reason"]["kept"]}
    assert result.facts["data_free"] == {"shown": "prompts that the teacher wrote"}
    control = distill.run_control(replace(ctx, inputs={**ctx.inputs, "taught": sealed(ctx, result)}))
    assert control.facts["shown"].keys() == {"train"}
    assert "data_free" not in control.facts
    assert control.facts["steps"] == result.facts["steps"]


def sealed(ctx: StepContext, result: Any) -> Artifact:
    return seal(ctx.out, result.form, result.facts)


def test_plain_texts_begin_where_texts_begin(teacher: Artifact, tmp_path: Path):
    begins = beginning(teacher, tmp_path / "begins", begin_id=0)
    free = {"examples": 12, "most": 6}
    ctx = prepared(
        tmp_path / "step", begins, free, [], data={}, sequence={"most": 20, "temperature": 1.0, **OK}
    )
    lessons = lessons_of(ctx)
    inputs = lessons.task.encode(lessons.examples, begins.path)
    assert lessons.facts["own_prompts"]["prompts"] == 12
    for place, item in enumerate(lessons.examples.items):
        said = json.loads(item)
        assert said["prompt"] == ""
        row = inputs.batch([place])
        # All that it wrote is learnt: nothing but the token that begins it stands before it.
        assert row["input_ids"][0, 0] == 0
        assert row[LOSS_MASK][0, 1:].all()
    # What ends a turn begins no text, and nobody asks without a template.
    with pytest.raises(ModelError, match="no-begin-token"):
        lessons_of(replace(ctx, inputs={"teacher": teacher}))
    bare = beginning(teacher, tmp_path / "bare", chat_template=None)
    assert PromptCodec(bare.path).empty_prompt == STOP
    with pytest.raises(DataError, match="no-chat-template"):
        lessons_of(prepared(tmp_path / "other", bare, free, []))
    with pytest.raises(
        PassError, match=r"none of the 12 prompts that the teacher wrote is kept: .* cut at the length"
    ):
        lessons_of(prepared(tmp_path / "short", teacher, {"examples": 12, "most": 2}, []))


class Talking(Speaker):
    """Writes prompts where a user speaks, and answers; counts tokens as a tokenizer does."""

    cuts: Any
    off = 0

    def said(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/completions"
        text = "yes"
        if asked["prompt"].endswith(f"{START}user\n"):
            assert asked["stop"] == [STOP]
            text = f" about {asked['seed']} "
        used = {"prompt_tokens": self.off + len(self.cuts(asked["prompt"])), "completion_tokens": 1}
        return {"choices": [{"text": text, "finish_reason": "stop"}], "usage": used}


def test_a_server_writes_them_behind_the_template_of_its_model(teacher: Artifact, tmp_path: Path):
    free = {"examples": 20}
    with listening(Talking()) as there:
        assert isinstance(there, Talking)
        writer = PromptCodec(teacher.path)
        there.cuts = lambda text: writer.encode(text, add_bos=True)
        server = {"url": there.url, "model": "talker", "api": "completions", "template": "teacher"}
        ctx = prepared(tmp_path / "one", teacher, free, [], sequence={"most": 8, "server": server, **OK})
        lessons = lessons_of(ctx)
        asked = Counter(one["prompt"] for one in there.asked)
        assert asked.pop(writer.render_prompt(EMPTY_USER_TURN)) == 20
        assert sorted(asked) == sorted(
            writer.render_prompt(json.loads(item)["messages"][:1]) for item in lessons.examples.items
        )
        assert all(json.loads(item)["messages"][1]["content"] == "yes" for item in lessons.examples.items)
        # What may be used, prompts and their answers use together.
        used = sum(one.used["prompt"] + 1 for one in written_in(tmp_path / "one"))
        limited = {**server, "max_tokens_total": used - 1}
        ctx = prepared(tmp_path / "limit", teacher, free, [], sequence={"most": 8, "server": limited, **OK})
        with pytest.raises(ResourceError, match=f"of `max_tokens_total: {used - 1}` are used"):
            lessons_of(ctx)
        assert 20 < len(written_in(tmp_path / "limit")) < 40
        before, there.off = len(there.asked), 1
        ctx = prepared(tmp_path / "two", teacher, free, [], sequence={"most": 8, "server": server, **OK})
        with pytest.raises(ModelError, match=r"the server counts 7 tokens where .* counts 6") as caught:
            lessons_of(ctx)
        assert (caught.value.code, len(there.asked)) == ("server-tokenizer", before + 1)
