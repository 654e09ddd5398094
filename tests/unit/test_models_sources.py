"""Where teachers come from: fingerprints, checks before any work, and the torch form that is written."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertForMaskedLM, BertModel, RobertaConfig

from compress.core.errors import ModelError, UsageError
from compress.core.forms import TORCH_FLOAT
from compress.data.splits import Examples
from compress.models.io.checkpoints import count_parameters, load_for_labels, load_model, save_model
from compress.models.teacher.code import call_function
from compress.models.teacher.code_files import code_files
from compress.models.teacher.location import check_teacher, fingerprint, model_folder, tokenizer_path
from compress.models.teacher.materialise import materialise
from compress.passes.source.step import run
from compress.profile.schema import TeacherSpec
from compress.profile.specs.training import FinetuneSpec
from compress.tasks.base import TrainingData
from tests.steps import context
from tests.tiny import LABELS, text_task, tiny_bert, tiny_classifier, tiny_tokenizer

COMMIT = "a" * 40
IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])
CODE = """
from tests.tiny import text_task, tiny_bert, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

def make():
    return tiny_bert(), PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer())

def no_pair():
    return 3

def fails():
    raise RuntimeError("out of order")
"""


def spec(model: str | Path, finetune: bool = False, **changes: Any) -> TeacherSpec:
    return TeacherSpec(model=str(model), finetune=FinetuneSpec() if finetune else None, **changes)


def write_model(folder: Path, model: Any = None, tokenizer: Tokenizer | None = None) -> Path:
    """A folder as transformers writes it, with truncation and padding in the tokenizer."""
    model = tiny_bert() if model is None else model
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make(
    teacher: TeacherSpec, out: Path, labels: Any = LABELS, base: Path = Path(), **changes: Any
) -> dict[str, Any]:
    arguments = {"max_length": 32, "allow_code": False, "task": "text-classification", **changes}
    return materialise(teacher, labels, base, out, **arguments)


# Fingerprints.


def test_a_fingerprint_follows_the_model_files_alone(tmp_path: Path):
    folder = write_model(tmp_path / "model")
    first = fingerprint("./model", None, tmp_path)
    (folder / "README.md").write_text("words")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert fingerprint("./model", None, tmp_path) == first == fingerprint(str(folder), None, Path("/"))
    edit(folder, pad_token_id=1)
    assert fingerprint("./model", None, tmp_path) != first


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the snapshot of `owner/name`, and no network."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    write_model(snapshot)
    (cache / "models--owner--name" / "refs").mkdir()
    (cache / "models--owner--name" / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.fixture
def no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses every fetch."""

    def refuse(*args: Any, **names: Any) -> str:
        raise HTTPError("the proxy answered 407")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_a_hub_model_is_known_by_its_commit(hub: Path, tmp_path: Path):
    other = "b" * 40
    assert fingerprint("owner/name", other, tmp_path) == f"hub:owner/name@{other}"
    assert fingerprint("owner/name", None, tmp_path) == f"hub:owner/name@{COMMIT}"
    assert fingerprint("owner/other", None, tmp_path) is None


def test_a_hub_model_in_the_cache_needs_no_network(hub: Path, tmp_path: Path):
    check_teacher(spec("owner/name"), LABELS, tmp_path, allow_code=False, task="text-classification")
    facts = make(spec("owner/name"), tmp_path / "out", base=tmp_path)
    assert (facts["source"], facts["commit"]) == ("owner/name", COMMIT)
    with pytest.raises(ModelError, match="labels are not those"):
        check_teacher(spec("owner/name"), ("x", "y"), tmp_path, allow_code=False, task="text-classification")


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.usefixtures("no_answer")
def test_an_incomplete_snapshot_is_fetched_again(missing: str, hub: Path, tmp_path: Path):
    (hub / missing).unlink()
    with pytest.raises(ModelError, match="cannot fetch this model") as caught:
        check_teacher(spec("owner/name"), LABELS, tmp_path, allow_code=False, task="text-classification")
    assert (caught.value.exit_code, caught.value.where) == (4, "owner/name")


