"""Runs and measured files side by side: the same teacher and the same machine are known again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.artifacts import ONNX_MODEL
from compress.core.records import RunRecord
from compress.core.terminal.progress import SilentProgress
from compress.engine.foreign.measuring import measure_files
from compress.engine.foreign.onnx_file import ModelSettings
from compress.engine.running import run_job
from compress.profile.measure_request import MeasureRequest
from compress.reporting.compare import compare, differences
from compress.reporting.data.frame import contract
from compress.reporting.data.report_reader import same_baseline
from compress.store.cache import Cache
from tests.made_jobs import made_job, profile_of
from tests.tiny_onnx import VOTES, write_embedder_artifact

TEXTS = [
    f"{first} {second} {third}" for first in VOTES for second in VOTES for third in ("red", "cat", "zebra")
]


def embedded_run(folder: Path, cache: Cache, **changes: Any) -> RunRecord:
    """A run whose teacher is the embedder, and whose quantized model is the same one."""
    (folder / "data.csv").write_text("\n".join(["text", *TEXTS]) + "\n")
    profile = profile_of(task="sentence-embedding", **changes)
    steps = dict.fromkeys(("source", "source.onnx", "quantize"), write_embedder_artifact)
    run, _ = run_job(
        made_job(folder, cache, profile, steps), cache, folder, SilentProgress(), lambda run, record: None
    )
    return run


def measured(model: Path, folder: Path, **changes: Any) -> RunRecord:
    """The measurement of a file, its own baseline, on the data of `embedded_run`."""
    profile = profile_of(task="sentence-embedding", **changes)
    sections = {key: getattr(profile, key) for key in ("task", "seed", "data", "targets", "measure")}
    request = MeasureRequest(name="measured", **sections)
    run, _ = measure_files(
        model, None, ModelSettings(), request, folder, folder, SilentProgress(), lambda run, record: None
    )
    return run


def test_a_run_and_a_measurement_against_its_teacher_compare(tmp_path: Path):
    cache = Cache(tmp_path / "cache")
    run = embedded_run(tmp_path, cache)
    alone = measured(
        cache.root / "artifacts" / "source.onnx" / ONNX_MODEL, tmp_path, targets=[{"batch_sizes": [1, 2]}]
    )
    assert run.steps[-1].measurements[0].accuracy.against == "baseline"
    assert run.steps[0].key != alone.steps[0].key
    one, two = (each.steps[0].measurements[0] for each in (run, alone))
    # Another batch size is another setting of the same machine.
    assert one.fingerprint != two.fingerprint
    assert one.machine == two.machine
    assert differences([run, alone]) == ()
    lines = {row.cells[0].text: row.cells[1:] for row in compare([run, alone]).deployed.rows}
    assert lines["score vs. the first run"][1].text == "no difference"
    assert same_baseline(contract(run), contract(alone))
    # Records of before models were named by what they are: nobody knows.
    unnamed = [
        one.model_copy(
            update={"steps": tuple(s.model_copy(update={"model_digest": None}) for s in one.steps)}
        )
        for one in (run, alone)
    ]
    assert "similarities of different teachers" in differences(unnamed)[0]
    assert differences([run, unnamed[0]]) == ()
