"""A table of malformed profiles: each fault with its line and its exact message, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from compress.cli.root import main
from compress.core.errors import ProfileError
from compress.profile.load import load_profile

GOOD = """\
name: job
task: text-classification
data:
  path: data.csv
teacher:
  model: owner/model
passes:
  - distill: {epochs: 1}
  - quantize: {bits: 8}
  - export: {}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text("text,label\nhello,a\n")
    return tmp_path


def faults_of(folder: Path, text: str | bytes, *assignments: str) -> list[str]:
    file = folder / "p.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ProfileError) as caught:
        load_profile(file, assignments)
    assert caught.value.exit_code == 2
    return [str(fault).replace(f"{file}", "p.yaml") for fault in caught.value.faults]


def test_the_good_one_is_good(folder: Path):
    (folder / "p.yaml").write_text(GOOD)
    assert load_profile(folder / "p.yaml").profile.specs[0].kind == "distill"


MALFORMED = [
    ("", ["p.yaml:1: the profile is empty; `compress init` writes one"]),
    ("- a\n- b\n", ["p.yaml:1: expected keys such as `name:` and `passes:`"]),
    ("name: [a\n", ["p.yaml:2: not YAML: expected ',' or ']', but got '<stream end>'"]),
    (b"name: \xff\xfe\n", ["p.yaml: not UTF-8 text"]),
    (
        GOOD.replace("export: {}", "export: {formats: [gguf]}"),
        [
            "p.yaml:10: passes.2.export.formats: gguf is a format for language models, not for text-classification"
        ],
    ),
    (GOOD + "name: again\n", ["p.yaml:11: name: duplicate key; first on line 1"]),
    (GOOD + "1: x\n", ["p.yaml:11: a key must be a word"]),
    (
        GOOD.replace("name: job", "name: a b"),
        ["p.yaml:1: name: string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$', not 'a b'"],
    ),
    (GOOD.replace("name: job\n", ""), ["p.yaml:1: name: missing, and it is required"]),
    (
        GOOD.replace("text-classification", "text-clasification"),
        [
            "p.yaml:2: task: 'text-clasification' is not one of text-classification, image-classification, "
            "sentence-embedding, causal-lm; did you mean 'text-classification'?"
        ],
    ),
    (GOOD.replace("data:\n  path: data.csv\n", ""), ["p.yaml:1: data: missing, and it is required"]),
    (GOOD.replace("data.csv", "nowhere.csv"), ["p.yaml:4: data.path: there is no {folder}/nowhere.csv"]),
    (
        GOOD.replace("path: data.csv", "path: package://no_such_thing/x"),
        ["p.yaml:4: data.path: no package 'no_such_thing' is installed in this Python"],
    ),
    (
        GOOD.replace("owner/model", "package://torch/../etc"),
        ["p.yaml:6: teacher.model: expected `package://name/folder`, with a folder inside the package"],
    ),
    (
        GOOD.replace("owner/model", "python:os"),
        ["p.yaml:6: teacher.model: expected `python:module:function`"],
    ),
    (
        GOOD.replace("epochs: 1", "epoch: 1"),
        ["p.yaml:8: passes.0.distill.epoch: unknown key; did you mean `epochs`?"],
    ),
    (
        GOOD.replace("epochs: 1", "epochs: yes"),
        ["p.yaml:8: passes.0.distill.epochs: expected a number or a word, not true"],
    ),
    (
        GOOD.replace("epochs: 1", "epochs: -1"),
        ["p.yaml:8: passes.0.distill.epochs: should be greater than 0, not -1"],
    ),
    (
        GOOD.replace("epochs: 1", "learning_rate: .nan"),
        ["p.yaml:8: passes.0.distill.learning_rate: should be a finite number, not nan"],
    ),
    (
        GOOD.replace("epochs: 1", "losses: []"),
        [
            "p.yaml:8: passes.0.distill.losses: tuple should have at least 1 item after validation, not 0, not []"
        ],
    ),
    (
        GOOD.replace("epochs: 1", "losses: [{logit: {}}]"),
        ["p.yaml:8: passes.0.distill.losses.0: unknown name 'logit'; did you mean `logits`?"],
    ),
    (
        GOOD.replace("epochs: 1", "vocabulary: {margn: 2}"),
        ["p.yaml:8: passes.0.distill.vocabulary.margn: unknown key; did you mean `margin`?"],
    ),
    (
        GOOD.replace("- quantize", "- quantise"),
        ["p.yaml:9: passes.1: unknown name 'quantise'; did you mean `quantize`?"],
    ),
    (
        GOOD.replace("bits: 8", "bits: 4, smooth: true, bias_correction: true"),
        ["p.yaml:9: passes.1.quantize: smooth and bias_correction serve 8 bits only; this is `bits: 4`"],
    ),
    (
        GOOD.replace("bits: 8", "bits: 4, method: awq, train: {epochs: 1}"),
        [
            "p.yaml:9: passes.1.quantize: `method: awq` moves scales between layers, but in the model that "
            "`train` runs they are not moved; use `gptq`, `hqq` or `rtn`"
        ],
    ),
    (
        GOOD.replace("bits: 8", "bits: 16, train: {epochs: 1}"),
        ["p.yaml:9: passes.1.quantize: train serves 4 and 8 bits only; this is `bits: 16`"],
    ),
    (
        GOOD.replace("bits: 8", "train: {epochs: 1}, smooth: true, equalize: true, bias_correction: true"),
        [
            "p.yaml:9: passes.1.quantize: smooth and equalize and bias_correction would change the weights that "
            "`train` has fitted to their rounding"
        ],
    ),
    (
        GOOD.replace("bits: 8", "train: {learning_rat: 1.0e-3}"),
        ["p.yaml:9: passes.1.quantize.train.learning_rat: unknown key; did you mean `learning_rate`?"],
    ),
    (
        GOOD.replace("bits: 8", "format: qdq, scheme: dynamic"),
        [
            "p.yaml:9: passes.1.quantize: `format: qdq` stores calibrated ranges, "
            "but `scheme: dynamic` has none"
        ],
    ),
    (
        GOOD.replace("bits: 8", "bits: 7"),
        [
            "p.yaml:9: passes.1.quantize: `bits` must be 4, 8 or 16, and `library` onnxruntime or bitsandbytes, "
            "not {'bits': 7}"
        ],
    ),
    (
        GOOD.replace("bits: 8", "scheme: dynamc"),
        [
            "p.yaml:9: passes.1.quantize.scheme: 'dynamc' is not one of auto, dynamic, static; did you mean 'dynamic'?"
        ],
    ),
    (
        GOOD.replace("- export: {}", "- {export: {}, prune: {}}"),
        [
            "p.yaml:10: passes.2: expected one entry of the form `name: {...}` with a name of: distill, prune, "
            "low_rank, quantize, export"
        ],
    ),
    (
        GOOD.replace("- export: {}", "- prune:"),
        [
            "p.yaml:10: passes.2.prune: give exactly one of `remove` (what to remove) and `target` (what to reach)",
        ],
    ),
    (
        GOOD.replace("bits: 8", "bits: 8}\n  - prune: {remove: {feed_forward: 0}"),
        [
            "p.yaml:10: passes.2.prune: needs a float torch model, but passes.1.quantize gives a model that is "
            "onnx operator",
            "p.yaml:10: passes.2.prune.remove: nothing to remove: all fractions are 0 and the vocabulary is kept",
        ],
    ),
    (
        GOOD[: GOOD.index("passes:")] + "passes: []\n",
        ["p.yaml:7: passes: tuple should have at least 1 item after validation, not 0, not []"],
    ),
    (
        GOOD + "targets: [{device: gpu}]\n",
        [
            "p.yaml:11: targets.0.device: 'gpu' is not one of cpu, cuda, ssh://user@host[:port]; did you mean 'cpu'?"
        ],
    ),
    (
        GOOD + "targets: [{threads: 0}]\n",
        ["p.yaml:11: targets.0.threads: should be greater than or equal to 1, not 0"],
    ),
    (
        GOOD + "targets: [{runtime: torch}]\n",
        [
            "p.yaml:11: targets.0.runtime: torch cannot run the ONNX files that the passes end with; use onnxruntime"
        ],
    ),
    (
        GOOD + "targets: [{}, {}]\n",
        ["p.yaml:1: two targets are called 'cpu-onnxruntime-1t'; give each a `name`"],
    ),
    (
        GOOD + "budget: {retension: 0.9}\n",
        ["p.yaml:11: budget.retension: unknown key; did you mean `retention`?"],
    ),
    (GOOD + "budgt: {}\n", ["p.yaml:11: budgt: unknown key; did you mean `budget`?"]),
    (GOOD + "seed: -1\n", ["p.yaml:11: seed: should be greater than or equal to 0, not -1"]),
]