def test_a_snapshot_of_which_optional_files_were_never_fetched_is_completed(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of its own commit, also where the branch has moved on."""
    asked: list[tuple[str, str, bool]] = []

    def fetch(model: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((model, revision, "modules.json" in allow_patterns))
        (hub / "modules.json").write_text("[]")
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert model_folder("owner/name", None, tmp_path, "text-classification") == hub
    assert asked == [("owner/name", COMMIT, True)]
    assert (hub / "modules.json").is_file()


def test_a_file_that_the_list_of_a_commit_names_is_not_done_without(hub: Path, tmp_path: Path):
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    write_tree_cache(str(hub.parents[1]), COMMIT, {"modules.json": TreeCacheEntry(size=2, blob_id="0" * 40)})
    with pytest.raises(ModelError, match="cannot fetch this model"):
        model_folder("owner/name", None, tmp_path, "sentence-embedding")


@pytest.mark.usefixtures("no_answer")
def test_a_hub_behind_a_broken_proxy_does_not_hide_the_cache(hub: Path, tmp_path: Path):
    assert model_folder("owner/name", None, tmp_path, "text-classification") == hub
    (hub / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="cannot fetch this model from the hub: the proxy"):
        model_folder("owner/name", None, tmp_path, "text-classification")


def test_a_hub_tokenizer_is_known_by_its_commit_and_fetched_where_only_the_config_is_cached(
    hub: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    (hub / "model.safetensors").unlink()
    (hub / "config.json").unlink()
    assert tokenizer_path("owner/name", tmp_path) == hub
    assert fingerprint("owner/name", None, tmp_path) == f"hub:owner/name@{COMMIT}"
    (hub / "tokenizer.json").rename(hub / "config.json")
    request.getfixturevalue("no_answer")
    with pytest.raises(ModelError, match="cannot fetch this model"):
        tokenizer_path("owner/name", tmp_path)


def test_code_is_known_by_its_file(tmp_path: Path):
    (tmp_path / "shop_code.py").write_text(CODE)
    first = fingerprint("python:shop_code:make", None, tmp_path)
    assert first != fingerprint("python:shop_code:no_pair", None, tmp_path)
    (tmp_path / "shop_code.py").write_text(CODE + "\n")
    assert fingerprint("python:shop_code:make", None, tmp_path) != first
    with pytest.raises(ModelError, match="no module 'shop_nothing'"):
        fingerprint("python:shop_nothing:make", None, tmp_path)


# Checks before any work.


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_head_of_code_that_gives_a_number_is_refused(tmp_path: Path):
    code = CODE.replace(
        "return tiny_bert(),", "model = tiny_bert(); model.config.problem_type = 'regression'; return model,"
    )
    (tmp_path / "shop_regression.py").write_text(code)
    with pytest.raises(ModelError) as caught:
        make(spec("python:shop_regression:make"), tmp_path / "out", base=tmp_path, allow_code=True)
    assert caught.value.code == "head-unsupported"


def test_a_fitting_head_needs_no_finetune(tmp_path: Path):
    write_model(tmp_path)
    check_teacher(
        spec(tmp_path), ["Verb", "animal", "colour"], Path(), allow_code=False, task="text-classification"
    )
    check_teacher(
        spec(tmp_path, finetune=True),
        ["other", "labels"],
        Path(),
        allow_code=False,
        task="text-classification",
    )


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({}, ("colour", "animal"), "the data lacks its 'verb'"),
        ({}, ("colour", "animal", "verb", "noun"), "it lacks 'noun'"),
        ({"id2label": {str(n): f"LABEL_{n}" for n in range(3)}}, LABELS, "does not tell what they mean"),
        ({"architectures": ["BertModel"]}, LABELS, "no classification head"),
        ({"architectures": ["BertForMaskedLM"]}, LABELS, "no classification head"),
        ({"id2label": {"5": "a"}}, LABELS, "id2label"),
    ],
)
def test_heads_that_do_not_fit_are_refused_early_and_late(
    changes: dict[str, Any], labels: tuple[str, ...], message: str, tmp_path: Path
):
    folder = write_model(tmp_path / "model")
    edit(folder, **changes)
    with pytest.raises(ModelError, match=message):
        check_teacher(spec(folder), labels, Path(), allow_code=False, task="text-classification")
    out = tmp_path / "out"
    with pytest.raises(ModelError):
        make(spec(folder), out, labels)
    assert not out.exists()


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "folder_with_gguf", "empty"])
def test_what_is_no_model_folder_is_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    if "." in name:
        path.write_bytes(b"GGUF")
    else:
        path.mkdir()
        if name != "empty":
            (path / "weights.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        check_teacher(spec(path), LABELS, Path(), allow_code=False, task="text-classification")
    assert caught.value.exit_code == 4
    with pytest.raises(ModelError):
        make(spec(path), tmp_path / "out")


def test_code_needs_to_be_allowed(tmp_path: Path):
    (tmp_path / "shop_code.py").write_text("raise SystemExit('ran')")
    teacher = spec("python:shop_code:make")
    with pytest.raises(UsageError, match="code-not-allowed") as caught:
        check_teacher(teacher, LABELS, tmp_path, allow_code=False, task="text-classification")
    assert "--allow-code" in str(caught.value.hint)
    with pytest.raises(UsageError):
        make(teacher, tmp_path / "out", base=tmp_path)
    check_teacher(teacher, LABELS, tmp_path, allow_code=True, task="text-classification")


# Writing the torch form.


def test_a_classifier_is_written_in_the_order_of_the_data(tmp_path: Path):
    model = tiny_bert()
    folder = write_model(tmp_path / "model", model)
    facts = make(spec(folder), tmp_path / "out", ["verb", "colour", "ANIMAL"])
    assert facts["head"] == "matched"
    written = load_model(tmp_path / "out")
    assert written.config.id2label == {0: "verb", 1: "colour", 2: "ANIMAL"}
    with torch.inference_mode():
        assert torch.allclose(written(IDS).logits, model(IDS).logits[:, [2, 0, 1]], atol=1e-6)
    task = json.loads((tmp_path / "out" / "task.json").read_text())
    assert task == {
        "task": "text-classification",
        "max_length": 32,
        "labels": ["verb", "colour", "ANIMAL"],
        "input_names": ["input_ids", "attention_mask", "token_type_ids"],
        "output_names": ["logits"],
        "pad_id": 0,
        "unk_id": 1,
        "mask_id": 4,
    }
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert (tokenizer.truncation, tokenizer.padding) == (None, None)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "task.json",
        "tokenizer.json",
    ]


def test_declared_labels_name_the_outputs(tmp_path: Path):
    folder = write_model(tmp_path / "model", tiny_bert(labels=["LABEL_0", "LABEL_1"]))
    teacher = spec(folder, labels=("neg", "pos"))
    check_teacher(teacher, ("pos", "neg"), Path(), allow_code=False, task="text-classification")
    make(teacher, tmp_path / "out", ("pos", "neg"))
    with torch.inference_mode():
        expected = tiny_bert(labels=["LABEL_0", "LABEL_1"])(IDS).logits[:, [1, 0]]
        assert torch.allclose(load_model(tmp_path / "out")(IDS).logits, expected, atol=1e-6)


def test_an_encoder_stays_an_encoder(tmp_path: Path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=19, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    encoder = BertModel(config).eval()
    facts = make(spec(write_model(tmp_path / "model", encoder), finetune=True), tmp_path / "out")
    assert (facts["head"], facts["architecture"]) == ("none", "BertModel")
    model = load_for_labels(tmp_path / "out", LABELS, seed=0)
    with torch.inference_mode():
        assert torch.equal(model.bert(IDS).last_hidden_state, encoder(IDS).last_hidden_state)


def test_a_pooler_that_nobody_trained_is_not_written(tmp_path: Path):
    config = BertConfig(
        vocab_size=19, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    make(spec(write_model(tmp_path / "model", BertForMaskedLM(config)), finetune=True), tmp_path / "out")
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "pooler" in name]
    first, second = (load_for_labels(tmp_path / "out", LABELS, seed=0) for _ in range(2))
    assert torch.equal(first.bert.pooler.dense.weight, second.bert.pooler.dense.weight)


def test_a_head_of_other_labels_is_kept_for_finetune(tmp_path: Path):
    folder = write_model(tmp_path / "model", tiny_bert(labels=["x", "y"]))
    facts = make(spec(folder, finetune=True), tmp_path / "out")
    assert facts["head"] == "as it was"
    assert load_for_labels(tmp_path / "out", LABELS, seed=0)(IDS).logits.shape == (2, 3)


def test_half_precision_weights_become_float32(tmp_path: Path):
    folder = write_model(tmp_path / "model", tiny_bert().to(torch.bfloat16))
    make(spec(folder), tmp_path / "out")
    written = load_model(tmp_path / "out")
    assert {parameter.dtype for parameter in written.parameters()} == {torch.float32}


def test_sharded_weights_are_read(tmp_path: Path):
    model = tiny_bert()
    folder = write_model(tmp_path / "model", model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    make(spec(folder), tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "out")(IDS).logits, model(IDS).logits)


def test_a_vocabulary_file_alone_makes_a_tokenizer(tmp_path: Path):
    folder = write_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    tokens = sorted(tiny_tokenizer().get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(token for token, _ in tokens) + "\n")
    make(spec(folder), tmp_path / "out")
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert made.encode("The cat runs").ids == tiny_tokenizer().encode("The cat runs").ids


def test_an_artifact_of_this_package_can_be_a_source(tmp_path: Path):
    save_model(tiny_bert(), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    make(spec(tmp_path / "model"), tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "out")(IDS).logits, tiny_bert()(IDS).logits)


def test_a_roberta_takes_no_token_types_and_fewer_positions(tmp_path: Path):
    config = RobertaConfig(
        vocab_size=19,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=34,
        type_vocab_size=1,
    )
    folder = write_model(tmp_path / "model", tiny_classifier(config))
    make(spec(folder), tmp_path / "out")
    task = json.loads((tmp_path / "out" / "task.json").read_text())
    assert task["input_names"] == ["input_ids", "attention_mask"]
    assert task["pad_id"] == 1
    with pytest.raises(ModelError, match="takes at most 32 tokens"):
        make(spec(folder), tmp_path / "longer", max_length=33)


def test_code_gives_a_model_when_allowed(tmp_path: Path):
    (tmp_path / "shop_code.py").write_text(CODE)
    facts = make(spec("python:shop_code:make"), tmp_path / "out", base=tmp_path, allow_code=True)
    assert facts["parameters"] == sum(parameter.numel() for parameter in tiny_bert().parameters())
    assert str(tmp_path) not in sys.path
    for name, message in (("no_pair", "to return"), ("fails", "out of order"), ("nothing", "nothing")):
        with pytest.raises(ModelError, match=message):
            make(spec(f"python:shop_code:{name}"), tmp_path / "bad", base=tmp_path, allow_code=True)


def test_the_source_step_writes_an_artifact(tmp_path: Path):
    write_model(tmp_path / "model")
    none = Examples((), np.zeros(0, np.int64))
    data = TrainingData(none, none, LABELS)
    ctx = context(tmp_path, spec("./model"), {}, text_task(32), data, base=tmp_path)
    result = run(ctx)
    assert result.form == TORCH_FLOAT
    assert result.facts["parameters"] == count_parameters(load_model(ctx.out))


# Damaged sources.


def damage_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def damage_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damage_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def damage_truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def damage_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def damage_tokenizer_too_large(folder: Path) -> None:
    words = [f"word{n}" for n in range(50)]
    tiny_tokenizer(words).save(str(folder / "tokenizer.json"))


def damage_unknown_type(folder: Path) -> None:
    edit(folder, model_type="no-such-model")


def damage_remote_code(folder: Path) -> None:
    edit(folder, model_type="mine", auto_map={"AutoModel": "modeling.Mine"})
    (folder / "modeling.py").write_text("raise SystemExit('ran')")


def damage_shapes(folder: Path) -> None:
    edit(folder, intermediate_size=48)


def damage_layers(folder: Path) -> None:
    edit(folder, num_hidden_layers=4)


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_source_is_refused_and_nothing_is_left(damage: Any, tmp_path: Path):
    folder = write_model(tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        make(spec(folder, finetune=True), tmp_path / "out")
    assert caught.value.exit_code == 4
    assert caught.value.where is not None
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_is_no_teacher(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"cut o")
    for model, said in (("./model.onnx", "this is a file"), (".", "no config.json here")):
        with pytest.raises(ModelError, match=said) as caught:
            check_teacher(
                TeacherSpec(model=model), ["a", "b"], tmp_path, allow_code=False, task="text-classification"
            )
        assert "`compress measure` can measure the file as it is" in (caught.value.hint or "")


def test_code_is_known_by_what_it_imports_from_its_folder_too(tmp_path: Path):
    def known(source: str = "python:shop.code:make") -> str | None:
        return fingerprint(source, None, tmp_path)

    (tmp_path / "shop" / "parts").mkdir(parents=True)
    (tmp_path / "shop" / "code.py").write_text("import torch\nfrom . import parts\nfrom .parts.a import x\n")
    texts = {
        "shop/__init__.py": "",
        "shop/parts/__init__.py": "import shop_top",
        "shop/parts/a.py": "def f():\n    from ..b import y\n",
        "shop/b.py": "import shop.code",
        "shop_top.py": "no python(",
        "shop/other.py": "",
        "other.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert next(iter(code_files("python:shop.code:make", tmp_path))) == "shop.code"
    assert set(code_files("python:shop.code:make", tmp_path)) == {
        "shop.code", "shop", "shop.parts", "shop.parts.a", "shop.b", "shop_top",
    }  # fmt: skip
    before = known()
    for name in texts:
        (tmp_path / name).write_text(f"{texts[name]}\n# changed")
        after = known()
        assert (after != before) == (not name.endswith("other.py")), name
        before = after


def test_code_of_a_package_is_known_by_that_package_alone():
    assert set(code_files("python:json.decoder:JSONDecoder", Path("/nowhere"))) == {
        "json.decoder", "json", "json.scanner", "json.encoder",
    }  # fmt: skip
    assert set(code_files("python:string:capwords", Path("/nowhere"))) == {"string"}
    # An installed library is thousands of files, which take 20 s to follow.
    assert set(code_files("python:torch.nn:Linear", Path("/nowhere"))) == {"torch.nn"}


def test_what_code_imports_is_read_anew(tmp_path: Path):
    (tmp_path / "shop_two.py").write_text("from shop_one import NUMBER\ndef give():\n    return NUMBER\n")
    for number in (1, 2):
        (tmp_path / "shop_one.py").write_text(f"NUMBER = {number}\n")
        assert call_function("python:shop_two:give", tmp_path, 0, allow_code=True) == number
