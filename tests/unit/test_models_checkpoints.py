"""Models on disk: what is saved comes back, and what is damaged is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from compress.core.errors import ModelError
from compress.models.anatomy.structure import apply_structure, describe_structure
from compress.models.io.checkpoints import count_parameters, load_for_labels, load_model, save_model
from compress.models.teacher.heads import label_rows, plan_head
from tests.tiny import LABELS, tiny_bert, tiny_classifier

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS = {
    "bert": lambda: BertConfig(vocab_size=40, **SIZES),
    "roberta": lambda: RobertaConfig(vocab_size=40, **SIZES),
    "electra": lambda: ElectraConfig(vocab_size=40, embedding_size=16, **SIZES),
    "distilbert": lambda: DistilBertConfig(vocab_size=40, dim=32, hidden_dim=64, n_heads=4, n_layers=2),
}
IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_bert(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", CONFIGS)
def test_a_saved_model_comes_back_with_equal_outputs(family: str, tmp_path: Path):
    model = tiny_classifier(CONFIGS[family]())
    save_model(model, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert count_parameters(loaded) == count_parameters(model)
    with torch.inference_mode():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
        eager = load_model(tmp_path, attention="eager")
        assert torch.allclose(eager(IDS).logits, model(IDS).logits, atol=1e-5)


def test_saving_is_deterministic_and_keeps_no_path(tmp_path: Path):
    for name in ("a", "b"):
        save_model(tiny_bert(), tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        first = (tmp_path / "a" / file).read_bytes()
        assert first == (tmp_path / "b" / file).read_bytes()
        assert str(tmp_path).encode() not in first


def test_loading_leaves_the_random_state(folder: Path):
    before = torch.random.get_rng_state()
    load_model(folder)
    load_for_labels(folder, ["x", "y"], seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_tied_weights_are_written_and_counted_once(tmp_path: Path):
    config = BertConfig(vocab_size=40, **SIZES)
    model = BertForMaskedLM(config).eval()
    save_model(model, tmp_path)
    tables = [
        name for name, tensor in load_file(tmp_path / "model.safetensors").items() if tensor.shape == (40, 32)
    ]
    assert len(tables) == 1
    loaded = load_model(tmp_path)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    with torch.inference_mode():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert count_parameters(loaded) == count_parameters(model)


# Damaged folders.


def damage_missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def damage_config_syntax(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def damage_config_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def damage_unknown_type(folder: Path) -> None:
    edit(folder, model_type="no-such-model")


def damage_unknown_class(folder: Path) -> None:
    edit(folder, architectures=["NoSuchModel"])


def damage_class_that_is_no_model(folder: Path) -> None:
    edit(folder, architectures=["AutoTokenizer"])


def damage_sizes(folder: Path) -> None:
    edit(folder, num_attention_heads=5)


def damage_type_of_size(folder: Path) -> None:
    edit(folder, hidden_size="wide")


def damage_other_sizes(folder: Path) -> None:
    edit(folder, intermediate_size=48)


def damage_more_layers(folder: Path) -> None:
    edit(folder, num_hidden_layers=3)


def damage_fewer_layers(folder: Path) -> None:
    edit(folder, num_hidden_layers=1)


def damage_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damage_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def damage_truncated_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def damage_empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def damage_structure_syntax(folder: Path) -> None:
    (folder / "structure.json").write_text("{")


def damage_structure_name(folder: Path) -> None:
    (folder / "structure.json").write_text('{"shapes": {"no.such.weight": [3, 4]}, "attributes": {}}')


def damage_structure_shape(folder: Path) -> None:
    (folder / "structure.json").write_text('{"shapes": {"classifier.weight": [3, "x"]}, "attributes": {}}')


def damage_structure_attribute(folder: Path) -> None:
    (folder / "structure.json").write_text(
        '{"shapes": {}, "attributes": {"bert.encoder.layer.0.attention.self": {"forward": 3}}}'
    )


def damage_structure_against_weights(folder: Path) -> None:
    (folder / "structure.json").write_text('{"shapes": {"classifier.weight": [5, 32]}, "attributes": {}}')


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_is_a_model_error_that_names_it(damage, folder: Path):
    damage(folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert caught.value.exit_code == 4
    assert caught.value.where is not None
    assert str(folder) in caught.value.where


class Mine:
    """Unpickling this writes a file: the test sees whether anybody did."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.write_text, (self.trace, "the pickle was loaded"))


@pytest.mark.parametrize(
    ("name", "words"),
    [("pytorch_model.bin", "pickle"), ("model.safetensors", "damaged"), ("weights.pt", "pickle")],
)
def test_no_pickle_is_ever_loaded(name: str, words: str, folder: Path, tmp_path: Path):
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    (folder / name).write_bytes(pickle.dumps(Mine(trace)))
    for load in (load_model, lambda path: load_for_labels(path, ["a", "b"], 0)):
        with pytest.raises(ModelError) as caught:
            load(folder)
        assert words in caught.value.message
    assert not trace.exists()