@pytest.mark.parametrize(("text", "expected"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_profile(folder: Path, text: str | bytes, expected: list[str]):
    assert sorted(faults_of(folder, text)) == sorted(
        line.format(folder=folder) if "{folder}" in line else line for line in expected
    )


OF_EIGHT = (
    "8-bit weights are rounded to nearest; `bias_correction`, `smooth` or `train` reduce the loss, "
    "and `scheme: weight_only` offers methods"
)
OF_DYNAMIC = "with `scheme: dynamic` ranges are determined at run time"
OF_FOUR = (
    "4-bit weights have no activation ranges; `method` and `symmetric` of `quantize` set how they are made"
)
IDLE = [
    ("method: awq", f"method serves 4 bits only: {OF_EIGHT}"),
    ("method: gptq", f"method serves 4 bits only: {OF_EIGHT}"),
    (
        "bits: 8, method: gptq, activation_order: false",
        f"method and activation_order serve 4 bits only: {OF_EIGHT}",
    ),
    ("activation_order: true", f"activation_order serves 4 bits only: {OF_EIGHT}"),
    (
        "embeddings: 4, block_size: 16",
        "block_size serves 4 bits only: 8-bit weights have a scale per output (`per_channel`), and embedding tables "
        "have their own blocks; with `scheme: weight_only` all weights have blocks",
    ),
    (
        "symmetric: false",
        "symmetric serves 4 bits only: 8-bit weights are always symmetric; `calibration.symmetric` is for "
        "activations, and `scheme: weight_only` has zero points",
    ),
    (
        "bits: 4, scheme: static",
        "scheme serves 8 bits only: with 4-bit weights activations stay in floating point and have no ranges; "
        "leave it out, or use `bits: 8`",
    ),
    (
        "bits: 4, reduce_range: true",
        "reduce_range serves 8 bits only: products of 4-bit weights do not overflow; leave it out",
    ),
    (
        "bits: 4, per_channel: false",
        "per_channel serves 8 bits only: 4-bit weights have a scale per block; `block_size` sets its size",
    ),
    (
        "bits: 4, method: rtn, calibration: {examples: 9}",
        "calibration.examples serves `method: gptq` and `awq`, and `cache`: the others use only the weights",
    ),
    ("bits: 4, method: awq, activation_order: true", "activation_order serves `method: gptq` only"),
    (
        "scheme: dynamic, calibration: {method: mse}",
        f"calibration.method serves `scheme: static` or `auto`: {OF_DYNAMIC}",
    ),
    (
        "scheme: dynamic, smooth: true, calibration: {method: percentile, percentile: 99, examples: 9}",
        f"calibration.method and calibration.percentile serve `scheme: static` or `auto`: {OF_DYNAMIC}",
    ),
    (
        "scheme: dynamic, calibration: {examples: 9}",
        f"calibration.examples serves `scheme: static` or `auto`, `smooth` and `bias_correction`: {OF_DYNAMIC}",
    ),
    (
        "train: {}, calibration: {method: entropy}",
        "`calibration.method: entropy` would clip ranges differently from what `train` simulates; use `minmax`, or "
        "leave `train` out",
    ),
    (
        "library: bitsandbytes, double_quantization: false",
        "double_quantization is for 4 bits only: LLM.int8() has one scale per output and nothing to quantize twice; "
        "leave it out, or use `bits: 4`",
    ),
    (
        "library: bitsandbytes, numbers: fp4",
        "numbers is for 4 bits only: LLM.int8() stores integers; leave it out, or use `bits: 4`",
    ),
]


def test_a_cache_of_a_model_that_keeps_none_is_refused(folder: Path):
    (fault,) = faults_of(folder, GOOD.replace("bits: 8", "bits: 4, cache: 8"))
    assert fault.endswith(
        ": passes.1.quantize.cache: only language models have a key-value cache; leave it out"
    )


@pytest.mark.parametrize(("keys", "expected"), IDLE, ids=[keys for keys, _ in IDLE])
def test_a_key_that_nothing_would_read_is_refused(folder: Path, keys: str, expected: str):
    faults = faults_of(folder, GOOD.replace("bits: 8", keys))
    assert f"p.yaml:9: passes.1.quantize: {expected}" in faults


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("method: mse", f"method serves 8 bits only: {OF_FOUR}"),
        ("method: minmax, symmetric: true", f"method and symmetric serve 8 bits only: {OF_FOUR}"),
    ],
)
def test_weights_of_four_bits_are_not_calibrated(folder: Path, keys: str, expected: str):
    text = GOOD.replace("bits: 8", f"bits: 4, calibration: {{{keys}}}")
    assert faults_of(folder, text) == [f"p.yaml:9: passes.1.quantize.calibration: {expected}"]


