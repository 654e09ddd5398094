"""Numbers that no model has are refused before anything of such a size is made."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import ModelError
from compress.models.io.checkpoints import load_model
from compress.models.teacher.location import check_teacher
from compress.profile.model_checks.sizes import impossible_sizes
from compress.profile.schema import TeacherSpec
from tests.tiny import LABELS, tiny_bert, write_torch_artifact


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": -1}, {"hidden_size": 10**9},
        {"hidden_size": 2**23, "vocab_size": 2**23}, {"num_attention_heads": 0}, {"intermediate_size": 10**12},
        {"max_position_embeddings": 10**10},
    ],
    ids=str,
)  # fmt: skip
def test_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_torch_artifact(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    began = time.process_time()
    for call in (
        lambda: check_teacher(
            TeacherSpec(model=str(tmp_path)), LABELS, tmp_path, allow_code=False, task="text-classification"
        ),
        lambda: load_model(tmp_path),
    ):
        with pytest.raises(ModelError) as raised:
            call()
        assert raised.value.code == "impossible-size"
    assert time.process_time() - began < 20


def test_what_models_have() -> None:
    assert list(impossible_sizes(tiny_bert().config.to_dict())) == []
    others = {
        "type_vocab_size": 0,
        "max_position_embeddings": -1,
        "encoder_layers": 0,
        "hidden_size": 768,
        "vocab_size": 250_002,
    }
    assert list(impossible_sizes(others)) == []
