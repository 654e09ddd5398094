"""What a stranger's config.json makes transformers fetch or import: pinned to what we ask for, or refused by name."""

from __future__ import annotations

import json
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import CONFIG_MAPPING

import compress
from compress.core.errors import ModelError, ProfileError
from compress.models.io.architectures import read_config
from compress.models.io.checkpoints import load_for_labels
from compress.models.io.offline import offline
from compress.models.io.pretrained import load_pretrained
from compress.models.teacher.location import check_teacher
from compress.models.text.tokenization import read_tokenization
from compress.profile.load import load_profile
from compress.profile.model_checks.settings import PINNED, custom_classes, fetching_settings, without_pinned
from compress.profile.schema import TeacherSpec
from tests.jobs import write_job
from tests.tiny import LABELS, tiny_bert, write_torch_artifact

IDS = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
KERNEL = "kernels-community/flash-attn3"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_torch_artifact(tmp_path_factory.mktemp("clean") / "bert", tiny_bert()).path


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail(f"something was sent to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def changed(clean: Path, folder: Path, **settings: Any) -> Path:
    shutil.copytree(clean, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(IDS).logits)


PINS: dict[str, dict[str, Any]] = {
    "a kernel of the hub": {"_attn_implementation": KERNEL},
    "as a public key": {"attn_implementation": KERNEL},
    "a version of it": {"_attn_implementation": f"{KERNEL}@main:fn", "_attn_implementation_autoset": False},
    "for each part": {"_attn_implementation": {"": KERNEL, "text_config": KERNEL}},
    "inside": {"_attn_implementation_internal": KERNEL},
    "flash": {"_attn_implementation": "flash_attention_2"},
    "experts": {"_experts_implementation": KERNEL, "experts_implementation": KERNEL},
    "kernels": {"use_kernels": True, "kernel_config": {"kernel_mapping": {"Linear": KERNEL}}},
    "fused": {"fusion_config": {"patch_embeddings": True}},
    "code of transformers' own": {
        "auto_map": {"AutoConfig": "configuration_bert.BertConfig", "AutoModel": "evil--modeling.BertModel"},
        "trust_remote_code": True,
    },
    "a head of its own": {"auto_map": {"AutoModelForSequenceClassification": "evil/repo--modeling.Strange"}},
    "names": {"_name_or_path": "evil/repo", "_commit_hash": "0" * 40},
}


@pytest.mark.parametrize("settings", PINS.values(), ids=PINS)
def test_what_is_ours_to_choose_is_chosen_by_us(
    clean: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = changed(clean, tmp_path / "given", **settings)
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    (folder / "configuration_bert.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    check_teacher(
        TeacherSpec(model=str(folder)), LABELS, tmp_path, allow_code=False, task="text-classification"
    )
    expected = logits(compress.load_model(clean))
    config = read_config(folder)
    kind = type(tiny_bert())
    loaded = [
        compress.load_model(folder),
        load_for_labels(folder, LABELS, 0),
        load_pretrained(kind, folder, config)[0],
    ]
    for model in loaded:
        assert model.config._attn_implementation in ("sdpa", "eager")
        assert torch.allclose(logits(model), expected, atol=1e-6)
    assert not (tmp_path / "ran").exists()


REFUSED: dict[str, dict[str, Any]] = {
    "weights of another library": {"quantization_config": {"quant_method": "finegrained_fp8"}},
    "an older name of it": {"compression_config": {"quant_method": "compressed-tensors"}},
    "weights elsewhere": {"transformers_weights": "adapter_model.bin"},
    "a backbone": {"backbone": "evil/backbone"},
    "its weights": {"use_pretrained_backbone": True},
    "a hub model of timm": {"architecture": "hf-hub:evil/model"},
    "a pickle for timm": {"model_args": {"checkpoint_path": "weights.pth"}},
    "weights for timm": {"backbone_kwargs": {"pretrained": True}},
}


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("settings", REFUSED.values(), ids=REFUSED)
def test_what_would_be_fetched_is_refused_by_name(
    clean: Path, tmp_path: Path, settings: dict[str, Any], depth: int
) -> None:
    asked = settings
    for level in range(depth):
        settings = {"text_config": settings} if level % 2 else {"parts": [[settings]]}
    folder = changed(clean, tmp_path / "given", **settings)
    code = "quantized-checkpoint" if "_config" in json.dumps(asked) else "fetching-setting"
    for read in (lambda: read_config(folder), lambda: compress.load_model(folder)):
        with pytest.raises(ModelError) as caught:
            read()
        assert (caught.value.code, caught.value.where) == (code, str(folder / "config.json"))
    with pytest.raises(ModelError) as caught:
        check_teacher(
            TeacherSpec(model=str(folder)), LABELS, tmp_path, allow_code=True, task="text-classification"
        )
    assert (caught.value.code, caught.value.where) == (code, str(folder))


def test_a_detector_names_its_backbone(tmp_path: Path) -> None:
    """Even its config asks the hub whether there is such a backbone, once it is made."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "depth_anything", "backbone": "evil/backbone"})
    )
    with pytest.raises(ModelError) as caught:
        read_config(tmp_path)
    assert caught.value.code == "fetching-setting"


def test_validate_says_it(clean: Path, tmp_path: Path) -> None:
    profile = write_job(tmp_path / "job")
    shutil.rmtree(tmp_path / "job" / "teacher")
    changed(clean, tmp_path / "job" / "teacher", backbone="evil/backbone")
    with pytest.raises(ProfileError) as caught:
        load_profile(profile)
    assert [(fault.path, fault.code) for fault in caught.value.faults] == [
        ("teacher.model", "fetching-setting")
    ]


def test_a_tokenizer_names_no_file_outside(clean: Path, tmp_path: Path) -> None:
    folder = changed(clean, tmp_path / "given")
    named = {"fast_tokenizer_files": ["../../tokenizer.4.0.0.json"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    with pytest.raises(ModelError) as caught:
        check_teacher(
            TeacherSpec(model=str(folder)), LABELS, tmp_path, allow_code=False, task="text-classification"
        )
    assert caught.value.code == "outside-folder"


def test_code_of_a_tokenizer_is_not_run(clean: Path, tmp_path: Path) -> None:
    folder = changed(clean, tmp_path / "given")
    code = {"auto_map": {"AutoTokenizer": ["evil.Tokens", "evil.Tokens"]}, "tokenizer_class": "Tokens"}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with suppress(ModelError):
        read_tokenization(folder, sentences=False)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_its_own_code_is_refused(clean: Path, tmp_path: Path) -> None:
    mapped = {"AutoConfig": "evil/repo--configuration.StrangeConfig", "AutoModel": "modeling.StrangeModel"}
    folder = changed(clean, tmp_path / "given", auto_map=mapped)
    with pytest.raises(ModelError) as caught:
        compress.load_model(folder)
    assert (caught.value.code, caught.value.where) == ("own-code", str(folder / "config.json"))


def test_empty_settings_ask_for_nothing(clean: Path, tmp_path: Path) -> None:
    empty = {
        "quantization_config": None,
        "use_pretrained_backbone": False,
        "backbone": None,
        "auto_map": None,
    }
    compress.load_model(changed(clean, tmp_path / "given", **empty))


def test_labels_are_no_settings() -> None:
    named = {"label2id": {"auto_map": 0, "quantization_config": 1}, "id2label": {"0": "auto_map"}}
    assert without_pinned(named) == named
    assert list(fetching_settings(named)) == []


def test_settings_are_found_and_pinned_at_any_depth() -> None:
    deep: dict[str, Any] = {
        "hidden_size": 4,
        "parts": [{"auto_map": {"AutoModel": "x"}, "kept": [1, {"use_kernels": 1}]}],
    }
    assert without_pinned(deep) == {"hidden_size": 4, "parts": [{"kept": [1, {}]}]}
    assert "auto_map" in PINNED
    bottomless: dict[str, Any] = {}
    for _ in range(60):
        bottomless = {"inner": bottomless}
    assert [problem.code for problem in fetching_settings(bottomless)] == ["fetching-setting"]
    assert custom_classes({"auto_map": ["tokenizer.Strange", None]}) == ()


def test_nothing_of_the_hub_answers_while_a_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with offline(), pytest.raises(OfflineModeIsEnabled):
        get_session().get("https://huggingface.co/api/models/evil/backbone")
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.slow
def test_no_family_asks_for_anything_while_its_config_is_read(tmp_path: Path) -> None:
    kinds = sorted(CONFIG_MAPPING.keys())
    assert len(kinds) > 500
    for kind in kinds:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with suppress(ModelError):
            read_config(tmp_path)
