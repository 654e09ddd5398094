"""What a student writes itself: which tokens of it are learnt, in which steps, by which loss, and that it is the same
again after a kill and in several processes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from compress.core.artifacts import SAMPLES
from compress.core.disk.files import write_json
from compress.core.errors import ModelError, PassError
from compress.core.records import Sample
from compress.data.splits import Examples
from compress.encoding.inputs import LOSS_MASK, SELF_GENERATED
from compress.encoding.tokens import TokenInputs
from compress.losses.contract import LossSpec
from compress.losses.table import LOSS_ENTRIES
from compress.models.io.checkpoints import load_model
from compress.passes.distill import step as distill
from compress.passes.distill.sections.own_texts import own_texts
from compress.passes.distill.spec import DistillSpec
from compress.step import StepContext
from compress.store.flat import Ragged
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.training.batches import to_tensors
from compress.training.distributed.world import World
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import TrainingModule
from compress.training.objective.weighted_losses import build_objective
from compress.training.on_policy import Completions, OnPolicy, OnPolicySettings
from compress.training.signals.answers import from_model, no_signals
from compress.training.signals.capture import anatomy_of
from compress.training.signals.segmentation import check_same_vocabulary
from tests.records import bert_run, change_step
from tests.steps import context
from tests.tiny_decoders import tiny_decoder
from tests.tiny_language import CHATML, Taught, taught

NAMES = ("input_ids", "attention_mask")
PROMPTS = [[5, 7, 11, 13], [17, 19], [23, 29, 31], [37, 41, 43, 47, 53], [59, 61]]
END = 2
DIVERGENCES = ("forward", "reverse", "jsd", "skew", "skew_reverse")


def policy(
    student: PreTrainedModel, world: World | None = None, parts: int = 1, pad: int = END, **changes: Any
) -> OnPolicy:
    """A student that writes to `PROMPTS`; an answer ends with the token that texts are padded with."""
    how = {"share": 1.0, "batch_size": 4, "most": 6, "ends": (END,), "temperature": 1.0, "seed": 3, **changes}
    return OnPolicy(
        student,
        OnPolicySettings(prompts=Ragged.of(PROMPTS), **how),
        TokenInputs([[1]], NAMES, pad),
        parts=parts,
        world=world or World(),
        precision="fp32",
        device="cpu",
        decode=lambda tokens: " ".join(map(str, tokens)),
    )


@pytest.fixture(scope="module")
def student() -> PreTrainedModel:
    return tiny_decoder("llama")


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    made = tiny_decoder("llama")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def written_at(one: OnPolicy, step: int) -> Completions:
    found = one.at(step)
    assert found is not None
    return found


def rows_of(texts: Completions) -> list[list[int]]:
    return [row.tolist() for row in texts.ids]


def test_what_was_written_is_learnt_with_its_end_and_nothing_else() -> None:
    """The token that ends an answer is the one that pads, and stands in a prompt too."""
    texts = Completions(
        [np.array(row, np.int32) for row in ([9, END, 8, 7, 6, END], [9, 5, END], [9, 8, 4, 4, 4])],
        NAMES,
        END,
        starts=np.array([3, 1, 2]),
        completion_lengths=np.array([3, 2, 3]),
    )
    batch = texts.batch([0, 1, 2])
    assert batch["input_ids"].tolist() == [[9, 2, 8, 7, 6, 2], [9, 5, 2, 2, 2, 2], [9, 8, 4, 4, 4, 2]]
    assert batch["attention_mask"].sum(1).tolist() == [6, 3, 5]
    assert batch[LOSS_MASK].tolist() == [[0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]]
    assert SELF_GENERATED in batch
    assert texts.batch([1])[LOSS_MASK].tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7, 1.0])
def test_it_writes_in_the_share_of_the_steps(
    student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    one = policy(student, share=share)
    nothing = Completions(
        [[1]], NAMES, 0, starts=np.zeros(1, np.int64), completion_lengths=np.zeros(1, np.int64)
    )
    batches: list[list[int]] = []

    def write(step: int, chosen: NDArray[np.int64]) -> tuple[Completions, int]:
        batches.append(chosen.tolist())
        return nothing, 0

    monkeypatch.setattr(one, "_write", write)
    wrote = [one.at(step) is not None for step in range(60)]
    assert [sum(wrote[:count]) for count in range(61)] == [math.floor(count * share) for count in range(61)]
    assert one.stats["steps"] == sum(wrote)
    # Of the prompts each comes once before any comes again.
    seen = [place for batch in batches for place in batch]
    rounds = [sorted(seen[start : start + 5]) for start in range(0, len(seen) - 4, 5)]
    assert rounds
    assert all(one == [0, 1, 2, 3, 4] for one in rounds)


def test_it_writes_what_its_present_weights_say(student: PreTrainedModel) -> None:
    """The likeliest tokens, found one by one without a cache; and other weights write other ones."""
    one = policy(student, temperature=0.0, most=5)
    texts = written_at(one, 0)
    for row, begun in zip(rows_of(texts), texts.starts, strict=True):
        expected = row[:begun]
        while len(expected) < begun + 5 and (len(expected) == begun or expected[-1] != END):
            with torch.inference_mode():
                expected.append(int(student(input_ids=torch.tensor([expected])).logits[0, -1].argmax()))
        assert row == expected
    moved = tiny_decoder("llama")
    one = policy(moved, temperature=0.0, most=5)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.3 * torch.ones_like(parameter).cumsum(0).sin())
    assert rows_of(written_at(one, 0)) != rows_of(texts)


def test_an_answer_hangs_on_seed_step_and_prompt_alone(student: PreTrainedModel) -> None:
    def answers(step: int, **changes: Any) -> dict[tuple[int, ...], list[int]]:
        texts = written_at(policy(student, **changes), step)
        return {
            tuple(row[:begun]): row[begun:] for row, begun in zip(rows_of(texts), texts.starts, strict=True)
        }

    every = answers(0, batch_size=5)
    torch.manual_seed(1)
    some = answers(0, batch_size=3)
    assert len(every) == 5
    assert some == {prompt: every[prompt] for prompt in some}
    assert answers(5, batch_size=5) != every
    assert answers(0, batch_size=5, seed=4) != every


def test_writing_leaves_the_student_and_the_random_numbers_of_the_training_alone(
    student: PreTrainedModel,
) -> None:
    one = policy(student)
    state = torch.get_rng_state()
    student.train()
    written_at(one, 0)
    assert all(module.training for module in student.modules())
    assert torch.equal(torch.get_rng_state(), state)
    student.eval()


def test_what_is_told(student: PreTrainedModel) -> None:
    one = policy(student, share=0.5, temperature=3.0)
    texts = [found for step in range(14) if (found := one.at(step)) is not None]
    assert one.stats["steps"] == len(texts) == 7
    assert one.stats["answers"] == sum(map(len, texts))
    assert one.stats["tokens"] == sum(int((row.lengths - row.starts).sum()) for row in texts)
    assert one.stats["ended"] == sum(row[-1] == END for found in texts for row in rows_of(found))
    assert one.stats["seconds"] > 0
    assert [sample["step"] for sample in one.stats["samples"]] == [2, 4, 6, 10, 12, 14]
    first = rows_of(texts[0])[0]
    cut = first[int(texts[0].starts[0]) :]
    assert one.stats["samples"][0]["answer"] == " ".join(map(str, cut[:-1] if cut[-1] == END else cut))
    assert json.loads(json.dumps(one.stats)) == one.stats


class Half(World):
    """One of two processes, whose sums come out as if the other one had told `others`."""

    others: Sequence[float] = ()
    told: Sequence[float] = ()

    def mean(self, values: Sequence[float]) -> list[float]:
        object.__setattr__(self, "told", list(values))
        return [(a + b) / 2 for a, b in zip(values, self.others or np.zeros(len(values)), strict=True)]


@pytest.mark.parametrize(("parts", "batch"), [(1, 5), (3, 3)])
def test_each_process_writes_its_share_and_all_weigh_as_in_one(
    student: PreTrainedModel, parts: int, batch: int
) -> None:
    """With as many parts as rows a process has no row of its own at all."""
    alone = written_at(policy(student, batch_size=batch), 0)
    told: list[Sequence[float]] = []
    for rank in range(2):
        world = Half(rank, 2)
        written_at(policy(student, world, parts, batch_size=batch), 0)
        told.append(world.told)
    for rank in range(2):
        world = Half(rank, 2)
        object.__setattr__(world, "others", told[1 - rank])
        one = policy(student, world, parts, batch_size=batch)
        texts = written_at(one, 0)
        assert texts.completion_lengths.tolist() == alone.completion_lengths.tolist()
        assert one.stats["tokens"] == alone.completion_lengths.sum()
        places = np.arange(len(alone))
        for indices, own in world.local_parts(places, parts):
            assert [rows_of(texts)[row] for row in indices] == [rows_of(alone)[row] for row in indices]
            assert (texts.batch(indices)[LOSS_MASK].sum() > 0) or not own
        mine = {row for indices, _ in world.local_parts(places, parts) for row in indices}
        assert [bool(row) for row in rows_of(texts)] == [place in mine for place in places]


def taught_loss(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    texts: Completions,
    *losses: tuple[str, dict[str, Any]],
) -> tuple[Tensor, TrainingModule]:
    """The loss of a step, as a training computes it."""
    batch = to_tensors(texts.batch(range(len(texts))), "cpu")
    specs: list[LossSpec] = [LOSS_ENTRIES.parse(name, body) for name, body in losses]
    objective = build_objective(specs, anatomy_of(student, batch), anatomy_of(teacher, batch), seed=0)
    module = TrainingModule(student, objective)
    module.train()
    answers = policy(student).with_teacher(from_model(teacher, objective.teacher_needs, "cpu"), no_signals)
    outputs = module(**batch).logits
    found = batch_loss(module, answers, np.zeros(2, np.int64))(outputs, batch, torch.arange(len(texts)))
    return found, module


def by_hand(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    texts: Completions,
    divergence: str,
    temperature: float,
) -> float:
    """The divergence before each token that was written, text by text and word by word, times T^2; the mean."""
    values = []
    for row, begun in zip(rows_of(texts), texts.starts.tolist(), strict=True):
        with torch.inference_mode():
            p, q = (
                (model(input_ids=torch.tensor([row])).logits[0].double() / temperature).softmax(-1).numpy()
                for model in (teacher, student)
            )
        for place in range(begun - 1, len(row) - 1):
            a, b = p[place], q[place]
            mixed = {"jsd": 0.5 * a + 0.5 * b, "skew": 0.1 * a + 0.9 * b, "skew_reverse": 0.9 * a + 0.1 * b}

            def kl(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
                return math.fsum(x * math.log(x / y) for x, y in zip(one, other, strict=True))

            values.append(
                {
                    "forward": lambda a=a, b=b: kl(a, b),
                    "reverse": lambda a=a, b=b: kl(b, a),
                    "jsd": lambda a=a, b=b, m=mixed["jsd"]: 0.5 * kl(a, m) + 0.5 * kl(b, m),
                    "skew": lambda a=a, m=mixed["skew"]: kl(a, m),
                    "skew_reverse": lambda b=b, m=mixed["skew_reverse"]: kl(b, m),
                }[divergence]()
            )
    return temperature**2 * math.fsum(values) / len(values)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_loss_is_that_of_the_tokens_that_were_written(
    student: PreTrainedModel, teacher: PreTrainedModel, divergence: str
) -> None:
    texts = written_at(policy(student, temperature=3.0, batch_size=5), 0)
    assert len({len(row) for row in rows_of(texts)}) > 1
    logits = {"temperature": 1.5, "divergence": divergence, "top_k": "all"}
    found, _ = taught_loss(student, teacher, texts, ("logits", logits))
    assert found.item() == pytest.approx(by_hand(student, teacher, texts, divergence, 1.5), rel=1e-4)


FAULTS: dict[str, Callable[[Completions, dict[str, NDArray[Any]]], NDArray[Any]]] = {
    "the prompt too": lambda texts, batch: batch["attention_mask"],
    "padding too": lambda texts, batch: (batch["attention_mask"] == 0) | (batch[LOSS_MASK] == 1),
    "not the end": lambda texts, batch: batch[LOSS_MASK] * (batch["input_ids"] != END),
    "one too early": lambda texts, batch: np.roll(batch[LOSS_MASK], -1, 1),
    "one too late": lambda texts, batch: np.roll(batch[LOSS_MASK], 1, 1) * batch["attention_mask"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mask_that_is_wrong_gives_another_loss(
    student: PreTrainedModel, teacher: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """What the hand-computed loss is compared with would not go unseen."""
    rows = [[5, 7, 11, 90, 91, 92], [17, 19, 93, END], [23, END, 29, 94, 95]]
    begun = np.array([3, 2, 3])
    texts = Completions(
        [np.array(row, np.int32) for row in rows],
        NAMES,
        END,
        starts=begun,
        completion_lengths=np.array([3, 2, 2]),
    )
    right = Completions.batch

    def wrong(self: Completions, indices: Any) -> Any:
        batch = right(self, indices)
        return {**batch, LOSS_MASK: FAULTS[fault](self, batch).astype(np.int64)}

    monkeypatch.setattr(Completions, "batch", wrong)
    found, _ = taught_loss(student, teacher, texts, ("logits", {"temperature": 1, "top_k": "all"}))
    assert found.item() != pytest.approx(by_hand(student, teacher, texts, "forward", 1.0), rel=1e-3)


def test_of_its_own_texts_the_teacher_alone_teaches(
    student: PreTrainedModel, teacher: PreTrainedModel
) -> None:
    """No token that it wrote is the right one: `next_token` says nothing there; what lies inside is compared."""
    texts = written_at(policy(student), 0)
    logits = ("logits", {"temperature": 1, "weight": 0.9})
    alone, _ = taught_loss(student, teacher, texts, logits)
    both, module = taught_loss(student, teacher, texts, logits, ("next_token", {"weight": 0.1}))
    assert both.item() == alone.item()
    assert set(module.objective.last_losses) == {"logits"}
    inside, module = taught_loss(student, teacher, texts, logits, ("hidden", {}))
    assert set(module.objective.last_losses) == {"logits", "hidden"}
    assert inside.item() == pytest.approx(alone.item() + module.objective.last_losses["hidden"], rel=1e-5)


def test_a_teacher_with_other_words_is_refused(tmp_path: Path) -> None:
    for name, words in {
        "student": ["a", "b"],
        "same": ["a", "b", "c"],
        "other": ["a", "c"],
        "few": ["a"],
    }.items():
        (tmp_path / name).mkdir()
        vocab = {word: number for number, word in enumerate(words)}
        write_json(tmp_path / name / "tokenizer.json", {"model": {"type": "BPE", "vocab": vocab}})
    check_same_vocabulary(tmp_path / "student", [("teacher", tmp_path / "same")])
    for name, other in {"other": "'c'", "few": "None"}.items():
        with pytest.raises(ModelError) as raised:
            check_same_vocabulary(
                tmp_path / "student", [("first", tmp_path / "same"), ("teacher", tmp_path / name)]
            )
        assert raised.value.message == (
            f"student and teacher have different tokenizers: 1 is 'b' for one and {other} for the other, so teacher "
            "cannot judge what the student writes"
        )
        assert raised.value.hint == (
            "Use a student with the teacher's tokenizer, or let the teacher write what the student learns: `sequence` "
            "with `next_token` as its only loss."
        )


def test_the_report_tells_what_it_wrote_and_shows_some_of_it() -> None:
    told = {
        "steps": 30,
        "answers": 960,
        "tokens": 12000,
        "ended": 720,
        "seconds": 61.0,
        "teacher_seconds": 7.0,
    }
    stages = [
        {"name": "distill, data", "steps": 50},
        {"name": "distill, own", "steps": 60, "own_texts": told},
    ]
    samples = tuple(
        Sample.model_validate({"by": by, "why": "step 2", "prompt": "1+1", "answer": f"{by}'s"})
        for by in ("teacher", "student")
    )
    run = change_step(bert_run(), "distill", facts={"stages": stages}, samples=samples)
    section = own_texts(run)
    assert section.title == "What the student wrote"
    counted, shown = [
        [tuple(cell.text for cell in row.cells) for row in table.rows] for table in section.tables
    ]
    assert counted == [
        ("distill", "distill, own", "30 of 60", "960", "12,000", "75.0 %", "1 min 1 s", "7.0 s")
    ]
    assert shown == [("distill", "step 2", "1+1", "student's")]
    assert own_texts(bert_run()).tables == ()


# Whole teachings.

KINDS: dict[str, dict[str, Any]] = {
    "texts": {},
    "prompts": {"prompt_column": "p", "completion_column": "c"},
    "messages": {"messages_column": "m"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    said: dict[str, Any] = {"chat_template": CHATML, "pad_id": 1, "end_id": 1}
    artifact, task, data = taught(tmp_path_factory.mktemp("model"), 128, 0, **said)
    return artifact, task, replace(data, train=data.train.take(np.arange(16)))


def item(kind: str, text: str) -> str:
    prompt, completion = text[:9], text[9:]
    if kind == "prompts":
        return json.dumps({"prompt": prompt, "completion": completion})
    said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return json.dumps(said) if kind == "messages" else text


def prepared(folder: Path, model: Taught, kind: str = "prompts", **changes: Any) -> StepContext:
    artifact, _, data = model
    max_length = 128 if kind == "messages" else 48
    task = CausalLanguageModel(
        LanguageData.model_validate({"path": "x.jsonl", "max_length": max_length, **KINDS[kind]})
    )
    splits = {
        name: Examples([item(kind, text) for text in split.texts], split.labels)
        for name, split in {"train": data.train, "validation": data.validation.take(np.arange(2))}.items()
    }
    body = {
        "student": {"layers": 1},
        "losses": [{"logits": {"temperature": 1, "weight": 0.9}}, {"next_token": {"weight": 0.1}}],
        "on_policy": {"lambda": 0.5, "most": 5},
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        **changes,
    }
    if kind == "texts":
        body["on_policy"] = {"prompt_tokens": 6, **body["on_policy"]}
    roles = {"model": artifact, "teacher": artifact, "original": artifact, "teacher.1": artifact}
    roles["teacher.2"] = artifact
    return context(folder, DistillSpec.model_validate(body), roles, task, replace(data, **splits))


def run(ctx: StepContext) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The weights that a student is left with, and what is told of each stage."""
    result = distill.run(ctx)
    return dict(load_model(ctx.out).state_dict()), result.facts["stages"]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_those_of_the_data(tmp_path: Path, model: Taught, kind: str) -> None:
    ctx = prepared(tmp_path, model, kind)
    _, (stage,) = run(ctx)
    told = stage["own_texts"]
    # Three of the texts begin as others do.
    answers = 13 if kind == "texts" else 16
    assert (told["steps"], told["answers"], stage["steps"]) == (2, answers, 4)
    assert answers <= told["tokens"] <= 5 * answers
    assert told["teacher_seconds"] > 0
    samples = json.loads((ctx.out / SAMPLES).read_text())["samples"]
    assert [one["why"].split(",")[0] for one in samples] == ["step 2", "step 4"]
    texts = list(model[2].train.texts)
    for one in samples:
        assert one["by"] == "student"
        if kind == "messages":
            assert one["prompt"].endswith("assistant\n")
        else:
            size = 9 if kind == "prompts" else 6
            assert one["prompt"] in {text[:size] for text in texts}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teaching_that_was_killed_gives_the_same_weights_and_tells_the_same(
    tmp_path: Path, model: Taught, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    keys = {"epochs": 4, "dropout": 0.1, "on_policy": {"lambda": 0.6, "most": 5}}
    whole = replace(prepared(tmp_path / "whole", model, **keys), precision=precision)
    expected, (stage,) = run(whole)
    monkeypatch.setitem(train.__kwdefaults__, "checkpoint_seconds", 0.0)
    ctx = replace(prepared(tmp_path / "killed", model, **keys), precision=precision)
    right = OnPolicy.at

    def dying(self: OnPolicy, step: int) -> Completions | None:
        found = right(self, step)
        if step == 5:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(OnPolicy, "at", dying)
    with pytest.raises(KeyboardInterrupt):
        distill.run(ctx)
    monkeypatch.setattr(OnPolicy, "at", right)
    found, (again,) = run(ctx)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for key in ("steps", "answers", "tokens", "ended"):
        assert again["own_texts"][key] == stage["own_texts"][key]
    assert (ctx.out / SAMPLES).read_text() == (whole.out / SAMPLES).read_text()


def test_what_can_be_kept_of_a_teacher_is_kept(
    tmp_path: Path, model: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the steps of the data show each text once or more; what is learnt is the same."""

    def cached(name: str, **changes: Any) -> tuple[bool, dict[str, Tensor]]:
        ctx = prepared(tmp_path / name, model, **changes)
        found, _ = run(ctx)
        return any(ctx.shared.rglob("*.bin")), found

    there, kept = cached("kept")
    assert there
    assert not cached("rare", on_policy={"lambda": 0.75, "most": 5})[0]
    assert not cached("all", losses=[{"logits": {"temperature": 1, "top_k": "all"}}])[0]
    monkeypatch.setattr(
        "compress.passes.distill.teaching._Distillation._runs_teacher_live", lambda *given: True
    )
    there, along = cached("along")
    assert not there
    for name, tensor in along.items():
        torch.testing.assert_close(kept[name], tensor, atol=1e-4, rtol=1e-3)


WAYS: tuple[tuple[dict[str, Any], list[int]], ...] = (
    ({"teachers": [{"weight": 2}, {"model": "elsewhere"}]}, [2]),
    ({"select": {"confidence": 0.001}}, [2]),
    ({"generations": 2}, [2]),
    ({"accumulate": 3, "gradient_checkpointing": True}, [2]),
    (
        {
            "losses": [{"logits": {}}, {"hidden": {}}, {"attention": {}}],
            "on_policy": {"lambda": 1, "most": 3},
        },
        [4],
    ),
    (
        {
            "on_policy": None,
            "stages": [
                {"losses": [{"next_token": {}}], "epochs": 1},
                {"losses": [{"logits": {"divergence": "reverse"}}], "on_policy": {"lambda": 1, "most": 3}},
            ],
        },
        [0, 4],
    ),
    (
        {
            "stages": [
                {"losses": [{"next_token": {}}], "epochs": 1, "on_policy": False},
                {"losses": [{"logits": {"divergence": "jsd"}}]},
            ]
        },
        [0, 2],
    ),
)


@pytest.mark.parametrize(("way", "steps"), WAYS, ids=str)
def test_it_goes_with_other_ways_of_teaching(
    tmp_path: Path, model: Taught, way: dict[str, Any], steps: list[int]
) -> None:
    ctx = prepared(tmp_path, model, **way)
    _, stages = run(ctx)
    assert [stage.get("own_texts", {"steps": 0})["steps"] for stage in stages] == steps


def test_where_no_prompt_has_room_nothing_is_trained(tmp_path: Path, model: Taught) -> None:
    with pytest.raises(PassError, match="none of the 16 prompts leaves room for an answer") as raised:
        run(prepared(tmp_path, model, on_policy={"most": 47}))
    assert raised.value.where == "on_policy.most"
    assert raised.value.hint == "Lower `on_policy.most`, or raise `data.max_length`."
