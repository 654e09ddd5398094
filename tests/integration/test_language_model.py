"""A language model from its folder to a bundle that answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gguf import GGUFReader
from gguf.quants import quantize

from compress import api
from compress.bundles.manifest import write_manifest_metrics
from compress.bundles.web.folder import write_page
from compress.core.errors import UsageError
from compress.models.io.checkpoints import load_model
from compress.runtimes.decoding import Decoder, generate
from compress.runtimes.runner import CachedSession, open_session
from tests.tiny_language import WORDS, byte_tokenizer, profile, toy, write_model, write_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("language")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COMPRESS_CACHE", str(place / "cache"))
        write_model(place / "model")
        write_texts(place / "data")
        (place / "p.yaml").write_text(yaml.safe_dump(profile()))
        yield place


@pytest.fixture(scope="module")
def done(folder: Path) -> api.Run:
    return api.run(folder / "p.yaml", quiet=True)


def test_it_is_trained_scored_and_timed(done: api.Run, folder: Path):
    baseline = done.record.steps[0].measurements[0]
    metrics = {metric.name: metric.value for metric in baseline.accuracy.metrics}
    # A uniform guess over 260 tokens has a perplexity of 260; of letters of twelve words it is far lower.
    assert metrics["perplexity"] < 40
    # Every byte is a token, and the first one is not scored.
    assert metrics["bits_per_byte"] == pytest.approx(np.log2(metrics["perplexity"]), rel=1e-6)
    assert metrics["agreement"] == 1
    assert [latency.lengths for latency in baseline.latency] == ["write:16", "read:16"]
    assert done.status == "ok"
    text = (folder / "reports" / "tiny-lm" / "report.md").read_text()
    assert "Metrics specific to causal-lm" in text
    write, read = (latency.p50_ms for latency in baseline.latency)
    assert baseline.memory.lengths == "read:16 write:32"
    assert "Workload while memory was measured: read:16 write:32, in tokens." in text
    row = done.rows.iloc[0]
    assert row["load_ms"] > 0
    assert row["decode_tokens_per_s"] == pytest.approx(1000 / write)
    assert row["prefill_tokens_per_s"] == pytest.approx(16_000 / read)


def test_the_perplexity_is_that_of_torch(done: api.Run, folder: Path):
    trained = next(
        path.parent for path in (folder / "cache").rglob("model.safetensors") if _trained(path.parent)
    )
    model = load_model(trained)
    nats = tokens = 0.0
    for line in (folder / "data" / "test.jsonl").read_text().splitlines():
        ids = torch.tensor([[byte_id(letter) for letter in json.loads(line)["text"]]])
        # Windows of 64 tokens; each begins with the last token of the one before.
        for start in range(0, max(1, ids.shape[1] - 1), 63):
            window = ids[:, start : start + 64]
            with torch.no_grad():
                logs = model(window).logits[0, :-1].double().log_softmax(-1)
            nats -= float(logs.gather(1, window[0, 1:, None]).sum())
            tokens += window.shape[1] - 1
    measured = done.record.steps[0].measurements[0].accuracy.metrics[0].value
    assert measured == pytest.approx(np.exp(nats / tokens), rel=1e-4)


def byte_id(letter: str) -> int:
    return int(byte_tokenizer().encode(letter).ids[0])


def _trained(folder: Path) -> bool:
    return json.loads((folder / "artifact.json").read_text())["facts"].get("best_step") is not None


def test_a_bundle_answers_and_is_verified(done: api.Run):
    assert done.bundle is not None
    assert api.verify(done.bundle).problems == ()
    words = [sys.executable, str(done.bundle / "predict.py")]
    answers = [
        subprocess.run([*words, *more], capture_output=True, text=True, check=True).stdout
        for more in (
            ["the red", "--most", "12"],
            ["the red", "--most", "12", "--temperature", "1", "--seed", "1"],
            ["the red", "--most", "12", "--temperature", "1", "--seed", "1"],
            ["the red", "--most", "400", "--stop", " "],
            ["--chat", "hello", "--most", "6"],
        )
    ]
    assert answers[1] == answers[2]
    assert answers[0] != answers[1]
    assert " " not in answers[3]
    assert len(answers[4]) > 1
    assert json.loads((done.bundle / "task.json").read_text())["positions"] == 128


def test_its_weights_become_four_bits_and_the_bundle_answers(done: api.Run, folder: Path):
    passes = [
        {"quantize": {"bits": 4, "method": "gptq", "block_size": 16, "calibration": {"examples": 20}}},
        {"export": {"golden": 4}},
    ]
    (folder / "int4.yaml").write_text(yaml.safe_dump(profile(passes=passes)))
    found = api.run(folder / "int4.yaml", quiet=True)
    rows = found.rows.set_index("step")
    assert rows["score"]["quantize"] < 1.15 * rows["score"]["baseline"]
    assert rows["size_mb"]["quantize"] < 0.35 * rows["size_mb"]["baseline"]
    assert found.bundle is not None
    assert api.verify(found.bundle).problems == ()


MERGES = [("t", "h"), ("th", "e")]


def test_it_is_written_for_llama_cpp_and_genai_too(folder: Path):
    write_model(folder / "merging", MERGES)
    passes = [
        {"quantize": {"bits": 4, "method": "rtn"}},
        {"export": {"golden": 2, "formats": ["onnx", "gguf", "genai"], "gguf": "q4_0"}},
    ]
    changed = profile(name="gguf", teacher={"model": "merging"}, passes=passes)
    (folder / "gguf.yaml").write_text(yaml.safe_dump(changed))
    bundle = api.run(folder / "gguf.yaml", quiet=True).bundle
    assert bundle is not None
    assert api.verify(bundle).problems == ()
    read = GGUFReader(bundle / "model.gguf")
    # Of the weights before they became four bits, by llama.cpp's own rounding.
    weights = load_model(folder / "merging").state_dict()
    stored = {tensor.name: tensor for tensor in read.tensors}["blk.0.ffn_up.weight"]
    assert np.array_equal(stored.data, quantize(weights["model.layers.0.mlp.up_proj.weight"].numpy(), 2))
    assert read.fields["tokenizer.ggml.merges"].contents() == ["t h", "th e"]
    config = json.loads((bundle / "genai_config.json").read_text())
    assert config["model"]["decoder"]["filename"] == "genai.onnx"
    rows = json.loads((folder / "reports" / "gguf" / "report.json").read_text())["rows"]
    assert rows[-1]["size_mb"] == rows[-2]["size_mb"]
    facts = json.loads((bundle / "manifest.json").read_text())["facts"]["gguf"]
    assert facts["type"] == "q4_0"
    assert facts["tensors"] == {"q4_0": 14, "q8_0": 1, "f32": 5}


def test_answers_in_words_are_judged_and_held_against_the_baselines(folder: Path):
    rows = [{"prompt": f"the {word} {number}", "completion": word} for number, word in enumerate(WORDS * 3)]
    for split, part in (("train", rows[:8]), ("validation", rows[8:12]), ("test", rows[12:])):
        (folder / "asked").mkdir(exist_ok=True)
        (folder / "asked" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "judge.py").write_text("def even(prompt, expected, answer):\n    return len(answer) % 2 == 0\n")
    changed = profile(
        name="asked",
        data={
            "path": "asked",
            "max_length": 64,
            "prompt_column": "prompt",
            "completion_column": "completion",
            "answers": {"validator": "python:judge:even", "most": 12, "examples": 20},
        },
        passes=[{"quantize": {"bits": 4, "method": "rtn", "block_size": 16}}],
    )
    del changed["teacher"]["finetune"]
    (folder / "asked.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(UsageError, match="answers are judged by running Python code"):
        api.run(folder / "asked.yaml", quiet=True)
    found = api.run(folder / "asked.yaml", quiet=True, allow_code=True)
    first, last = (step.measurements[0].accuracy for step in (found.record.steps[0], found.record.steps[-1]))
    metrics = [{metric.name: metric for metric in one.metrics} for one in (first, last)]
    assert metrics[0]["divergence"].value == 0
    # Of the same tokens, and above 0 beyond its interval: rounding to 4 bits is seen.
    assert metrics[1]["divergence"].n == metrics[1]["perplexity"].n
    assert 0 < metrics[1]["divergence"].low <= metrics[1]["divergence"].value
    for one, values in zip((first, last), metrics, strict=True):
        assert one.written is not None
        assert len(one.written.answers) == values["right_answers"].n == 20
        assert list(one.written.right) == [len(answer) % 2 == 0 for answer in one.written.answers]
        assert values["right_answers"].value == np.mean(one.written.right)
    assert first.written.p_value is None
    assert last.written.p_value is not None
    assert last.written.prompts == first.written.prompts

    file = folder / "cache" / found.record.steps[-1].measured
    with pytest.raises(UsageError, match="answers are judged by running Python code"):
        api.measure(file, profile=folder / "asked.yaml", quiet=True)
    with pytest.raises(
        UsageError, match=r"the default length needs 160 tokens, but the model takes 128 at most"
    ):
        api.measure(file, profile=folder / "asked.yaml", targets=[{}], allow_code=True, quiet=True)
    again = api.measure(file, profile=folder / "asked.yaml", allow_code=True, quiet=True)
    written = again.record.steps[0].measurements[0].accuracy.written
    assert written is not None
    assert written.answers == last.written.answers
    for said, words in (
        ({"inputs": {"input_ids": "ids"}}, "--input input_ids=ids: this decoder was made by compress"),
        ({"output": "present.0.key"}, "--output present.0.key: this decoder"),
        ({"labels": ("a", "b")}, "--labels: causal-lm has none"),
    ):
        with pytest.raises(UsageError, match=words):
            api.measure(file, profile=folder / "asked.yaml", allow_code=True, quiet=True, **said)
    # What judges answers is a part of what was measured.
    (folder / "judge.py").write_text("def even(prompt, expected, answer):\n    return len(answer) % 2 == 1\n")
    otherwise = api.measure(file, profile=folder / "asked.yaml", allow_code=True, quiet=True)
    keys = [run.record.steps[0].measurements[0].key for run in (again, otherwise)]
    assert keys[0] != keys[1]
    assert again.record.run != otherwise.record.run
    session = CachedSession(
        open_session(str(folder / "cache" / found.record.steps[0].measured / "model.onnx"))
    )
    for prompt, answer in zip(first.written.prompts[:3], first.written.answers, strict=False):
        tokens = byte_tokenizer().encode(prompt, add_special_tokens=False).ids
        wanted = generate(Decoder(session, 64), [tokens], 12, (259,))[0]
        assert byte_tokenizer().decode([one for one in wanted if one != 259])[:240] == answer
    text = (folder / "reports" / "asked" / "report.md").read_text()
    assert "Generated answers" in text
    assert "p (McNemar)" in text


def test_its_page_chats(done: api.Run, installed: Path, tmp_path: Path):
    assert done.bundle is not None
    page = write_page(done.bundle, tmp_path / "web", installed).path
    names = {file.name for file in page.iterdir() if file.is_file()}
    scripts = {"page.mjs", "writing.mjs", "shell.mjs", "model.mjs", "start.js"}
    assert scripts <= names
    assert names.isdisjoint({"texts.mjs", "images.mjs", "predict.py"})
    described = json.loads((page / "page.json").read_text())
    assert described["writes"] is True
    assert described["positions"] == 128
    assert described["chat"]["asks"]["user"] == "<|im_end|>\n<|im_start|>assistant\n"
    assert '<ol id="talk"' in (page / "index.html").read_text()
    examples = json.loads((page / "check.json").read_text())["examples"]
    golden = json.loads((done.bundle / "golden.json").read_text())["examples"]
    for example, known in zip(examples, golden, strict=True):
        assert example["output"] == pytest.approx(known["outputs"], abs=1e-4)
        assert len(example["ids"]) == min(64, len(known["text"]))


def test_code_of_others_makes_no_page(done: api.Run, installed: Path, tmp_path: Path):
    assert done.bundle is not None
    theirs = Path(shutil.copytree(done.bundle, tmp_path / "bundle"))
    with (theirs / "predictor.py").open("a") as stream:
        stream.write("# theirs\n")
    write_manifest_metrics(theirs, {})
    with pytest.raises(UsageError) as raised:
        write_page(theirs, tmp_path / "web", installed)
    assert raised.value.code == "code-not-allowed"


LOW_RANK = {"low_rank": {"ratio": 0.5}}
GGUF = {"export": {"formats": ["onnx", "gguf"]}}
ADAPTED = {"model": "factored", "finetune": {"lora": {"rank": 4}}}
WIDE = {
    "config": {"model_type": "llama", "layers": 2, "hidden_size": 64, "heads": 4, "tokenizer": "model"},
    "finetune": {},
}
NARROW = {"student": {"layers": 2, "hidden_size": 33, "heads": 3}, "losses": [{"logits": {}}]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"passes": [{"export": {"formats": ["onnx", "gguf"]}}]}, "its tokenizer has no merges"),
        ({"passes": [{"export": {"gguf": "q4_0"}}]}, "add `gguf` to `formats`"),
        (
            {"passes": [{"distill": {"student": {"heads": 3}, "losses": [{"logits": {}}]}}]},
            "not a multiple of 2",
        ),
        (
            {"passes": [{"distill": {"student": {"hidden_size": 30}, "losses": [{"logits": {}}]}}]},
            "4 heads do not divide the width 30",
        ),
        (
            {"passes": [{"distill": {"student": {"basis": "embeddings"}, "losses": [{"logits": {}}]}}]},
            "largest on training examples",
        ),
        (
            {"passes": [{"distill": {"student": {"layers": 3}, "losses": [{"logits": {}}]}}]},
            "asks for 3 layers, but the teacher has 2",
        ),
        (
            {"passes": [{"distill": {"student": {"model": "model"}, "losses": [{"labels": {}}]}}]},
            "use next_token",
        ),
        ({"passes": [LOW_RANK, LOW_RANK]}, "passes.1.low_rank: needs a float torch model"),
        ({"passes": [LOW_RANK, GGUF]}, "a model without factored maps"),
        ({"teacher": ADAPTED, "passes": [GGUF]}, "a model without factored maps"),
        ({"teacher": ADAPTED}, "LoRA needs whole ones"),
        (
            {"teacher": ADAPTED, "passes": [LOW_RANK]},
            "the teacher gives a model that is torch float factored",
        ),
        (
            {"passes": [{"prune": {"remove": {"heads": 0.5}}}, {"prune": {"remove": {"heads": 0.4}}}]},
            "passes.1.prune.remove.heads: 0.4 of 1 heads is less than one head",
        ),
        (
            {"teacher": WIDE, "passes": [{"prune": {"remove": {"heads": 0.25}}}]},
            "remove.heads: 3 heads do not divide the width 64: of its 4 groups of heads 1 or 2 can be kept",
        ),
        (
            {"teacher": WIDE, "passes": [{"distill": NARROW}, {"prune": {"remove": {"heads": 0.34}}}]},
            "2 heads do not divide the width 33: of its 3 groups of heads 1 can be kept",
        ),
        ({"passes": [{"prune": {"target": {"ratio": 0.5}}}]}, "equally in each layer"),
        ({"passes": [{"prune": {"remove": {"vocabulary": "unused"}}}]}, "equally in each layer"),
        ({"passes": [{"prune": {"remove": {"heads": 0.5}, "scope": "global"}}]}, "equally in each layer"),
        ({"passes": [{"quantize": {"bits": 8, "train": {"epochs": 1}}}]}, "scheme: weight_only"),
        (
            {"passes": [{"quantize": {"bits": 8, "mixed": {"max_drop": 0.01}}}]},
            "quantize.mixed: a language model's outputs are too large",
        ),
        (
            {"passes": [{"quantize": {"bits": 4, "rotate": True, "train": {"epochs": 1}}}]},
            "leave one of them out",
        ),
        ({"data": {"path": "data", "max_length": 64, "labels": ["a"]}}, "no labels"),
    ],
)
def test_what_it_cannot_do_is_refused_before_any_work(folder: Path, changed: dict, words: str):
    shutil.copytree(folder / "model", folder / "factored", dirs_exist_ok=True)
    (folder / "factored" / "structure.json").write_text(json.dumps({"factors": []}))
    (folder / "bad.yaml").write_text(yaml.safe_dump(profile(**changed)))
    faults = api.validate(folder / "bad.yaml").faults
    assert any(words in str(fault) for fault in faults), faults


def test_a_student_of_the_same_tokenizer_learns_from_it(done: api.Run, folder: Path):
    losses = [
        {"logits": {"top_k": 16, "divergence": "jsd"}},
        {"next_token": {"weight": 0.1}},
        {"hidden": "cosine"},
    ]
    distill = {
        "student": {"model": "model"},
        "losses": losses,
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 3e-3,
    }
    (folder / "student.yaml").write_text(
        yaml.safe_dump(profile(name="student", passes=[{"distill": distill}]))
    )
    rows = api.run(folder / "student.yaml", quiet=True).rows
    assert rows["score"][1] < 100
    kept = [file for file in folder.rglob("top.16.*.bin") if file.stat().st_size]
    assert len(kept) == 1
    assert not list(folder.rglob("outputs.bin"))


def test_a_student_cut_out_of_it_begins_with_what_it_knows(done: api.Run, folder: Path):
    student = {"layers": 2, "intermediate_size": 48, "heads": 2, "hidden_size": 48}
    learns = {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3}
    losses = [{"logits": {"top_k": 16}}, {"next_token": {"weight": 0.1}}]
    passes = [{"distill": {"student": student, "losses": losses, **learns}}, {"export": {"golden": 2}}]
    (folder / "cut.yaml").write_text(yaml.safe_dump(profile(name="cut", passes=passes)))
    cut = api.run(folder / "cut.yaml", quiet=True)
    step = next(one for one in cut.record.steps if one.kind == "distill")
    assert step.facts["initialised_from"] == "teacher"
    assert step.facts["layers_from"] == [0, 1]
    assert cut.rows["parameters"][1] < 0.7 * cut.rows["parameters"][0]
    assert cut.rows["score"][1] < 60
    assert cut.bundle is not None
    assert api.verify(cut.bundle).problems == ()


@pytest.mark.slow
def test_two_teachers_are_averaged_and_asked_once(done: api.Run, folder: Path):
    for top_k, files in ((16, 1), ("all", 1)):
        distill = {
            "student": {"model": "model"},
            "teachers": [{"weight": 2}, {"model": "model"}],
            "losses": [{"logits": {"top_k": top_k, "divergence": "reverse"}}],
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 3e-3,
        }
        (folder / "two.yaml").write_text(yaml.safe_dump(profile(name="two", passes=[{"distill": distill}])))
        rows = api.run(folder / "two.yaml", quiet=True).rows
        assert rows["score"][1] < 150
        assert not list(folder.rglob("outputs.bin"))
        notes = [json.loads(file.read_text()) for file in folder.rglob("teacher.json")]
        assert sum("the mean of 2 teachers" in str(note) for note in notes) == files


def test_it_is_pruned_and_recovers_and_its_weights_become_four_bits(done: api.Run, folder: Path):
    prune = {
        "remove": {"layers": 0.5, "feed_forward": 0.5, "hidden": 0.25},
        "importance": "activation",
        "importance_batches": 2,
        "round_to": 16,
        "recover": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3},
    }
    passes = [{"prune": prune}, {"quantize": {"bits": 4, "block_size": 16, "rotate": True}}]
    (folder / "pruned.yaml").write_text(yaml.safe_dump(profile(name="pruned", passes=passes)))
    pruned = api.run(folder / "pruned.yaml", quiet=True)
    step = next(one for one in pruned.record.steps if one.kind == "prune")
    assert step.facts["layers"] == [
        {"heads": 4, "feed_forward": 48, "heads_removed": [], "feed_forward_removed": 48}
    ]
    assert step.facts["validation_score"] > step.facts["validation_score_before_recovery"]
    assert pruned.rows["parameters"][1] < pruned.rows["parameters"][0]
    assert pruned.rows["size_mb"][2] < pruned.rows["size_mb"][1]


@pytest.mark.slow
def test_what_is_refitted_starts_better(done: api.Run, folder: Path):
    score = dict[bool, float]()
    for refits in (False, True):
        prune = {"remove": {"layers": 0.5}, "importance_batches": 8, "recover": None, "reconstruct": refits}
        said = profile(name=f"refitted-{refits}", passes=[{"prune": prune}])
        (folder / "refitted.yaml").write_text(yaml.safe_dump(said))
        run = api.run(folder / "refitted.yaml", quiet=True)
        facts = next(one.facts for one in run.record.steps if one.kind == "prune")
        assert ("reconstructed" in facts) == refits
        score[refits] = facts["validation_score"]
    assert score[True] > score[False]


@pytest.mark.slow
def test_the_profile_that_prunes_and_teaches_again_runs_to_its_bundle(folder: Path):
    file = Path(__file__).parents[2] / "profiles" / "smollm_prune_distill.yaml"
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy(file)))
    done = api.run(folder / "toy.yaml", quiet=True)
    assert list(done.rows["step"]) == ["baseline", "prune", "quantize", "export"]
    pruned = next(one for one in done.record.steps if one.kind == "prune")
    assert pruned.facts["layers_kept"] in ([0], [1])
    assert pruned.facts["validation_score"] > pruned.facts["validation_score_before_recovery"]
    assert done.rows["size_mb"][2] < 0.5 * done.rows["size_mb"][1]
    assert done.bundle is not None
    assert api.verify(done.bundle).problems == ()


def test_a_model_is_trained_from_its_first_weights_on_and_so_is_its_student(folder: Path):
    config = {"model_type": "llama", "layers": 2, "hidden_size": 64, "tokenizer": {"vocabulary": 300}}
    student = {"architecture": "gpt2", "layers": 1, "hidden_size": 32}
    losses = [{"logits": {}}, {"next_token": {"weight": 0.1}}]
    learns = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
    passes = [{"distill": {"student": student, "losses": losses, **learns}}, {"export": {"golden": 2}}]
    teacher = {"config": config, "finetune": learns}
    (folder / "fresh.yaml").write_text(yaml.safe_dump(profile(name="fresh", teacher=teacher, passes=passes)))
    done = api.run(folder / "fresh.yaml", quiet=True)
    # Guesses among three hundred tokens have a perplexity of 300; there are twelve words.
    assert done.rows["score"][0] < 50
    assert done.rows["score"][1] < 120
    assert done.bundle is not None
    assert api.verify(done.bundle).problems == ()
    answer = [sys.executable, str(done.bundle / "predict.py"), "", "--most", "8"]
    assert subprocess.run(answer, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_four_bits_are_mixed_trained_and_shipped_with_a_cache_in_eight(folder: Path, done: api.Run):
    quantize = {
        "bits": 4,
        "embeddings": 8,
        "symmetric": False,
        "mixed": {"size_mb": 0.09, "tokens": 128},
        "cache": 8,
        "train": {"epochs": 1},
    }
    (folder / "four.yaml").write_text(
        yaml.safe_dump(profile(passes=[{"quantize": quantize}, {"export": {"golden": 4}}]))
    )
    run = api.run(folder / "four.yaml", quiet=True)
    assert run.status == "ok"
    step = next(step for step in run.record.steps if step.step == "quantize")
    assert step.facts["trained_scales"]["weights"] == 2 * 7
    assert {one["bits"] for one in step.facts["blocks"]} == {4, 8}
    measured = {metric.name: metric.value for metric in step.measurements[0].accuracy.metrics}
    assert measured["perplexity"] < 1.1 * run.record.steps[0].measurements[0].accuracy.metrics[0].value
    text = (folder / "reports" / "tiny-lm" / "report.md").read_text()
    assert "Rounding error of block-quantized weights" in text
    assert run.bundle is not None
    assert api.verify(run.bundle).problems == ()


@pytest.mark.slow
def test_eight_bits_are_chosen_by_the_perplexity_of_the_validation_split(folder: Path, done: api.Run):
    (folder / "eight.yaml").write_text(yaml.safe_dump(profile(passes=[{"quantize": {"bits": 8}}])))
    run = api.run(folder / "eight.yaml", quiet=True)
    step = next(step for step in run.record.steps if step.step == "quantize")
    finetuned = next(step for step in done.record.steps if "validation_score" in step.facts)
    found = step.facts["on_validation"]
    assert found["float"] == pytest.approx(finetuned.facts["validation_score"], rel=1e-3)
    assert found["plain"] in [one["score"] for one in step.facts["variants"].values()]
    text = (folder / "reports" / "tiny-lm" / "report.md").read_text()
    assert re.search(r"on_validation\.float \| \d", text)
