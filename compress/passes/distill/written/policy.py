"""Set-up of on-policy generation: the prompts that the student answers, and the facts afterwards."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from compress.encoding.inputs import Inputs
from compress.generation.prompts import PromptCodec
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.lessons import SHOWN, no_room
from compress.profile.specs.writing import OnPolicySpec
from compress.step import StepContext
from compress.store.flat import Ragged, RaggedWriter
from compress.tasks.base import WritingTask
from compress.training.distributed.world import current_world
from compress.training.on_policy import OnPolicy, OnPolicySettings
from compress.training.trimming import tokens_of


def policy_of(
    ctx: StepContext, spec: DistillSpec, student: nn.Module, inputs: Inputs, seed: int
) -> OnPolicy | None:
    """Build the on-policy generation of a stage; None if the stage has none.

    Args:
        inputs: the data encoded for the student.

    Raises:
        DataError: a prompt has no tokens, or is a conversation and the student has no chat template.
        PassError: no prompt leaves room for an answer.
    """
    how = spec.on_policy
    if how is None:
        return None
    assert isinstance(student, PreTrainedModel)
    writer = PromptCodec(ctx.out)
    policy = OnPolicy(
        student,
        OnPolicySettings(
            share=how.share,
            prompts=_prompts(ctx, how, writer, spec.prompt_tokens),
            batch_size=spec.batch_size,
            most=how.most,
            ends=writer.ends,
            temperature=how.temperature,
            seed=seed,
        ),
        tokens_of(inputs),
        parts=spec.accumulate,
        world=current_world(),
        precision=ctx.precision,
        device=ctx.device,
        said=writer.text,
    )
    ctx.progress.say(
        f"in {how.share:.0%} of the steps the student writes and the teacher judges it on the fly: this cannot be "
        "cached"
    )
    return policy


def _prompts(ctx: StepContext, how: OnPolicySpec, writer: PromptCodec, beginning: int) -> Ragged:
    """Return the prompts of the training split that leave room for an answer, each once, as tokens."""
    task, room = cast(WritingTask, ctx.task), ctx.task.data.max_length - how.most
    found, known, long = RaggedWriter(), set[bytes](), 0
    for item in ctx.data.train.items:
        prompt, _ = task.question(item, lambda text: writer.beginning(text, beginning))
        tokens = writer.tokens(prompt)
        if len(tokens) > room:
            long += 1
        elif (key := str(tokens).encode()) not in known:
            known.add(key)
            found.add([tokens])
    if not known:
        raise no_room(long, "on_policy.most")
    return found.finish()


def told(policy: OnPolicy) -> tuple[dict[str, Any], tuple[dict[str, str], ...]]:
    """Return the statistics of the student's texts, and samples."""
    facts = dict(policy.told)
    samples = tuple(
        {
            "by": "student",
            "why": f"step {one['step']}" + ("" if one["ended"] else ", cut at the length"),
            # The question is usually at the end of a prompt.
            "prompt": one["prompt"][-SHOWN:],
            "answer": one["answer"][:SHOWN],
        }
        for one in facts.pop("samples")
    )
    return facts, samples
