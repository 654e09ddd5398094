"""A bundle answers texts as transformers and sentence-transformers answer them with the folder that it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from compress.core.artifacts import TASK
from compress.lowering.files import save_onnx
from compress.lowering.step import lower
from compress.models.io.checkpoints import load_model
from compress.models.teacher.materialise import materialise
from compress.models.text.tokenization import PROBE_TEXTS
from compress.profile.schema import TeacherSpec
from compress.runtimes.runner import open_predictor
from tests.tiny_families import LABELS, VOCABULARY, tiny_model, write_tokenizer

LENGTH = 12
SORTED = tuple(sorted(LABELS))
TEXTS = [
    *PROBE_TEXTS,
    *(f"w{number} W{number + 1} [SEP] w{number}" for number in range(20)),
    " ".join(f"w{n}" for n in range(40)),
]


def write_folder(folder: Path, model: Any, **settings: Any) -> Path:
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", **settings})
    )
    return folder


def bundle(folder: Path, out: Path, task: Any, labels: tuple[str, ...]) -> Any:
    """What `export` would give to a user, opened as its predict.py does."""
    spec = TeacherSpec(model=str(folder))
    materialise(spec, labels, folder, out, max_length=LENGTH, allow_code=False, task=task, texts=TEXTS)
    graph, _ = lower(load_model(out, attention="eager"), json.loads((out / TASK).read_text()))
    save_onnx(graph, out)
    return open_predictor(str(out))


def test_a_classifier(tmp_path: Path) -> None:
    settings = {"do_lower_case": False, "truncation_side": "left", "strip_accents": True}
    folder = write_folder(tmp_path / "model", tiny_model("bert"), **settings)
    predictor = bundle(folder, tmp_path / "out", "text-classification", SORTED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    order = [theirs.config.label2id[label] for label in predictor.labels]
    for text in TEXTS:
        encoded = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            expected = theirs(**encoded).logits.numpy()[:, order]
        np.testing.assert_allclose(
            predictor.outputs([text]), expected, atol=1e-4 * max(1.0, abs(expected).max())
        )


def test_a_sentence_encoder(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "model", tiny_model("bert", head=False, num_hidden_layers=1), do_lower_case=False
    )
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    described = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(described))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 8, "do_lower_case": True})
    )
    prompts = {"prompts": {"query": "w1 W2: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    predictor = bundle(folder, tmp_path / "out", "sentence-embedding", ())
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    assert tokenizer.vocab_size == VOCABULARY
    for text in TEXTS:
        prepared = ("w1 W2: " + text).strip().lower()
        encoded = tokenizer(prepared, truncation="longest_first", max_length=8, return_tensors="pt")
        with torch.no_grad():
            pooled = theirs(**encoded).last_hidden_state[0].mean(0)
        expected = torch.nn.functional.normalize(pooled, dim=0).numpy()
        np.testing.assert_allclose(predictor.outputs([text])[0], expected, atol=1e-5)
