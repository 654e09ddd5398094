"""Properties of a checkpoint that would be lost by loading it as a plain model: found without loading anything.

`validate` checks every model that is on this machine; a run checks those of the hub once they are downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.core.artifacts import ENSEMBLE
from compress.profile.model_checks.adapters import ADAPTER, ADAPTER_WEIGHTS, PICKLED_WEIGHTS, adapter_problems
from compress.profile.model_checks.files import ModelFiles, header
from compress.profile.model_checks.problem import Problem, ProblemAt
from compress.profile.model_checks.settings import FETCHING_CODE, QUANTIZED_CODE, fetching_settings
from compress.profile.model_checks.sizes import impossible_sizes
from compress.profile.model_checks.tokenizers import tokenizer_problems
from compress.profile.schema import Profile
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import task_kind

_QUANTIZED_DTYPES = frozenset(
    {"I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F4", "I4", "U4"}
)
"""safetensors dtypes of packed or quantized weights."""
_ADAPTER_MARKS = ("lora_", ".adapter", "adapters.", "prompt_embeddings", "ia3_")
"""Substrings of the names of weights that adapter libraries add to a transformers model."""
_PREPROCESSING_FILES = ("preprocessor_config.json", "processor_config.json", "task.json")


def checkpoint_faults(profile: Profile, files: ModelFiles) -> list[ProblemAt]:
    """Return the problems of every model of a valid profile that is on this machine."""
    found = []
    for path, source, uses_head in _used_models(profile):
        folder = files.folder(source)
        if folder is not None and folder.is_dir():
            found += [
                (path, problem)
                for problem in (
                    *checkpoint_problems(folder, profile.task, files, uses_head=uses_head),
                    *_undeclared_preprocessing(folder, profile, uses_head),
                )
            ]
    if (adapter := profile.teacher.adapter) is not None:
        config = files.config(profile.teacher.model)
        found += [
            (("teacher", "adapter"), problem)
            for problem in adapter_problems(files.folder(adapter), config or {}, files)
        ]
    return found


def checkpoint_problems(folder: Path, task: str, files: ModelFiles, *, uses_head: bool) -> Iterator[Problem]:
    """Yield the properties of a model folder that can neither be preserved nor ignored.

    Args:
        uses_head: the model's own classification head is used, not replaced by a fresh one.
    """
    if (folder / ENSEMBLE).is_file():
        yield ensemble_problem()
        return
    config = files.parse_or_none(folder / "config.json")
    if any((folder / name).is_file() for name in (ADAPTER, ADAPTER_WEIGHTS, PICKLED_WEIGHTS)):
        yield _adapter_problem(config, files.parse_or_none(folder / ADAPTER) or {})
    if config is None:
        return
    yield from impossible_sizes(config)
    quantized = config.get("quantization_config") or config.get("compression_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        yield Problem(
            f"config.json has a `quantization_config` ({method or 'without a method'}): its weights are already "
            "quantized, or would be; name the floating-point model that it was made from, or save it dequantized "
            "(`model.dequantize().save_pretrained(folder)`) without that section",
            QUANTIZED_CODE,
        )
    else:
        yield from _quantized_weights(folder)
    yield from (one for one in fetching_settings(config) if one.code == FETCHING_CODE or not quantized)
    if uses_head and task_kind(task).head == "classifier":
        yield from head_problems(config)
    if task_kind(task).items == "text":
        yield from tokenizer_problems(folder, config, files)


def ensemble_problem() -> Problem:
    """Return the problem of a folder with an `ensemble.json`."""
    return Problem(
        f"{ENSEMBLE}: this folder is an ensemble of several models, and a profile takes one; name the folder of "
        "a member, or distil it with `keep: last` or `keep: best`",
        "several-models",
    )


def _used_models(profile: Profile) -> Iterator[tuple[KeyPath, str, bool]]:
    """Yield each model of the profile: the path that names it, its source, and whether its own head is used."""
    yield ("teacher", "model"), profile.teacher.model, profile.teacher.finetune is None
    for index, spec in enumerate(profile.specs):
        for named in spec.named_models():
            yield ("passes", index, spec.kind, *named.key), named.model, named.keeps_head


def _undeclared_preprocessing(folder: Path, profile: Profile, uses_head: bool) -> Iterator[Problem]:
    """Yield a problem if an image model is used without training and its preprocessing is not declared anywhere."""
    if task_kind(profile.task).items != "image" or not uses_head or profile.data.preprocess is not None:
        return
    if (
        not any((folder / name).is_file() for name in _PREPROCESSING_FILES)
        and (folder / "config.json").is_file()
    ):
        yield Problem(
            "no preprocessor_config.json here, so it is unknown how this model takes images (size, crop, mean, "
            "standard deviation, channel order), and it is not trained; set `data.preprocess`, or train it with "
            "`finetune`",
            "preprocess-undeclared",
        )


def _adapter_problem(config: Mapping[str, Any] | None, adapter_config: Mapping[str, Any]) -> Problem:
    peft_type, base_model = (
        str(adapter_config.get("peft_type") or "peft"),
        adapter_config.get("base_model_name_or_path"),
    )
    situation = (
        "is beside the model and would be ignored" if config is not None else "is not a model by itself"
    )
    suffix = f" of {base_model!r}" if isinstance(base_model, str) else ""
    return Problem(
        f"{ADAPTER}: an adapter ({peft_type}){suffix} {situation}; merge it with peft "
        "(`PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(merged)`) and name the merged "
        "folder, or remove the adapter's files if the model is meant without it; for a language model, name it, "
        "in a separate folder, as `teacher.adapter`",
        "adapter",
    )


def head_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield why the classification head of a parsed `config.json` does not choose one label among several."""
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if "ForSequenceClassification" not in name and "ForImageClassification" not in name:
        return
    problem_type = config.get("problem_type")
    names = config.get("id2label")
    single_output = (
        set(map(str, names)) == {"0"} if isinstance(names, dict) else config.get("num_labels") == 1
    )
    reason = {
        "multi_label_classification": "gives each text several labels or none (`problem_type: "
        "multi_label_classification`)",
        "regression": "gives a number (`problem_type: regression`)",
    }.get(str(problem_type))
    if reason is None and single_output:
        reason = "has one output: a number, not a choice between labels"
    if reason is not None:
        yield Problem(
            f"this model {reason}, and the tasks here choose one of several labels; add `finetune` to train a new head "
            "for the data's labels",
            "head-unsupported",
        )


def _quantized_weights(folder: Path) -> Iterator[Problem]:
    """Yield a problem at the first integer or 8-bit weight, or weight that no transformers class has, of each file."""
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.startswith("adapter_"):
            continue
        for name, entry in header(file).items():
            dtype = entry.get("dtype") if isinstance(entry, dict) else None
            if dtype in _QUANTIZED_DTYPES:
                yield Problem(
                    f"{file.name}: the weight {name!r} is of the type {dtype}: this checkpoint is quantized; name the "
                    "floating-point model that it was made from",
                    QUANTIZED_CODE,
                )
                return
            if any(mark in name for mark in _ADAPTER_MARKS):
                yield Problem(
                    f"{file.name}: the weight {name!r} belongs to an adapter, which would be ignored; merge it "
                    "(`merge_and_unload` of peft) and save the model again",
                    "adapter",
                )
                return
