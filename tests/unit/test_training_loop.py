from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.core.errors import PassError
from compress.core.task_kind import MetricKind
from compress.core.terminal.progress import Advance, SilentProgress
from compress.encoding.tokens import TokenInputs
from compress.profile.specs.training import TrainingSpec
from compress.training.checkpointing import copy_weights, load_checkpoint, save_checkpoint
from compress.training.loop import train
from compress.training.loss_functions.labels import label_cross_entropy
from compress.training.state import TrainResult
from tests.tiny import tiny_bert

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def examples(count: int = 60) -> tuple[TokenInputs, torch.Tensor]:
    """Texts whose label is the colour among their first two words."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, count)
    ids = [np.array([2, 5 + label, *random.integers(8, 19, random.integers(1, 9)), 3]) for label in labels]
    return TokenInputs(ids, NAMES, 0), torch.from_numpy(labels)


class Stopped(Exception):
    """The process dies here."""


class Setup:
    """One small training, the same whenever it is started."""

    def __init__(self, work: Path, **changes: Any) -> None:
        self.work = work
        self.spec = TrainingSpec(**{"epochs": 3, "learning_rate": 3e-3, "batch_size": 8, **changes})
        self.inputs, self.labels = examples()
        self.model = tiny_bert()
        self.losses: list[float] = []
        self.scores: Callable[[int], float] | None = None
        self.evaluations = 0

    def run(self, stop_at: int | None = None, **options: Any) -> TrainResult:
        def loss(outputs: Tensor, batch: dict[str, Tensor], indices: Tensor) -> Tensor:
            if len(self.losses) == stop_at:
                raise Stopped
            value = label_cross_entropy(outputs, self.labels[indices])
            self.losses.append(value.item())
            return value

        def validate(model: torch.nn.Module) -> float:
            self.evaluations += 1
            if self.scores is not None:
                return self.scores(self.evaluations)
            model.eval()
            with torch.inference_mode():
                batch = {
                    k: torch.from_numpy(v) for k, v in self.inputs.batch(range(len(self.inputs))).items()
                }
                return float((model(**batch).logits.argmax(1) == self.labels).float().mean())

        settings = {"precision": "fp32", "checkpoint_seconds": 0.0, "progress": SilentProgress(), **options}
        return train(
            self.model,
            self.inputs,
            loss,
            self.spec,
            validate,
            work=self.work,
            seed=7,
            device="cpu",
            name="test",
            **settings,
        )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=10)
    result = setup.run()
    assert result.best_score > 0.9
    assert result.steps == 80
    assert len(result.curve.points) == 10
    assert result.curve.points[-1].train_loss < result.curve.points[0].train_loss / 2
    assert not setup.model.training


def test_bf16_learns_too(tmp_path: Path) -> None:
    assert Setup(tmp_path, epochs=10).run(precision="bf16").best_score > 0.9


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    first, second = Setup(tmp_path / "a"), Setup(tmp_path / "b")
    assert first.run().curve.points == second.run().curve.points
    assert same(copy_weights(first.model), copy_weights(second.model))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop_at", [1, 8, 13])
def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(
    tmp_path: Path, stop_at: int, precision: str
) -> None:
    straight = Setup(tmp_path / "straight")
    expected = straight.run(precision=precision)
    killed = Setup(tmp_path / "killed")
    with pytest.raises(Stopped):
        killed.run(stop_at, precision=precision)
    torch.manual_seed(99)
    resumed = Setup(tmp_path / "killed")
    result = resumed.run(precision=precision)
    assert result.curve.points == expected.curve.points
    assert (result.best_score, result.best_step, result.steps) == (
        expected.best_score,
        expected.best_step,
        expected.steps,
    )
    assert same(copy_weights(resumed.model), copy_weights(straight.model))
    assert killed.losses + resumed.losses == straight.losses


def test_killed_again_and_again(tmp_path: Path) -> None:
    straight = Setup(tmp_path / "straight")
    straight.run()
    losses: list[float] = []
    for _ in range(9):
        setup = Setup(tmp_path / "killed")
        try:
            setup.run(3)
        except Stopped:
            losses += setup.losses
            continue
        losses += setup.losses
        break
    assert losses == straight.losses
    assert same(copy_weights(setup.model), copy_weights(straight.model))


def test_the_time_before_it_was_stopped_counts(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        Setup(tmp_path).run(9)
    noted = load_checkpoint(tmp_path)
    assert noted is not None
    assert 0 < noted.values["seconds"] < 600
    values = {**noted.values, "seconds": 7000.0}
    save_checkpoint(tmp_path, values, dict(noted.state), dict(noted.best or {}), noted.values["best_step"])
    seconds = Setup(tmp_path).run().curve.seconds
    assert seconds is not None
    assert 7000 < seconds < 7600


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = Setup(tmp_path)
    expected = first.run()
    again = Setup(tmp_path)
    assert again.run().curve.points == expected.curve.points
    assert again.losses == []
    assert same(copy_weights(again.model), copy_weights(first.model))


def test_the_checkpoint_of_another_training_is_not_taken(tmp_path: Path) -> None:
    Setup(tmp_path).run()
    other = Setup(tmp_path, learning_rate=1e-3)
    other.run()
    assert len(other.losses) == 24


def test_what_the_checkpoint_does_not_name_is_not_read(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    with pytest.raises(Stopped):
        setup.run(5)
    (tmp_path / "state-6.safetensors").write_bytes(b"half-written")
    (tmp_path / ".state-7.safetensors.tmp").write_bytes(b"half-written")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.values["step"] == 5
    Setup(tmp_path).run()
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        "checkpoint.json",
        "state-24.safetensors",
        json.loads((tmp_path / "checkpoint.json").read_text())["best"],
    }


def test_checkpoints_are_not_written_more_often_than_asked(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    with pytest.raises(Stopped):
        setup.run(5, checkpoint_seconds=3600)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_dropout_is_the_specs_where_it_names_one(tmp_path: Path) -> None:
    def rates(setup: Setup) -> set[float]:
        return {module.p for module in setup.model.modules() if isinstance(module, torch.nn.Dropout)}

    own, none = Setup(tmp_path / "own", epochs=0.2), Setup(tmp_path / "none", epochs=0.2, dropout=0.0)
    own.run()
    none.run()
    assert rates(own) == {0.1}
    assert rates(none) == {0.0}
    assert own.losses != none.losses
    assert none.model.config.hidden_dropout_prob == 0.1


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Scores that fall after the second evaluation: the weights of step 16 are left in the model."""
    setup = Setup(tmp_path / "all")
    setup.scores = lambda evaluation: [0.1, 0.5, 0.2][evaluation - 1]
    result = setup.run()
    assert (result.best_score, result.best_step, result.steps) == (0.5, 16, 24)
    stopped = Setup(tmp_path / "stopped", patience=1, epochs=3)
    stopped.scores = setup.scores
    stopped.run()
    assert same(copy_weights(setup.model), copy_weights(stopped.model))


