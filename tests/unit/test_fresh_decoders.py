"""Decoders that a profile describes: what is refused without making one, and what is made."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compress import api
from compress.lowering.decoder.layout import layout_of
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.fresh import FreshDecoder
from compress.models.anatomy.table.sizes import count_parameters
from compress.models.students.decoder import new_decoder
from compress.tasks.causal_lm.text.documents import messages_item, prompt_item
from compress.tasks.causal_lm.text.own_tokenizer import END, load_tokenizer_file, trained_tokenizer
from compress.tasks.table import task_kind
from tests.tiny_language import WORDS, profile, write_texts

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "layers": 2,
    "hidden_size": 64,
    "groups": 1,
    "tokenizer": {"vocabulary": 300},
}
FINETUNE = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 16}


def validated(folder: Path, **changed: Any) -> list[str]:
    write_texts(folder / "data")
    (folder / "p.yaml").write_text(yaml.safe_dump(profile(**changed)))
    return [str(fault) for fault in api.validate(folder / "p.yaml").faults]


def test_a_described_model_is_valid(tmp_path: Path):
    assert validated(tmp_path, teacher={"config": CONFIG, "finetune": FINETUNE}) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "t5"}, "not one of llama"),
        ({"model_type": "bert"}, "not one of llama"),
        ({"hidden_size": 60}, "multiple of 16"),
        ({"heads": 3}, "3 heads do not divide the width 64"),
        ({"groups": 3, "heads": 4}, "3 groups of keys and values do not divide 4 heads"),
        ({"model_type": "gpt2"}, "leave `groups` out"),
        ({"tokenizer": {"vocabulary": 100}}, "greater than or equal to 257"),
        ({"tokenizer": "nowhere/tokenizer.json"}, "there is no"),
        ({"positions": 32}, "takes 32 tokens at most"),
        ({"layerz": 2}, "unknown key"),
    ],
)
def test_what_describes_no_model_is_refused(tmp_path: Path, changed: dict[str, Any], words: str):
    faults = validated(tmp_path, teacher={"config": {**CONFIG, **changed}, "finetune": FINETUNE})
    assert any(words in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"teacher": {"config": CONFIG}}, "add `finetune`"),
        ({"teacher": {"config": CONFIG, "model": "x", "finetune": FINETUNE}}, "give one of the two"),
        ({"teacher": {"model": "config:{}", "finetune": FINETUNE}}, "described by `config`"),
        ({"teacher": {"finetune": FINETUNE}}, "teacher.model: missing"),
        (
            {"task": "text-classification", "teacher": {"config": CONFIG, "finetune": FINETUNE}},
            "only causal-lm trains a model from scratch",
        ),
        (
            {
                "teacher": {"config": CONFIG, "finetune": FINETUNE},
                "passes": [{"distill": {"student": {"architecture": "vit"}, "losses": [{"logits": {}}]}}],
            },
            "reads images",
        ),
        (
            {
                "teacher": {"config": CONFIG, "finetune": FINETUNE},
                "passes": [
                    {
                        "distill": {
                            "student": {"architecture": "llama", "heads": 3},
                            "losses": [{"logits": {}}],
                        }
                    }
                ],
            },
            "3 heads do not divide the width 128",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path: Path, changed: dict[str, Any], words: str):
    faults = validated(tmp_path, **changed)
    assert any(words in fault for fault in faults), faults


@pytest.mark.parametrize("kind", DECODERS)
def test_every_family_is_made_as_it_was_described_and_can_be_lowered(kind: str):
    asked = FreshDecoder(kind, 2, 64)
    assert asked.fault() is None
    model = new_decoder(asked, vocabulary_size=300, max_positions=40, bos_id=1, eos_id=2, seed=0)
    layout = layout_of(model.config)
    assert (layout.sizes["layers"], layout.sizes["hidden"], layout.max_positions) == (2, 64, 40)
    assert model.num_parameters() == count_parameters(model.config.to_dict(), "words")
    again = new_decoder(asked, vocabulary_size=300, max_positions=40, bos_id=1, eos_id=2, seed=0)
    other = new_decoder(asked, vocabulary_size=300, max_positions=40, bos_id=1, eos_id=2, seed=1)
    words = [each.get_input_embeddings().weight for each in (model, again, other)]
    assert torch.equal(words[0], words[1])
    assert not torch.equal(words[0], words[2])
    ids = torch.arange(20)[None]
    with torch.no_grad():
        nats = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    # Nothing was learnt yet: as a guess among 300.
    assert -float(nats.mean()) == pytest.approx(5.7, abs=0.3)


def test_a_tokenizer_is_trained_on_what_stands_in_the_examples():
    drawn = random.Random(0)
    texts = [" ".join(drawn.choice(WORDS) for _ in range(9)) for _ in range(50)]
    made, again = (trained_tokenizer(texts, "texts", 300) for _ in range(2))
    assert made.get_vocab() == again.get_vocab()
    assert len(made) <= 300
    assert made("the house").input_ids[0] == made.convert_tokens_to_ids(END)
    assert made.decode(made("żółw 😀 the").input_ids, skip_special_tokens=True) == "żółw 😀 the"
    assert len(made("the house").input_ids) < 5
    asked = trained_tokenizer([prompt_item("ask", text) for text in texts], "prompts", 280)
    # The marks of JSON are no part of an example.
    assert "prompt" not in "".join(asked.get_vocab())
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    said = trained_tokenizer([messages_item(talk)], "messages", 280)
    assert said.eos_token == "<|im_end|>"
    assert said.apply_chat_template(talk, tokenize=False).endswith("<|im_start|>assistant\nyo<|im_end|>\n")


def test_a_file_tells_its_end_by_the_name_of_a_token(tmp_path: Path):
    trained_tokenizer(["a b"], "texts", 260).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer_file(tmp_path / "tokenizer.json").eos_token == END


@pytest.mark.parametrize(("longest", "taken"), [(64, 160), (512, 512)])
def test_it_takes_what_is_timed_of_it_where_nobody_says_how_much(longest: int, taken: int) -> None:
    # A prompt of 128 tokens and an answer of 32.
    assert task_kind("causal-lm").default_positions(longest) == taken
