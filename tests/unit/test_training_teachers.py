from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.errors import PassError
from compress.core.terminal.progress import SilentProgress
from compress.tasks.base import Truth
from compress.training.prediction import predict, score
from compress.training.signals.capture import capture
from compress.training.signals.teachers import (
    LiveSignals,
    TeacherSignals,
    cached_signals,
    combine_teachers,
)
from tests.processes import start
from tests.tiny import text_task, tiny_bert
from tests.unit.test_training_loop import examples


def one_by_one(model: nn.Module, inputs: object) -> np.ndarray:
    found = []
    for index in range(len(inputs)):  # type: ignore[arg-type]
        batch = {name: torch.from_numpy(array) for name, array in inputs.batch([index]).items()}  # type: ignore[attr-defined]
        with torch.no_grad():
            found.append(model(**batch).logits.numpy()[0])
    return np.stack(found)


def test_predictions_stand_in_the_order_of_the_examples() -> None:
    model, (inputs, _) = tiny_bert(), examples(137)
    found = predict(model, inputs, precision="fp32", device="cpu")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(model, inputs), atol=1e-5)


def test_predicting_leaves_the_model_as_it_was() -> None:
    model, (inputs, _) = tiny_bert().train(), examples(5)
    first = predict(model, inputs, precision="fp32", device="cpu")
    assert model.training
    np.testing.assert_array_equal(first, predict(model, inputs, precision="fp32", device="cpu"))


def test_the_score_is_the_tasks() -> None:
    model, (inputs, labels) = tiny_bert(), examples(40)
    expected = float((one_by_one(model, inputs).argmax(1) == labels.numpy()).mean())
    found = score(model, inputs, Truth(labels.numpy()), text_task(32), precision="fp32", device="cpu")
    assert found == pytest.approx(expected)


def test_outputs_are_computed_once(tmp_path: Path) -> None:
    model, (inputs, _) = tiny_bert(), examples(50)
    loads = []

    def load() -> nn.Module:
        loads.append(1)
        return model

    first = cached(tmp_path, inputs, (), load).outputs
    again = cached(tmp_path, inputs, (), load).outputs
    assert len(loads) == 1
    np.testing.assert_allclose(first, one_by_one(model, inputs), atol=1e-5)
    np.testing.assert_array_equal(first, again)
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable


class Dying(nn.Module):
    """A model that dies at its n-th batch."""

    def __init__(self, model: nn.Module, after: int) -> None:
        super().__init__()
        self.model, self.left, self.rows = model, after, 0

    def forward(self, **batch: torch.Tensor) -> object:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.rows += len(batch["input_ids"])
        return self.model(**batch)


def test_finished_chunks_survive_a_kill(tmp_path: Path) -> None:
    inputs, _ = examples(50)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, inputs, (), lambda: Dying(tiny_bert(), 3))
    assert not list(tmp_path.rglob("*.bin"))
    rest = Dying(tiny_bert(), 99)
    found = cached(tmp_path, inputs, (), lambda: rest).outputs
    # One more, to see what the signals look like.
    assert rest.rows == 50 - 32 + 1
    np.testing.assert_allclose(found, one_by_one(tiny_bert(), inputs), atol=1e-5)


def test_a_file_that_was_cut_off_after_a_kill_is_begun_anew(tmp_path: Path) -> None:
    inputs, _ = examples(50)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, inputs, (), lambda: Dying(tiny_bert(), 3))
    (part,) = tmp_path.rglob("*.part")
    part.write_bytes(part.read_bytes()[:-4])
    found = cached(tmp_path, inputs, (), tiny_bert).outputs
    np.testing.assert_allclose(found, one_by_one(tiny_bert(), inputs), atol=1e-5)


def flip(file: Path) -> None:
    """Another value that is as finite as the one before."""
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)


