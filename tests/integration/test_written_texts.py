"""A student learns what its teacher writes: from a profile to a report, a card, and a run that was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compress import api
from compress.core.errors import PassError
from compress.core.progress import Advance, Silent
from compress.core.records import StepRecord
from compress.data.splits import UNLABELLED, Examples
from compress.encoding.inputs import LEARNT
from compress.generation.answers import Answer, read_answers
from compress.passes.distill import step as distill
from compress.passes.distill.lessons import Lessons, written_lessons
from compress.passes.distill.spec import DistillSpec
from compress.step import StepContext
from compress.tasks.causal_lm.documents import messages_item, prompt_item
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from tests.steps import context
from tests.tiny_language import CHATML, Taught, profile, taught, write_model

LICENSED = {"license": "apache-2.0", "license_ok": True}
SMALL = {"student": {"layers": 1}, "epochs": 1, "learning_rate": 3e-3, "batch_size": 16}
ANSWER = r"regex:#(\d+)"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Run]:
    """A run of two distillations: a student learns all that the teacher writes, and another what is right of it."""
    place = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COMPRESS_CACHE", str(place / "cache"))
        write_model(place / "model")
        sums = [(a, b) for a in range(9) for b in range(9)]
        rows = [{"ask": f"{a}+{b}", "say": f" {a} {b} #{a + b}"} for a, b in sums]
        (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"path": "sums.jsonl", "prompt_column": "ask", "completion_column": "say", "max_length": 24}
        plain = {**SMALL, "sequence": {"most": 12, **LICENSED}, "control": True}
        chosen = {
            **SMALL,
            "sequence": {"most": 12, "temperature": 1.0, **LICENSED},
            "rejection": {"candidates": 6, "validator": ANSWER},
            "reasoning": {"answer": ANSWER},
            "control": "answers_only",
        }
        body = profile(
            data=data,
            teacher={"model": "model", "finetune": {"epochs": 20, "learning_rate": 5e-3, "batch_size": 8}},
            passes=[{"distill": plain}, {"distill": chosen}, {"export": {"golden": 2}}],
        )
        (place / "p.yaml").write_text(yaml.safe_dump(body))
        yield api.run(place / "p.yaml", quiet=True)


def step_of(done: api.Run, name: str) -> StepRecord:
    return next(step for step in done.record.steps if step.step == name)


def test_the_answers_of_the_teacher_are_learnt(done: api.Run):
    step, control = step_of(done, "distill"), step_of(done, "distill.control")
    told = step.facts["written"]
    print(
        told,
        step.samples,
        step_of(done, "distill2").facts["written"],
        step_of(done, "distill2").samples,
        done.record.steps,
    )
    assert 0
