"""prune as a step: promised sizes, equal outputs, recovery, saving."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DistilBertConfig, ElectraConfig, RobertaConfig

from compress.core.artifacts import STRUCTURE
from compress.core.errors import PassError
from compress.core.forms import Structure
from compress.data.splits import Examples
from compress.encoding.tokens import TokenInputs
from compress.models.anatomy.encoder import encoder_of
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.passes.prune.choosing.importance import channels_of_heads
from compress.passes.prune.choosing.prediction import predicted
from compress.passes.prune.spec import PruneSpec, RemoveSpec
from compress.passes.prune.step import run
from compress.profile.specs.recovery import RecoverySpec
from compress.step import StepContext
from compress.tasks.base import TrainingData
from tests import steps
from tests.processes import outputs_in_a_fresh_process
from tests.pruning import prune
from tests.tiny import (
    LABELS,
    WORDS,
    text_task,
    tiny_bert,
    tiny_classifier,
    tiny_tokenizer,
    write_torch_artifact,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "bert": lambda: tiny_bert(vocab=40),
    "roberta": lambda: tiny_classifier(RobertaConfig(**SIZES)),
    "electra": lambda: tiny_classifier(ElectraConfig(embedding_size=16, **SIZES)),
    "distilbert": lambda: tiny_classifier(
        DistilBertConfig(
            vocab_size=40, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64
        )
    ),
}


def token_inputs(n: int = 40, seed: int = 0) -> tuple[TokenInputs, torch.Tensor]:
    random = np.random.default_rng(seed)
    ids = [random.integers(5, 40, size=random.integers(3, 12)).astype(np.int64) for _ in range(n)]
    return TokenInputs(ids, ("input_ids", "attention_mask"), 0), torch.from_numpy(random.integers(0, 3, n))


def spec(**changes: Any) -> PruneSpec:
    values = {"remove": {"feed_forward": 0.25, "heads": 0.5}, "importance_batches": 2, "recover": None}
    return PruneSpec.model_validate({**values, **changes})


def batch(inputs: TokenInputs, size: int = 6) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.batch(range(size)).items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("importance", ["magnitude", "taylor", "random"])
def test_a_pruned_model_is_the_original_with_the_removed_parts_zeroed(family: str, importance: str):
    model, zeroed = FAMILIES[family](), FAMILIES[family]()
    inputs, labels = token_inputs()
    widths: list[list[int]] = []

    # Which units were removed is read from the weights: rows of the original that are left.
    original = [layer.feed_in.weight.detach().clone() for layer in encoder_of(model).layers]
    removed, _ = prune(model, inputs, labels, spec(importance=importance), 0, "cpu")
    for layer, before in zip(encoder_of(model).layers, original, strict=True):
        rows = {tuple(row.tolist()) for row in layer.feed_in.weight}
        widths.append([index for index, row in enumerate(before) if tuple(row.tolist()) not in rows])
    with torch.no_grad():
        for layer, facts, units in zip(encoder_of(zeroed).layers, removed, widths, strict=True):
            assert len(units) == facts["feed_forward_removed"] == 16
            layer.feed_out.weight[:, units] = 0
            channels = channels_of_heads(facts["heads_removed"], layer.head_size)
            layer.attention_output.weight[:, channels] = 0
    x = batch(inputs)
    with torch.inference_mode():
        assert torch.allclose(model.eval()(**x).logits, zeroed(**x).logits, atol=2e-6)
        assert not torch.allclose(model(**x).logits, FAMILIES[family]()(**x).logits, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_saves_and_loads_with_equal_outputs(family: str, tmp_path: Path):
    model = FAMILIES[family]()
    inputs, labels = token_inputs()
    prune(model, inputs, labels, spec(), 0, "cpu")
    save_model(model, tmp_path)
    assert (tmp_path / STRUCTURE).exists()
    loaded = load_model(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(**batch(inputs)).logits, model.eval()(**batch(inputs)).logits)
    for name, module in model.named_modules():
        own = loaded.get_submodule(name)
        for attribute in ("num_attention_heads", "n_heads", "all_head_size", "out_features", "in_features"):
            assert getattr(own, attribute, None) == getattr(module, attribute, None), (name, attribute)


def test_feed_forward_pruning_alone_leaves_a_model_that_its_config_describes(tmp_path: Path):
    model = tiny_bert(vocab=40)
    inputs, labels = token_inputs()
    prune(model, inputs, labels, spec(remove={"feed_forward": 0.5}), 0, "cpu")
    save_model(model, tmp_path)
    assert not (tmp_path / STRUCTURE).exists()
    assert load_model(tmp_path).config.intermediate_size == 32


@settings(max_examples=12, deadline=None)
@given(
    heads=st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]),
    width=st.sampled_from([0.25, 0.5, 0.7]),
    round_to=st.sampled_from([1, 4, 8]),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_the_parameter_count_is_what_was_predicted(heads: float, width: float, round_to: int, family: str):
    remove = RemoveSpec(heads=heads, feed_forward=width)
    model = FAMILIES[family]()
    inputs, labels = token_inputs()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        asked = spec(remove=remove, round_to=round_to, importance="magnitude")
        expected = predicted(asked, Path(folder))
        prune(model, inputs, labels, asked, 0, "cpu")
        assert count_parameters(model) == expected
        # A pruned model can be pruned again.
        save_model(model, Path(folder))
        again = spec(remove=RemoveSpec(feed_forward=0.5), round_to=1, importance="magnitude")
        expected = predicted(again, Path(folder))
        prune(model, inputs, labels, again, 0, "cpu")
        assert count_parameters(model) == expected


def test_pruning_is_the_same_for_the_same_seed():
    inputs, labels = token_inputs()
    for importance in ("taylor", "random"):
        first, second, other = (tiny_bert(vocab=40) for _ in range(3))
        removed, _ = prune(first, inputs, labels, spec(importance=importance), 3, "cpu")
        assert removed == prune(second, inputs, labels, spec(importance=importance), 3, "cpu")[0]
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        if importance == "random":
            prune(other, inputs, labels, spec(importance=importance), 4, "cpu")
            same = [torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
            assert not all(same)


def trained_tiny(labels: tuple[str, ...] = LABELS) -> tuple[Any, TrainingData]:
    """A model that has learned which kind of word a text holds most of."""
    colours, animals, verbs = WORDS[:3], WORDS[3:6], WORDS[6:9]
    random = np.random.default_rng(0)
    texts, truth = [], []
    for _ in range(400):
        kind = int(random.integers(3))
        words = [str(random.choice((colours, animals, verbs)[kind])) for _ in range(3)]
        words += [str(random.choice((colours, animals, verbs)[int(random.integers(3))])), "the"]
        random.shuffle(words)
        texts.append(" ".join(words))
        truth.append(kind)
    train = Examples(tuple(texts[:300]), np.array(truth[:300]))
    validation = Examples(tuple(texts[300:]), np.array(truth[300:]))
    model = tiny_bert(labels=labels, hidden=32, layers=2, heads=4, ffn=64)
    tokenizer = tiny_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(60):
            part = [(step * 32 + k) % 300 for k in range(32)]
            ids = torch.tensor([tokenizer.encode(train.texts[k]).ids for k in part])
            loss = torch.nn.functional.cross_entropy(
                model(input_ids=ids).logits, torch.from_numpy(train.labels[part])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), TrainingData(train, validation, labels)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, TrainingData]:
    return trained_tiny()


def context(
    tmp_path: Path, trained: tuple[Any, TrainingData], prune_spec: PruneSpec, teacher: Any = None
) -> StepContext:
    model, data = trained
    artifact = write_torch_artifact(tmp_path / "model", model)
    inputs = {"model": artifact, "teacher": artifact if teacher is None else teacher}
    return steps.context(tmp_path, prune_spec, inputs, text_task(32), data)


def loss_after(trained: tuple[Any, TrainingData], inputs: TokenInputs, importance: str, seed: int) -> float:
    model, data = copy.deepcopy(trained[0]), trained[1]
    labels = torch.from_numpy(data.train.labels)
    chosen = spec(remove={"feed_forward": 0.5, "heads": 0.5}, importance=importance, importance_batches=16)
    prune(model, inputs, labels, chosen, seed, "cpu")
    x = {name: torch.from_numpy(array) for name, array in inputs.batch(range(len(inputs))).items()}
    with torch.inference_mode():
        return float(torch.nn.functional.cross_entropy(model.eval()(**x).logits, labels))


def test_taylor_damages_a_trained_model_less_than_random(trained: tuple[Any, TrainingData], tmp_path: Path):
    folder = write_torch_artifact(tmp_path / "model", trained[0]).path
    inputs = text_task(32).encode(trained[1].train, folder)
    taylor = [loss_after(trained, inputs, "taylor", seed) for seed in range(4)]
    random = [loss_after(trained, inputs, "random", seed) for seed in range(4)]
    assert max(taylor) < np.mean(random)


def test_taylor_finds_the_parts_that_do_nothing(trained: tuple[Any, TrainingData], tmp_path: Path):
    model, data = copy.deepcopy(trained[0]), trained[1]
    dead_units, dead_head = list(range(3, 64, 4)), 2
    with torch.no_grad():
        for layer in encoder_of(model).layers:
            layer.feed_in.weight[dead_units] *= 5  # large weights that lead nowhere
            layer.feed_out.weight[:, dead_units] = 0
            layer.attention_output.weight[:, channels_of_heads([dead_head], layer.head_size)] = 0
    folder = write_torch_artifact(tmp_path / "model", model).path
    inputs = text_task(32).encode(data.train, folder)
    x = batch(inputs)
    expected = model(**x).logits
    chosen = spec(remove={"feed_forward": 0.25, "heads": 0.25})
    removed, _ = prune(model, inputs, torch.from_numpy(data.train.labels), chosen, 0, "cpu")
    assert [layer["heads_removed"] for layer in removed] == [[dead_head], [dead_head]]
    assert torch.allclose(model.eval()(**x).logits, expected, atol=1e-5)


def test_the_step_leaves_a_smaller_recovered_model(trained: tuple[Any, TrainingData], tmp_path: Path):
    remove, recover = {"feed_forward": 0.75, "heads": 0.75}, RecoverySpec(epochs=10, learning_rate=2e-3)
    ctx = context(tmp_path, trained, spec(remove=remove, recover=recover, importance="random"))
    result = run(ctx)
    facts = result.facts
    assert result.form.structure is Structure.PRUNED
    assert facts["parameters"] == facts["parameters_predicted"] < facts["parameters_before"]
    assert [(layer["heads"], layer["feed_forward"]) for layer in facts["layers"]] == [(1, 16), (1, 16)]
    assert facts["validation_score"] > facts["validation_score_before_recovery"]
    assert result.curves[0].points
    assert (ctx.out / "task.json").read_bytes() == (ctx.inputs["model"].path / "task.json").read_bytes()
    assert (ctx.out / "tokenizer.json").read_bytes() == (
        ctx.inputs["model"].path / "tokenizer.json"
    ).read_bytes()
    old, new = ctx.inputs["model"].path / "model.safetensors", ctx.out / "model.safetensors"
    assert new.stat().st_size < old.stat().st_size
    json.dumps(facts)


def test_a_fresh_process_reads_the_same_model(trained: tuple[Any, TrainingData], tmp_path: Path):
    ctx = context(tmp_path, trained, spec())
    run(ctx)
    ids = torch.tensor([[2, 5, 8, 16, 3]])
    with torch.inference_mode():
        expected = load_model(ctx.out)(ids).logits
    assert torch.equal(outputs_in_a_fresh_process(ctx.out, input_ids=ids), expected)


def test_a_student_with_other_token_ids_recovers_from_its_teacher(
    trained: tuple[Any, TrainingData], tmp_path: Path
):
    """The student reads texts with its own tokenizer, the teacher with its own: examples are matched by place."""
    teacher_model, data = trained
    teacher = write_torch_artifact(tmp_path / "teacher", teacher_model)
    words = (*reversed(WORDS),)
    student = tiny_bert(hidden=16, heads=2, ffn=32, seed=1)
    ctx = context(
        tmp_path,
        (student, data),
        spec(recover=RecoverySpec(epochs=8, learning_rate=5e-3)),
        teacher=teacher,
    )
    folder = ctx.inputs["model"].path
    (folder / "tokenizer.json").write_text(tiny_tokenizer(words).to_str())
    facts = run(ctx).facts
    assert facts["validation_score"] > 0.7


@pytest.mark.parametrize(
    ("remove", "round_to", "message"),
    [
        ({"feed_forward": 0.99}, 8, "nothing would be left"),
        ({"feed_forward": 0.01}, 8, "nothing would be removed"),
        ({"heads": 0.1}, 8, "less than one head"),
        ({"feed_forward": 0.5}, 128, "nothing would be"),
    ],
)
def test_fractions_that_remove_nothing_or_everything_are_refused(
    remove: dict[str, float], round_to: int, message: str, trained: tuple[Any, TrainingData], tmp_path: Path
):
    ctx = context(tmp_path, trained, spec(remove=remove, round_to=round_to))
    with pytest.raises(PassError, match=message):
        run(ctx)
    assert not list(ctx.out.iterdir())
