"""What ends an answer: every token that a model, its settings and its template name, in whatever is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast

from compress.bundles.layout import PREDICTOR
from compress.core.disk.files import copy_file
from compress.data.splits import UNLABELLED, Examples
from compress.generation.prompts import PromptCodec
from compress.models.teacher.location import fingerprint
from compress.models.text.chat import renderer
from compress.profile.schema import TeacherSpec
from compress.runtimes import decoding
from compress.runtimes.runner import open_predictor
from compress.tasks.base import TrainingData
from compress.tasks.causal_lm.bundle import TEXTS
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.source import write_model as write_source
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.documents import messages_item, pieces_of
from compress.tasks.causal_lm.text.ends import answer_end_tokens
from tests.steps import context
from tests.tiny_decoders import lowered_decoder, tiny_decoder
from tests.tiny_language import BEGIN, CHATML, END, byte_tokenizer

TURN, TOOL, OTHER = "<end_of_turn>", "<end_of_call>", "<end_of_all>"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\\n" + TURN + "\\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


END_IDS = {END: 1, TURN: 258, TOOL: 259, OTHER: 260}


def tokenizer_of() -> Tokenizer:
    """It knows four tokens that end something."""
    made = byte_tokenizer()
    made.add_special_tokens([TURN, TOOL, OTHER])
    assert {token: made.token_to_id(token) for token in END_IDS} == END_IDS
    return made


def saved(folder: Path, generation: list[int]) -> None:
    """A model as transformers saves it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of(), bos_token=BEGIN, eos_token=END, pad_token=END
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    tiny_decoder("llama", vocab_size=264, eos_token_id=1).save_pretrained(folder)
    GenerationConfig(eos_token_id=generation).save_pretrained(folder)


def described(folder: Path) -> Path:
    """What the source step writes of the model in `folder / model`."""
    texts = Examples((messages_item(TALK),), np.array([UNLABELLED]))
    task = CausalLanguageModel(
        LanguageData.model_validate({"path": "x", "max_length": 64, "messages_column": "m"})
    )
    spec = TeacherSpec(model="model")
    ctx = context(folder / "step", spec, {}, task, TrainingData(texts, texts, ()), folder)
    write_source(ctx, spec)
    return ctx.out


@pytest.mark.parametrize(
    ("config", "generation", "template", "wanted"),
    [
        ([END, TOOL], None, None, [END, TOOL]),
        (END, [OTHER, END, TURN], None, [END, OTHER, TURN]),
        (TOOL, OTHER, None, [END, TOOL, OTHER]),
        (None, None, None, [END]),
        (None, None, TEMPLATE, [END, TURN]),
        ([END, TOOL], TURN, TEMPLATE, [END, TURN, TOOL]),
        (END, END, "{{ raise_exception('never') }}", [END]),
        (END, END, CHATML, [END]),
    ],
)
def test_every_end_that_a_model_names_ends_an_answer(
    config: object, generation: object, template: str | None, wanted: list[str]
):
    def ids(said: object) -> Any:
        return [END_IDS[one] for one in said] if isinstance(said, list) else END_IDS.get(str(said))

    model = tiny_decoder("llama", vocab_size=264)
    model.config.eos_token_id, model.generation_config.eos_token_id = ids(config), ids(generation)
    render = None if template is None else renderer(template, {}, "model")
    assert answer_end_tokens(model, [], 1, render, tokenizer_of()) == ids(wanted)
    # Numbers that are no tokens of the model end nothing.
    assert answer_end_tokens(model, [264, -1, 3], None, render, tokenizer_of())[-1] == 3


def test_a_folder_says_what_ends_an_answer(tmp_path: Path):
    saved(tmp_path / "model", [1, 260])
    out = described(tmp_path)
    said = json.loads((out / "task.json").read_text())
    assert (said["end_id"], said["end_ids"]) == (1, [1, 258, 260])
    writer = PromptCodec(out)
    assert writer.end_ids == (1, 258, 260)
    # What a turn is taught to end with is among them.
    learnt = pieces_of(messages_item(TALK), "messages", renderer(TEMPLATE, {}, "model"))[-1].text
    assert set(writer.encode(learnt, add_bos=False)) & set(writer.end_ids) == {258}
    assert said["chat"]["trim"] == ["assistant", "system", "user"]


def test_other_settings_of_writing_make_another_model(tmp_path: Path):
    saved(tmp_path, [1])
    before = fingerprint(str(tmp_path), None, tmp_path)
    GenerationConfig(eos_token_id=[1, 2]).save_pretrained(tmp_path)
    assert fingerprint(str(tmp_path), None, tmp_path) != before


def test_older_folders_name_one_end(tmp_path: Path):
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    common = {"max_length": 16, "pad_id": 0, "begin_id": None, "chat_template": None, "special_tokens": {}}
    for end, ends in ((259, (259,)), (None, ())):
        (tmp_path / "task.json").write_text(json.dumps({**common, "end_id": end}))
        assert PromptCodec(tmp_path).end_ids == ends


def test_a_bundle_ends_and_trims_as_the_model(tmp_path: Path):
    lowered_decoder(tiny_decoder("llama", vocab_size=264), tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for file in (Path(decoding.__file__), TEXTS.predictor):
        assert file is not None
        copy_file(file, tmp_path / (PREDICTOR if file == TEXTS.predictor else file.name))
    trimmed = {
        "start": {"user": "<"},
        "between": {"user>assistant": "|", "assistant>user": "|"},
        "trim": ["user"],
    }
    task = {"task": "causal-lm", "begin_id": None, "end_id": 259, "chat": {**trimmed, "asks": {"user": ">"}}}
    (tmp_path / "task.json").write_text(json.dumps(task))
    model, prompt = open_predictor(str(tmp_path)), tokenizer.encode("the cat").ids
    said = [{"role": role, "content": " a\n"} for role in ("user", "assistant", "user")]
    assert model.chat(said) == "<a| a\n|a>"

    def written(*stops: str) -> str:
        return "".join(model.stream(prompt, 12, None, stops))

    free = decoding.generate(decoding.Decoder(model.session, 32), [prompt], 12)[0]
    before = tokenizer.decode(free[: free.index(free[5])])
    assert written() == tokenizer.decode(free) != before
    model.task["end_ids"] = [259, free[5]]
    assert written() == before
    # A special token is in no text, and stops all the same.
    del model.task["end_ids"]
    name = tokenizer.id_to_token(free[5])
    model.tokenizer.add_special_tokens([name])
    assert written(name) == before