# A head for the labels of the data.


def test_an_encoder_alone_gets_a_fresh_head_from_the_seed(tmp_path: Path):
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(vocab_size=40, **SIZES)).eval()
    save_model(encoder, tmp_path)
    model = load_for_labels(tmp_path, ["x", "y"], seed=3)
    assert model.config.id2label == {0: "x", 1: "y"}
    assert not model.training
    assert plan_head(tmp_path, model.config, ["x", "y"]).fresh == ("classifier.bias", "classifier.weight")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], tensor)
    again, other = (load_for_labels(tmp_path, ["x", "y"], seed=seed) for seed in (3, 4))
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("family", CONFIGS)
def test_other_labels_get_a_fresh_head_and_the_encoder_is_kept(family: str, tmp_path: Path):
    source = tiny_classifier(CONFIGS[family]())
    save_model(source, tmp_path)
    model = load_for_labels(tmp_path, ["x", "y", "z", "w"], seed=0)
    assert model(IDS).logits.shape == (2, 4)
    base = source.base_model.state_dict()
    assert all(torch.equal(model.base_model.state_dict()[name], tensor) for name, tensor in base.items())
    head = {name for name in source.state_dict() if not name.startswith(source.base_model_prefix)}
    assert set(plan_head(tmp_path, source.config, ["x", "y", "z", "w"]).fresh) == head


@pytest.mark.parametrize("family", CONFIGS)
def test_the_same_labels_in_another_order_keep_the_head(family: str, tmp_path: Path):
    source = tiny_classifier(CONFIGS[family](), labels=("colour", "animal", "verb"))
    save_model(source, tmp_path)
    model = load_for_labels(tmp_path, ["Verb", "colour", "ANIMAL"], seed=0)
    assert model.config.id2label == {0: "Verb", 1: "colour", 2: "ANIMAL"}
    with torch.inference_mode():
        assert torch.allclose(model(IDS).logits, source(IDS).logits[:, [2, 0, 1]], atol=1e-6)


def test_a_missing_encoder_weight_is_refused(folder: Path):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, file)
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        load_for_labels(folder, ["x", "y"], seed=0)


def test_an_encoder_weight_of_another_shape_is_refused(folder: Path):
    edit(folder, vocab_size=23)
    with pytest.raises(ModelError, match="expected"):
        load_for_labels(folder, ["x", "y"], seed=0)


def test_an_architecture_without_a_classifier_is_refused(folder: Path):
    edit(folder, model_type="wav2vec2", architectures=["Wav2Vec2Model"])
    with pytest.raises(ModelError, match="no classifier of texts or images"):
        load_for_labels(folder, ["x", "y"], seed=0)


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        ("bert", {"classifier.weight", "classifier.bias"}),
        ("roberta", {"classifier.out_proj.weight", "classifier.out_proj.bias"}),
        ("electra", {"classifier.out_proj.weight", "classifier.out_proj.bias"}),
        ("distilbert", {"classifier.weight", "classifier.bias"}),
    ],
)
def test_the_weights_with_a_row_a_label_are_found(family: str, rows: set[str]):
    model = tiny_classifier(CONFIGS[family](), labels=LABELS)
    assert set(label_rows(type(model), model.config)) == rows


# Structures.


def test_a_regular_model_has_no_structure():
    assert describe_structure(tiny_bert(), tiny_bert(seed=1)) is None


def test_a_structure_rebuilds_shapes_and_head_counts():
    pruned, regular = tiny_bert(), tiny_bert()
    part = pruned.bert.encoder.layer[1].attention.self
    for linear in (part.query, part.key, part.value):
        linear.weight = torch.nn.Parameter(linear.weight[:16].clone())
        linear.bias = torch.nn.Parameter(linear.bias[:16].clone())
    part.num_attention_heads, part.all_head_size = 2, 16
    structure = describe_structure(pruned, regular)
    assert structure is not None
    name = "bert.encoder.layer.1.attention.self"
    assert structure["attributes"] == {
        name: {"num_attention_heads": 2, "attention_head_size": 8, "all_head_size": 16}
    }
    assert structure["shapes"][f"{name}.query.weight"] == [16, 32]
    assert len(structure["shapes"]) == 6
    apply_structure(regular, json.loads(json.dumps(structure)), "here")
    rebuilt = regular.bert.encoder.layer[1].attention.self
    assert rebuilt.query.weight.shape == (16, 32)
    assert (rebuilt.query.out_features, rebuilt.num_attention_heads) == (16, 2)