class Notes(SilentProgress):
    """Keeps what is written behind a bar."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str | None = None) -> None:
            self.said += [note] if note else []

        yield advance


def test_progress_shows_a_metric_as_readers_know_it(tmp_path: Path) -> None:
    perplexity = MetricKind("perplexity", "perplexity", percent=False, smaller_is_better=True)
    setup, notes = Setup(tmp_path), Notes()
    setup.scores = lambda turn: -50.0 / turn
    setup.run(progress=notes, metric=perplexity)
    assert notes.said[-1].endswith(", best perplexity 16.6667")


def test_early_stopping(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=10, patience=2)
    setup.scores = lambda evaluation: [0.1, 0.5, 0.5, 0.4, 0.9][evaluation - 1]
    result = setup.run()
    assert result.steps == 32
    assert result.best_step == 16
    assert setup.run().steps == 32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 2}, [8, 16]),
        ({"epochs": 1.5}, [8, 12]),
        ({"epochs": 0.01}, [1]),
        ({"epochs": 1, "evaluations_per_epoch": 4}, [2, 4, 6, 8]),
    ],
)
def test_when_it_is_evaluated(tmp_path: Path, changes: dict[str, Any], expected: list[int]) -> None:
    assert [point.step for point in Setup(tmp_path, **changes).run().curve.points] == expected


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=1)
    setup.labels = torch.full_like(setup.labels, 2)
    with torch.no_grad():
        next(setup.model.parameters()).fill_(float("nan"))
    with pytest.raises(PassError, match="loss is nan at step 1 of 8"):
        setup.run()


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    Setup(tmp_path, epochs=1).run()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["checkpoint.json", "state-3.safetensors", "best-2.safetensors"])
@pytest.mark.parametrize("kept", [0, 20, None, "flipped"])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, name: str, kept: int | str | None) -> None:
    weights = {"w": torch.arange(9.0)}
    save_checkpoint(tmp_path, {"step": 3}, weights, weights, 2)
    assert load_checkpoint(tmp_path) is not None
    if kept is None:
        (tmp_path / name).unlink()
    elif kept == "flipped":
        content = bytearray((tmp_path / name).read_bytes())
        # The last digit of a step or of a checksum, the last byte of a weight: what no parser minds.
        place = max(
            at for at in range(len(content)) if name != "checkpoint.json" or chr(content[at]).isdigit()
        )
        content[place] ^= 1
        (tmp_path / name).write_bytes(content)
    else:
        assert isinstance(kept, int)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    assert load_checkpoint(tmp_path) is None


def test_the_best_weights_of_another_training_are_not_taken_for_ours(tmp_path: Path) -> None:
    theirs, ours = {"w": torch.zeros(9)}, {"w": torch.ones(9)}
    save_checkpoint(tmp_path, {"step": 3, "plan": "theirs"}, theirs, theirs, 2)
    save_checkpoint(tmp_path, {"step": 3, "plan": "ours"}, ours, ours, 2)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.best is not None
    assert torch.equal(checkpoint.best["w"], ours["w"])


def test_weights_of_the_worst_score_are_still_weights(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=1)
    setup.scores = lambda _: -math.inf
    assert setup.run().best_score == -math.inf


def test_a_score_that_is_no_number_is_told(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=1)
    setup.scores = lambda _: math.nan
    with pytest.raises(PassError, match="the validation score is nan at step"):
        setup.run()