def test_a_percentile_wants_its_method(folder: Path):
    text = GOOD.replace("bits: 8", "scheme: static, calibration: {percentile: 99}")
    assert faults_of(folder, text) == [
        "p.yaml:9: passes.1.quantize.calibration: percentile serves `method: percentile` only; this is `method: minmax`"
    ]


@pytest.mark.parametrize(
    "keys",
    [
        "bits: 8, scheme: dynamic, smooth: true, calibration: {examples: 9}",
        "bits: 8, scheme: dynamic, bias_correction: true, calibration: {examples: 9}",
        "bits: 8, calibration: {method: percentile, percentile: 99, symmetric: true}",
        "bits: 8, embeddings: 4, per_channel: false",
        "bits: 4, symmetric: false, block_size: 64",
        "bits: 4, method: awq, calibration: {examples: 9}",
        "bits: 4, activation_order: false, embeddings: 8",
        "bits: 8, train: {}, calibration: {method: minmax, symmetric: true}",
    ],
)
def test_a_key_that_is_read_is_taken(folder: Path, keys: str):
    (folder / "p.yaml").write_text(GOOD.replace("bits: 8", keys))
    assert load_profile(folder / "p.yaml").profile.specs[1].kind == "quantize"


def test_all_faults_are_reported_at_once_in_the_order_of_the_file(folder: Path):
    text = GOOD.replace("data.csv", "x.csv").replace("bits: 8", "bits: 3").replace("epochs: 1", "epoch: 1")
    assert [fault.split(":")[1] for fault in faults_of(folder, text)] == ["4", "8", "9"]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (
            "passes.0.distill.epochs",
            "--set passes.0.distill.epochs: expected `path=value`, as in `passes.0.distill.epochs=2`",
        ),
        (
            "passes.9.distill.epochs=1",
            "--set passes.9.distill.epochs=1: passes.9.distill.epochs: the profile has no "
            "'entry 9: the list has 3'",
        ),
        (
            "passes.0.distill.epochs=x",
            "--set passes.0.distill.epochs=x: passes.0.distill.epochs: should be a valid "
            "number, unable to parse string as a number, not 'x'",
        ),
        ("name.x=1", "--set name.x=1: name.x: the profile has no `x` below the value 'job'"),
    ],
)
def test_wrong_override(folder: Path, assignment: str, expected: str):
    assert [
        fault.replace("'entry 9: the list has 3'", "entry 9: the list has 3")
        for fault in faults_of(folder, GOOD, assignment)
    ] == [expected.replace("'entry 9: the list has 3'", "entry 9: the list has 3")]


