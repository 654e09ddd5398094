"""Several teachers of a language model: what is kept of their mean, under which key, what a student learns of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifacts import Artifact, seal
from compress.core.errors import ModelError, PassError
from compress.core.forms import TORCH_FLOAT
from compress.core.terminal.progress import SilentProgress
from compress.encoding.inputs import LOSS_MASK, model_inputs
from compress.losses.contract import LossContext
from compress.losses.hidden.spec import HiddenLoss
from compress.losses.logits.spec import LogitsLoss
from compress.losses.logits.term import compare_logits, compare_top_k
from compress.models.io.checkpoints import load_model, save_model
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.step import StepContext
from compress.tasks.table import task_kind
from compress.training.batches import to_tensors
from compress.training.signals.averaging import MeanOfTeachers, mean_outputs
from compress.training.signals.teachers import cached_signals, mean_signals
from compress.training.signals.top_k import TopK
from tests.steps import context
from tests.tiny_language import Taught, taught

WORDS = 260


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Taught, Artifact]:
    """A teacher with its texts, and another one of other weights."""
    folder = tmp_path_factory.mktemp("teachers")
    first, task, data = taught(folder)
    few = replace(data, train=data.train.take(np.arange(16)))
    return (first, task, few), changed(folder / "second", first, 0.1)


def changed(folder: Path, artifact: Artifact, much: float) -> Artifact:
    """The same model with other weights."""
    model = load_model(artifact.path)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(much * torch.randn_like(parameter))
    return written(folder, model, artifact)


def written(folder: Path, model: nn.Module, like: Artifact) -> Artifact:
    save_model(model, folder)
    for name in ("task.json", "tokenizer.json"):
        (folder / name).write_bytes((like.path / name).read_bytes())
    return seal(folder, TORCH_FLOAT, {"parameters": 0})


def prepared(folder: Path, both: tuple[Taught, Artifact], **changes: Any) -> StepContext:
    (first, task, data), second = both
    body = {
        "student": {"layers": 1},
        "teachers": [{"weight": 2}, {"model": "elsewhere"}],
        "losses": [{"logits": {"temperature": 1, "top_k": 16}}],
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 3e-3,
        **changes,
    }
    roles = {"model": first, "teacher": first, "original": first, "teacher.1": first, "teacher.2": second}
    return context(folder, DistillSpec.model_validate(body), roles, task, data)


def weights(ctx: StepContext) -> dict[str, torch.Tensor]:
    distill.run(ctx)
    return dict(load_model(ctx.out).state_dict())


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_what_is_kept_of_a_mean_is_the_mean_within_what_rounding_costs(
    tmp_path: Path, both: tuple[Taught, Artifact], combine: Any, divergence: Any
) -> None:
    """The file of a mean against both teachers run there and then: the rows, and the loss of a student."""
    (first, task, data), second = both
    ctx = prepared(tmp_path, both)
    inputs = task.encode(data.train, first.path)
    top = TopK(64, 1.0, WORDS)
    entries = [(first, 2.0), (second, 1.0)]
    found = mean_signals(ctx, entries, combine, inputs, {top.name})
    assert {file.name for file in ctx.shared.rglob("*.bin")} == {f"{top.name}.bin"}
    (file,) = ctx.shared.rglob("*.bin")
    assert file.stat().st_size == int(inputs.lengths.sum()) * top.row_bytes

    places = np.arange(8)
    batch = to_tensors(inputs.batch(places), "cpu")
    compared = nn.functional.pad(batch[LOSS_MASK][:, 1:], (0, 1)).bool()
    with torch.no_grad():
        said = [load_model(one.path)(**model_inputs(batch)).logits[compared] for one, _ in entries]
        # By its definition, word by word.
        if combine == "logits":
            mean = (2 * said[0] + said[1]) / 3
        else:
            mean = ((2 * said[0].softmax(-1) + said[1].softmax(-1)) / 3).log()
        student = torch.randn(len(mean), WORDS, generator=torch.manual_seed(0))
        rows = found.take(places)[top.name][compared]
        ids, logs = top.unpack(rows)
        likely = mean.log_softmax(-1).gather(-1, ids)
        spec = LogitsLoss(temperature=1.0, divergence=divergence)
        kept = compare_top_k(spec, top, student, rows)
        live = compare_top_k(spec, top, student, top.pack(mean))
        # What the words outside of the 64 tell apart is what is lost on purpose, and little.
        whole = compare_logits(spec, student, mean)
    step = (likely[:, :1] - likely[:, -1:]) / 255
    assert ((logs[:, :-1] - likely).abs() < 0.7 * step + 1e-2).all()
    error = (likely.exp() * (likely - logs[:, :-1])).sum(-1).mean()
    assert abs(error) < 1.2e-3
    # `reverse` asks how small the mass of the rest is where there is next to none.
    torch.testing.assert_close(kept, live, rtol=1e-2, atol=1e-3)
    assert 0 <= whole - kept < 0.2 * whole


def test_the_mean_is_found_again_under_equal_shares_alone(
    tmp_path: Path, both: tuple[Taught, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, task, data), second = both
    ctx = prepared(tmp_path, both)
    inputs = task.encode(data.train, first.path)
    names = {TopK(4, 1.0, WORDS).name}
    runs: list[int] = []
    forward = MeanOfTeachers.forward

    def counted(self: MeanOfTeachers, **batch: torch.Tensor) -> torch.Tensor:
        runs.append(len(batch["input_ids"]))
        return forward(self, **batch)

    monkeypatch.setattr(MeanOfTeachers, "forward", counted)

    def asked(*entries: tuple[Artifact, float], combine: Any = "probabilities") -> bool:
        """Whether the teachers ran for it."""
        runs.clear()
        mean_signals(ctx, entries, combine, inputs, names)
        return bool(runs)

    assert asked((first, 2.0), (second, 1.0))
    assert not asked((first, 2.0), (second, 1.0))
    assert not asked((first, 4.0), (second, 2.0))
    assert asked((first, 1.0), (second, 1.0))
    assert asked((first, 2.0), (second, 1.0), combine="logits")
    assert asked((first, 2.0), (changed(tmp_path / "third", first, 0.2), 1.0))


def test_a_mean_that_was_killed_goes_on_from_its_last_chunk(
    tmp_path: Path, both: tuple[Taught, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, task, data), second = both
    inputs = task.encode(data.train, first.path)
    top, entries = TopK(4, 1.0, WORDS), [(first, 1.0), (second, 1.0)]
    whole = mean_signals(prepared(tmp_path / "whole", both), entries, "logits", inputs, {top.name})
    monkeypatch.setitem(cached_signals.__kwdefaults__, "chunk", 8)
    forward, rows = MeanOfTeachers.forward, list[int]()

    def dying(self: MeanOfTeachers, **batch: torch.Tensor) -> torch.Tensor:
        if sum(rows) > len(inputs) // 2 and not finished:
            raise KeyboardInterrupt
        rows.append(len(batch["input_ids"]))
        return forward(self, **batch)

    ctx, finished = prepared(tmp_path / "killed", both), []
    monkeypatch.setattr(MeanOfTeachers, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        mean_signals(ctx, entries, "logits", inputs, {top.name})
    assert not list(ctx.shared.rglob("*.bin"))
    finished.append(1)
    rows.clear()
    again = mean_signals(ctx, entries, "logits", inputs, {top.name})
    assert sum(rows) < len(inputs)
    every = np.arange(len(inputs))
    torch.testing.assert_close(again.take(every)[top.name], whole.take(every)[top.name], rtol=0, atol=0)


WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"combine": "logits", "losses": [{"logits": {"temperature": 2, "top_k": 260, "divergence": "skew"}}]},
    {"select": {"confidence": 0.2}, "losses": [{"logits": {"temperature": 1, "divergence": "reverse"}}]},
    {"select": {"right": True}, "losses": [{"next_token": {}}]},
    {
        "select": {"confidence": 0.1, "right": True},
        "losses": [{"logits": {"top_k": 16, "divergence": "jsd"}}, {"next_token": {"weight": 0.1}}],
    },
    {"losses": [{"logits": {"top_k": 8, "hard": True}}]},
)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_student_learns_the_same_of_what_is_kept_and_of_teachers_that_run_along(
    tmp_path: Path, both: tuple[Taught, Artifact], monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    kept = prepared(tmp_path / "kept", both, **way)
    found = weights(kept)
    assert any(kept.shared.rglob("*.bin"))
    along = prepared(tmp_path / "along", both, **way)
    monkeypatch.setattr(
        "compress.passes.distill.teaching._Distillation._runs_teacher_live", lambda *given: True
    )
    live = weights(along)
    assert not any(along.shared.rglob("*.bin"))
    begun = weights(prepared(tmp_path / "begun", both, **{**way, "epochs": 0.01, "learning_rate": 1e-12}))
    moved = sum((live[name] - begun[name]).norm() for name in live)
    apart = sum((live[name] - found[name]).norm() for name in live)
    assert moved > 0
    assert apart < 0.02 * moved


def test_each_teacher_counts_by_its_weight(tmp_path: Path, both: tuple[Taught, Artifact]) -> None:
    """With all weight on one, a student learns what that one alone would teach it."""
    found = {}
    for name, shares in {"first": (1.0, 1e-6), "second": (1e-6, 1.0)}.items():
        entries = [{"weight": shares[0]}, {"model": "elsewhere", "weight": shares[1]}]
        found[name] = weights(prepared(tmp_path / name, both, teachers=entries))
    (first, _, _), second = both
    for name, teacher in {"first": first, "second": second}.items():
        ctx = prepared(tmp_path / f"{name} alone", both, teachers=[{"model": "x"}])
        alone = weights(replace(ctx, inputs={**ctx.inputs, "teacher.1": teacher}))
        other = found["second" if name == "first" else "first"]
        near, far = (sum((alone[key] - one[key]).norm() for key in alone) for one in (found[name], other))
        assert near < 0.1 * far


def test_teachers_with_unlike_rows_of_words_are_refused(
    tmp_path: Path, both: tuple[Taught, Artifact]
) -> None:
    (first, task, data), _ = both
    model = load_model(first.path)
    model.resize_token_embeddings(264)
    wide = written(tmp_path / "wide", model, first)
    with pytest.raises(ModelError, match="260 and 264 outputs cannot be averaged"):
        distill.run(prepared(tmp_path / "step", ((first, task, data), wide)))


def test_their_likeliest_words_have_a_mean_and_what_lies_inside_them_has_none() -> None:
    several = LossContext(task_kind("causal-lm"), teachers=2)
    assert all(LogitsLoss(top_k=k).fault(several) is None for k in (None, 16, "all"))
    assert "in their outputs only" in str(HiddenLoss().fault(several))


def test_a_mean_of_many_rows_is_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.manual_seed(0)
    pair = [(torch.randn(2, 5, 7, generator=drawn), weight) for weight in (1.0, 3.0)]
    whole = mean_outputs(pair, "probabilities")
    monkeypatch.setattr("compress.training.signals.averaging._AT_ONCE", 14)
    torch.testing.assert_close(mean_outputs(pair, "probabilities"), whole)
    expected = sum(share * one.softmax(-1) for (one, _), share in zip(pair, (0.25, 0.75), strict=True))
    torch.testing.assert_close(whole.softmax(-1), expected)


class Said(SilentProgress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("epochs", [2, 0.5])
def test_it_is_told_how_many_tokens_are_learnt(
    tmp_path: Path, both: tuple[Taught, Artifact], epochs: float
) -> None:
    """By all texts, or by those that were looked at: not by how far the best weights had come."""
    (first, task, data), _ = both
    said = Said()
    keys = {"teachers": [], "select": {"confidence": 0.3}, "epochs": epochs}
    ctx = replace(prepared(tmp_path, both, **keys), progress=said)
    # Worse from the first step on: the best weights are those of the first score.
    fast = ctx.spec_as(DistillSpec).model_copy(update={"learning_rate": 0.5, "evaluations_per_epoch": 2})
    result = distill.run(replace(ctx, spec=fast))
    inputs = task.encode(data.train, first.path)
    batch = to_tensors(inputs.batch(np.arange(len(inputs))), "cpu")
    with torch.no_grad():
        sure = load_model(first.path)(**model_inputs(batch)).logits.softmax(-1).amax(-1) >= 0.3
    learnt = batch[LOSS_MASK].bool()
    left = int((sure[:, :-1] & learnt[:, 1:]).sum())
    kept = result.facts["stages"][0]["kept"]
    assert kept["of"] == int(learnt.sum())
    assert abs(kept["tokens"] - left) <= 2
    assert 0 < left < kept["of"]
    share = f"{kept['tokens'] / kept['of']:.1%} of the tokens in {len(inputs)} windows are selected"
    assert any(share in line for line in said.lines)


@pytest.mark.parametrize("teachers", [[], [{}, {"model": "elsewhere"}]], ids=["one", "two"])
def test_where_no_token_would_be_left_nothing_is_trained(
    tmp_path: Path,
    both: tuple[Taught, Artifact],
    monkeypatch: pytest.MonkeyPatch,
    teachers: list[dict[str, Any]],
) -> None:
    def train(*given: object, **named: object) -> None:
        raise AssertionError("it trained")

    monkeypatch.setattr("compress.passes.distill.teaching.train", train)
    ctx = prepared(tmp_path, both, teachers=teachers, select={"confidence": 0.999999})
    with pytest.raises(PassError, match=r"none of the \d+ tokens in 27 windows would be selected") as raised:
        distill.run(ctx)
    assert "the teacher's highest confidence is " in str(raised.value.hint)
