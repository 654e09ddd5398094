"""Tasks of lm-eval: what is asked of a model through windows is what lm-eval's own runner finds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from compress.encoding.tokens import TokenInputs
from compress.measuring.jobs import JobFolder
from compress.measuring.scoring import generate_answers, model_answers
from compress.models.text.chat import PromptFormat
from compress.tasks.base import Answers
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.windows import WindowInputs
from tests.tiny_decoders import lowered_decoder
from tests.tiny_language import BEGIN, END, WORDS, write_model

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
LONGEST = 48
TASKS = ("tiny_choice", "tiny_last", "tiny_rolling", "tiny_write")


def write_tasks(folder: Path) -> None:
    drawn = random.Random(3)
    said = [" ".join(drawn.choice(WORDS) for _ in range(drawn.randint(1, 14))) for _ in range(60)]
    rows = [
        {
            "text": said[n],
            "choices": [f"{drawn.choice(WORDS)} {said[n + 20 + k][:9]}" for k in range(3)],
            "gold": n % 3,
        }
        for n in range(20)
    ]
    # One is longer than a window, and one begins with nothing.
    rows[0]["text"], rows[1]["text"] = " ".join(WORDS * 2), ""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    choice = {
        "task": "tiny_choice",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    last = {
        "task": "tiny_last",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": " {{choices[0]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    }
    rolling = {
        "task": "tiny_rolling",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}.",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    }
    write = {
        "task": "tiny_write",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": [WORDS[0], WORDS[1]], "max_gen_toks": 9},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {
                "name": "first-word",
                "filter": [
                    {"function": "regex", "regex_pattern": "([a-z]+)"},
                    {"function": "take_first"},
                ],
            },
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
    }
    for task in (choice, last, rolling, write):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(common | task))


@pytest.mark.parametrize("begins", [False, True])
def test_figures_are_those_of_lm_evals_own_runner(begins: bool, tmp_path: Path):
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from compress.tasks.causal_lm.harness.model import Harness

    write_model(tmp_path / "model")
    write_tasks(tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        # Far from even, so that choices differ.
        model.model.embed_tokens.weight.mul_(12)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    if begins:
        loaded.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
        )
    form = PromptFormat(
        LONGEST, 1, 0 if begins else None, 1, None, {"bos_token": BEGIN, "eos_token": END}, (1, 72)
    )
    model.generation_config.eos_token_id = [1, 72]

    path = lowered_decoder(model, tmp_path)
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x", "max_length": LONGEST}))

    def answer(windows: WindowInputs) -> Answers:
        jobs = JobFolder(tmp_path, "onnxruntime", "cpu", 1, "here")
        found = model_answers(jobs, str(path), windows, 7, task, {}).answers
        assert found is not None
        return found

    def write(prompts: TokenInputs, settings: Mapping[str, Any]) -> NDArray[np.int32]:
        jobs = JobFolder(tmp_path, "onnxruntime", "cpu", 1, "here")
        return generate_answers(jobs, str(path), prompts, settings)

    ours = Harness(
        Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json")),
        form,
        ("input_ids", "attention_mask"),
        answer,
        write,
    )
    theirs = HFLM(
        model, tokenizer=loaded, max_length=LONGEST - 1, batch_size=5, device="cpu", add_bos_token=begins
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = []
    for one in (ours, theirs):
        tasks = manager.load(list(TASKS))
        found.append(evaluate(one, tasks, bootstrap_iters=0, log_samples=True))
    mine, own = (each["results"] for each in found)
    assert mine.keys() == own.keys() == set(TASKS)
    for task, values in own.items():
        for name, value in values.items():
            if isinstance(value, float):
                assert mine[task][name] == pytest.approx(value, rel=1e-4), (task, name)
    for task in own:
        for one, other in zip(*(each["samples"][task] for each in found), strict=True):
            if task == "tiny_write":
                assert one["resps"] == other["resps"]
                continue
            pairs = zip(np.ravel(one["filtered_resps"]), np.ravel(other["filtered_resps"]), strict=True)
            assert all(float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-4) for a, b in pairs)
    said = {one["resps"][0][0] for one in found[0]["samples"]["tiny_write"]}
    assert len(said) > 4
    assert "g" in said, "an end that only the model's settings name"
    tokens = ours.tok_encode(f"ab{BEGIN}cd", add_special_tokens=False)
    assert [ours._decode(tokens, stops) for stops in ([], [BEGIN])] == ["abcd", "ab"]
    assert not any(stop in text for text in said for stop in WORDS[:2])
    assert 0 < mine["tiny_choice"]["acc,none"] < 1