def test_override_changes_the_value(folder: Path):
    (folder / "p.yaml").write_text(GOOD)
    loaded = load_profile(folder / "p.yaml", ("passes.0.distill.epochs=2.5", "budget.retention=0.9"))
    assert loaded.profile.specs[0].epochs == 2.5
    assert loaded.profile.budget.retention == 0.9


def test_nested_aliases_do_not_multiply(folder: Path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for this, before in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]\n"
    assert any("not a profile" in fault for fault in faults_of(folder, bomb))


def test_yaml_is_never_executed(folder: Path):
    faults = faults_of(folder, "name: !!python/object/apply:os.system ['touch hacked']\n")
    assert "could not determine a constructor" in faults[0]
    assert not Path("hacked").exists()


def test_the_command_prints_faults_and_exits_with_2(folder: Path):
    (folder / "p.yaml").write_text(GOOD.replace("bits: 8", "bits: 3"))
    rows = (f"text {i},{'ab'[i % 2]}" for i in range(9))
    (folder / "data.csv").write_text("\n".join(("text,label", *rows)))
    result = CliRunner().invoke(main, ["validate", str(folder / "p.yaml")])
    assert result.exit_code == 2
    assert result.stderr == (
        f"{folder}/p.yaml:9: passes.1.quantize: `bits` must be 4, 8 or 16, and `library` onnxruntime or "
        "bitsandbytes, not {'bits': 3}\n"
    )