def test_a_digit_that_was_changed_after_a_kill_is_not_gone_on_from(tmp_path: Path) -> None:
    inputs, _ = examples(50)
    first = np.array(cached(tmp_path / "whole", inputs, (), tiny_bert).outputs)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "killed", inputs, (), lambda: Dying(tiny_bert(), 3))
    (part,) = tmp_path.rglob("*.part")
    # The last row that is not zero was written before the kill.
    content = bytearray(part.read_bytes())
    content[max(place for place, byte in enumerate(content) if byte)] ^= 1
    part.write_bytes(content)
    rest = Dying(tiny_bert(), 99)
    np.testing.assert_array_equal(cached(tmp_path / "killed", inputs, (), lambda: rest).outputs, first)
    assert rest.rows == 50 + 1


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [flip, cut_off])
@pytest.mark.parametrize("suffix", ["layout", "bin"])
def test_damaged_signals_are_computed_again(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    inputs, _ = examples(50)
    first = np.array(cached(tmp_path, inputs, (), tiny_bert).outputs)
    (file,) = tmp_path.rglob(f"*.{suffix}")
    damage(file)
    np.testing.assert_array_equal(cached(tmp_path, inputs, (), tiny_bert).outputs, first)
    np.testing.assert_array_equal(cached(tmp_path, inputs, (), refuse).outputs, first)


def cached(
    folder: Path, inputs: object, names: tuple[str, ...], load: object, **changes: object
) -> TeacherSignals:
    settings = {
        "teacher_digest": "t",
        "device": "cpu",
        "precision": "fp32",
        "progress": SilentProgress(),
        "chunk": 16,
    }
    return cached_signals(load, inputs, names, folder, **{**settings, **changes})  # type: ignore[arg-type]


class Counting(nn.Module):
    """A model that counts the rows that it was given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, **batch: torch.Tensor) -> object:
        self.rows += len(batch["input_ids"])
        return self.model(**batch)


def refuse() -> nn.Module:
    raise AssertionError("the teacher was loaded")


def test_token_signals_come_back_padded_and_as_the_model_gives_them(tmp_path: Path) -> None:
    model, (inputs, _) = tiny_bert(), examples(50)
    signals = cached(tmp_path, inputs, ("hidden.0", "query.1", "embedding"), lambda: model)
    indices = np.array([31, 2, 2, 49])
    taken = signals.take(indices)
    batch = {name: torch.from_numpy(array) for name, array in inputs.batch(indices).items()}
    real = batch["attention_mask"].bool()
    expected = capture(model, batch, {"outputs", "hidden.0", "query.1", "embedding"})
    assert taken.keys() == expected.keys()
    torch.testing.assert_close(taken["outputs"], expected["outputs"].detach(), atol=1e-5, rtol=1e-5)
    for name in ("hidden.0", "query.1", "embedding"):
        assert taken[name].dtype == torch.float32
        assert taken[name].shape == expected[name].shape
        torch.testing.assert_close(taken[name][real], expected[name].detach()[real], atol=2e-3, rtol=1e-3)
        assert not taken[name][~real].any()


def test_the_file_holds_no_padding(tmp_path: Path) -> None:
    inputs, _ = examples(50)
    cached(tmp_path, inputs, ("hidden.1",), tiny_bert)
    (file,) = tmp_path.rglob("hidden.1.bin")
    assert file.stat().st_size == int(inputs.lengths.sum()) * 32 * 2


def test_another_run_computes_nothing_and_one_more_signal_only_that_one(tmp_path: Path) -> None:
    inputs, _ = examples(50)
    first = cached(tmp_path, inputs, ("hidden.1",), tiny_bert)
    again = cached(tmp_path, examples(50)[0], ("hidden.1",), refuse)
    indices = np.arange(50)
    assert all(torch.equal(a, again.take(indices)[name]) for name, a in first.take(indices).items())
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.bin")}
    more = Counting(tiny_bert())
    assert set(cached(tmp_path, inputs, ("hidden.0", "hidden.1"), lambda: more).stored) == {
        "outputs",
        "hidden.0",
        "hidden.1",
    }
    assert more.rows == 50 + 1
    assert {
        file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.bin") if file.name in files
    } == files


@pytest.mark.parametrize(
    "changes", [{"teacher_digest": "other"}, {"precision": "bf16"}, {"inputs": examples(51)[0]}]
)
def test_another_teacher_precision_or_input_is_another_entry(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    arguments = {"inputs": examples(50)[0], "names": (), "load": tiny_bert}
    cached(tmp_path, **arguments)  # type: ignore[arg-type]
    loads = []
    cached(tmp_path, **{**arguments, "load": lambda: loads.append(1) or tiny_bert(), **changes})  # type: ignore[arg-type]
    assert loads == [1]


def test_beyond_the_budget_a_signal_is_computed_live(tmp_path: Path) -> None:
    model, (inputs, _) = tiny_bert(), examples(50)
    one = int(inputs.lengths.sum()) * 32 * 2
    names = ("hidden.0", "hidden.1")
    signals = cached(tmp_path, inputs, names, lambda: model, budget_bytes=one)
    assert sorted(file.name for file in tmp_path.rglob("*.bin")) == ["hidden.0.bin", "outputs.bin"]
    whole = cached(tmp_path, inputs, names, lambda: model)
    assert whole.live is None
    indices = np.array([7, 1, 30])
    live, stored = signals.take(indices), whole.take(indices)
    assert live.keys() == stored.keys()
    _, real = inputs.ragged.padded(indices)
    torch.testing.assert_close(live["hidden.1"][real], stored["hidden.1"][real], atol=2e-3, rtol=1e-3)


def test_what_does_not_fit_into_float16_is_kept_in_float32(tmp_path: Path) -> None:
    model, (inputs, _) = tiny_bert(), examples(40)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.weight.mul_(1e6)
    signals = cached(tmp_path, inputs, ("hidden.0", "hidden.1"), lambda: model)
    indices = np.arange(8)
    batch = {name: torch.from_numpy(array) for name, array in inputs.batch(indices).items()}
    expected = capture(model, batch, {"hidden.1"})["hidden.1"].detach()
    assert expected.abs().max() > 1e5
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(signals.take(indices)["hidden.1"][real], expected[real], rtol=1e-3, atol=10.0)
    assert signals.stored["hidden.0"].values.dtype == np.float16


def test_a_teacher_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(PassError, match="the teacher's outputs is not finite"):
        cached(tmp_path, examples(20)[0], (), lambda: model)


def test_a_signal_that_a_model_cannot_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"hidden\.9"):
        cached(tmp_path, examples(20)[0], ("hidden.9",), tiny_bert)


def test_half_precision_of_hidden_states_changes_no_distance_that_matters(tmp_path: Path) -> None:
    """The rounding is far below the distance between one text's hidden states and another's."""
    model, (inputs, _) = tiny_bert(), examples(40)
    indices = np.arange(40)
    stored = cached(tmp_path, inputs, ("hidden.1",), lambda: model).take(indices)["hidden.1"]
    live = LiveSignals(model, inputs, ("hidden.1",), "cpu", "fp32").take(indices)["hidden.1"]
    _, real = inputs.ragged.padded(indices)
    error = (stored[real] - live[real]).pow(2).mean()
    assert error < 1e-6 * live[real].var()


class Fixed:
    """A teacher that says what it was given."""

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs

    def take(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"outputs": torch.from_numpy(self.outputs[indices])}


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_several_teachers_are_averaged(combine: str) -> None:
    random = np.random.default_rng(0)
    one, two = (random.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    mean = combine_teachers([(Fixed(one), 1.0), (Fixed(two), 3.0)], combine)  # type: ignore[arg-type]

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)

    if combine == "logits":
        expected = 0.25 * one + 0.75 * two
    else:
        expected = np.log(0.25 * softmax(one) + 0.75 * softmax(two))
    np.testing.assert_allclose(mean.outputs, expected, atol=1e-6)
    indices = np.array([3, 0])
    np.testing.assert_allclose(mean.take(indices)["outputs"].numpy(), expected[indices], atol=1e-6)


def _cache_signals(folder: Path, counted: Path) -> None:
    model = Counting(tiny_bert())
    cached(folder, examples(200)[0], ("hidden.0",), lambda: model)
    counted.write_text(str(model.rows))


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """The second waits for the first and computes nothing."""
    both = [start(_cache_signals, tmp_path, tmp_path / f"{number}.rows") for number in range(2)]
    for process in both:
        process.join()
    rows = sorted(int(file.read_text()) for file in tmp_path.glob("*.rows"))
    # Either the second had to look at its teacher before it waited, or it came when all was done.
    assert rows[1] == 201
    assert rows[0] <= 1
