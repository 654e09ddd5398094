"""Set-up of on-policy generation: the prompts that the student answers, and the facts afterwards."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from compress.encoding.inputs import Inputs
from compress.generation.prompts import PromptCodec
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.lessons import MAX_SAMPLE_CHARS, no_room_error
from compress.profile.specs.writing import OnPolicySpec
from compress.step import StepContext
from compress.store.flat import Ragged, RaggedWriter
from compress.tasks.base import GenerativeTask
from compress.training.distributed.world import current_world
from compress.training.on_policy import OnPolicy, OnPolicySettings
from compress.training.trimming import as_token_inputs


def build_policy(
    ctx: StepContext, spec: DistillSpec, student: nn.Module, inputs: Inputs, seed: int
) -> OnPolicy | None:
    """Build the on-policy generation of a stage; None if the stage has none.

    Args:
        inputs: the data encoded for the student.

    Raises:
        DataError: a prompt has no tokens, or is a conversation and the student has no chat template.
        PassError: no prompt leaves room for an answer.
    """
    settings = spec.on_policy
    if settings is None:
        return None
    assert isinstance(student, PreTrainedModel)
    writer = PromptCodec(ctx.out)
    policy = OnPolicy(
        student,
        OnPolicySettings(
            share=settings.share,
            prompts=_prompts(ctx, settings, writer, spec.prompt_tokens),
            batch_size=spec.batch_size,
            most=settings.most,
            ends=writer.end_ids,
            temperature=settings.temperature,
            seed=seed,
        ),
        as_token_inputs(inputs),
        parts=spec.accumulate,
        world=current_world(),
        precision=ctx.precision,
        device=ctx.device,
        decode=writer.decode,
    )
    ctx.progress.say(
        f"in {settings.share:.0%} of the steps the student writes and the teacher judges it on the fly: this cannot be "
        "cached"
    )
    return policy


def _prompts(ctx: StepContext, settings: OnPolicySpec, writer: PromptCodec, max_plain_tokens: int) -> Ragged:
    """Return the prompts of the training split that leave room for an answer, each once, as tokens."""
    task, max_prompt_tokens = cast(GenerativeTask, ctx.task), ctx.task.data.max_length - settings.most
    prompts, seen, num_too_long = RaggedWriter(), set[bytes](), 0
    for item in ctx.data.train.items:
        prompt, _ = task.split_prompt(item, lambda text: writer.truncate(text, max_plain_tokens))
        tokens = writer.encode_prompt(prompt)
        if len(tokens) > max_prompt_tokens:
            num_too_long += 1
        elif (key := str(tokens).encode()) not in seen:
            seen.add(key)
            prompts.add([tokens])
    if not seen:
        raise no_room_error(num_too_long, "on_policy.most")
    return prompts.finish()


def policy_facts(policy: OnPolicy) -> tuple[dict[str, Any], tuple[dict[str, str], ...]]:
    """Return the statistics of the student's texts, and samples."""
    facts = dict(policy.stats)
    samples = tuple(
        {
            "by": "student",
            "why": f"step {sample['step']}" + ("" if sample["ended"] else ", cut at the length"),
            # The question is usually at the end of a prompt.
            "prompt": sample["prompt"][-MAX_SAMPLE_CHARS:],
            "answer": sample["answer"][:MAX_SAMPLE_CHARS],
        }
        for sample in facts.pop("samples")
    )
    return facts, samples