def test_a_missing_profile_is_a_fault(tmp_path: Path):
    result = CliRunner().invoke(main, ["validate", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "cannot be read: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (
            ("passes.0.distill={epochs: -1}",),
            "--set passes.0.distill={epochs: -1}: passes.0.distill.epochs: should be greater than 0, not -1",
        ),
        (("nam.x=3",), "--set nam.x=3: nam: unknown key; did you mean `name`?"),
        (
            ("passes.0.distill.epochs=2", "passes.0.distill={epochs: -1}"),
            "--set passes.0.distill={epochs: -1}: passes.0.distill.epochs: should be greater than 0, not -1",
        ),
        (
            ("passes.0.distill={epochs: 2}", "passes.0.distill.epochs=-1"),
            "--set passes.0.distill.epochs=-1: passes.0.distill.epochs: should be greater than 0, not -1",
        ),
    ],
)
def test_a_fault_is_told_of_the_assignment_that_made_it(
    folder: Path, assignments: tuple[str, ...], expected: str
):
    assert faults_of(folder, GOOD, *assignments) == [expected]


def test_a_section_that_is_left_empty_has_its_defaults(folder: Path):
    text = (
        GOOD.replace("distill: {epochs: 1}", "distill:\n      augment:\n      seed:")
        .replace("  model: owner/model\n", "  model: owner/model\n  finetune:\n")
        .replace("  - quantize", "  - prune:\n      remove: {heads: 0.5}\n      recover:\n  - quantize")
    )
    (folder / "p.yaml").write_text(text)
    profile = load_profile(folder / "p.yaml").profile
    assert profile.teacher.finetune is not None
    distill, prune, *_ = profile.specs
    assert distill.augment is not None
    assert (distill.seed, distill.ema) == (None, None)
    assert prune.recover == type(prune)(remove={"heads": 0.5}).recover is not None
    (folder / "p.yaml").write_text(
        text.replace("recover:", "recover: null").replace("augment:", "augment: ~")
    )
    unset = load_profile(folder / "p.yaml", ("teacher.finetune=null",)).profile
    assert (unset.specs[0].augment, unset.specs[1].recover, unset.teacher.finetune) == (None, None, None)


def test_a_section_that_is_left_empty_lacks_what_it_requires(folder: Path):
    text = GOOD.replace("  path: data.csv\n", "  path: data.csv\n  unlabeled:\n")
    assert faults_of(folder, text) == [
        "p.yaml:5: data.unlabeled: name the examples with `path`, or let a model write texts with `generate`"
    ]


@pytest.mark.parametrize(
    ("assignment", "place"),
    [
        ("targets=[{batch_sizes: [true]}]", "targets.0.batch_sizes"),
        ("passes.0.distill.student={layers: [no, 1]}", "passes.0.distill.student.layers"),
        ("passes.0.distill.student={layers: []}", "passes.0.distill.student.layers"),
        ("train={rendezvous: 'a:1'}", "train"),
        ("data.image_column=photo", "data.image_column"),
        ("data.revision=main", "data.revision"),
        ("data.name=sst2", "data.name"),
        ("data.unlabeled={path: data.csv, name: sst2}", "data.unlabeled.name"),
        ("teacher={model: ., revision: main}", "teacher.revision"),
        ("passes.0.distill.student={model: ., revision: main}", "passes.0.distill.student.revision"),
        ("passes.0.distill.student={revision: main}", "passes.0.distill.student.revision"),
        ("passes.0.distill.student={model: owner/b, layers: 1}", "passes.0.distill.student.layers"),
        ("passes.0.distill.student={model: owner/b, from: scratch}", "passes.0.distill.student.from"),
        ("passes.0.distill.student={layers: [0, 1], choose: last}", "passes.0.distill.student.choose"),
        ("passes.0.distill.teachers=[{}, {finetune: {}}]", "passes.0.distill.teachers.1.finetune"),
        ("passes.0.distill.teachers=[{}, {labels: [a]}]", "passes.0.distill.teachers.1.labels"),
        (
            "passes.0.distill.teachers=[{}, {model: ., revision: main}]",
            "passes.0.distill.teachers.1.revision",
        ),
    ],
)
def test_what_nothing_would_read_is_refused(folder: Path, assignment: str, place: str):
    found = faults_of(folder, GOOD, assignment)
    assert [fault for fault in found if f"{assignment}: {place}: " in fault] == found[:1]


def test_a_commit_of_the_hub_is_taken(folder: Path):
    (folder / "p.yaml").write_text(GOOD)
    words = (
        "teacher.revision=main",
        "data={path: owner/data, name: sst2, revision: main}",
        "passes.0.distill.student={model: owner/b, revision: main}",
        "passes.0.distill.teachers=[{}, {model: owner/b, revision: main, finetune: {}}]",
    )
    assert load_profile(folder / "p.yaml", words).profile.teacher.revision == "main"
