"""How many cores score a model: all of the target where a language model reads, as many as it is timed with else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.encoding.tokens import TokenInputs
from compress.measuring.jobs import Job, JobFolder
from compress.measuring.scoring import generate_answers, model_answers
from compress.profile.schema import TargetSpec
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Task
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.sentence_embedding.keys import SentenceData
from compress.tasks.sentence_embedding.task import SentenceEmbedding

WINDOW: dict[str, Any] = {"path": "x", "max_length": 4}


class Recording:
    """Runs nothing: remembers the jobs, and leaves outputs of zeros."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def run(self, bodies: Sequence[dict[str, Any]], purposes: Sequence[str]) -> list[dict[str, Any]]:
        self.bodies += bodies
        for body in bodies:
            if "outputs" in body:
                np.savez(body["outputs"], written=np.zeros((2, 3), np.int32))
        return [{"shape": [4], "refused": None, "examples": 2} for _ in bodies]


@pytest.mark.parametrize(
    ("task", "cores"),
    [
        (CausalLanguageModel(LanguageData.model_validate(WINDOW)), 6),
        (SentenceEmbedding(SentenceData.model_validate(WINDOW)), 2),
    ],
)
def test_language_models_are_scored_on_all_cores_and_nothing_else_is(
    task: Task, cores: int, tmp_path: Path
) -> None:
    recording = Recording()
    jobs = JobFolder(tmp_path, "onnxruntime", "cpu", 2, "here", recording, cores=6)
    inputs = TokenInputs([np.arange(4), np.arange(4)], ("input_ids", "attention_mask"), 0)
    beside = Job({"kind": "memory", "model": "m", "feeds": "f"}, "measuring the memory")
    model_answers(jobs, "m", inputs, 2, task, {}, [beside])
    scored, memory = recording.bodies
    assert (scored["kind"], scored["threads"]) == ("score", cores)
    assert (memory["kind"], memory["threads"]) == ("memory", 2)


def test_answers_are_written_on_all_cores_and_more_threads_than_cores_stay(tmp_path: Path) -> None:
    prompts = TokenInputs([np.arange(4), np.arange(4)], ("input_ids", "attention_mask"), 0)
    for cores, threads in ((6, 6), (1, 2)):
        recording = Recording()
        jobs = JobFolder(tmp_path, "onnxruntime", "cpu", 2, "here", recording, cores=cores)
        generate_answers(jobs, "m", prompts, {"most": 3})
        assert [body["threads"] for body in recording.bodies] == [threads]


def test_the_cores_of_a_target_are_those_it_is_pinned_to() -> None:
    described: dict[str, Any] = {"cpu": {"cores": 8}}
    assert ResolvedTarget(TargetSpec(), "here", "", described).cores == 8
    assert ResolvedTarget(TargetSpec(cores=(1, 5, 7)), "here", "", described).cores == 3
