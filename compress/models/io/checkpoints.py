"""Models on disk: safetensors, a config, and a structure file if layers are irregular. Never a pickle."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from compress.core.artifacts import (
    BITSANDBYTES,
    ENSEMBLE,
    MODEL_CONFIG,
    MODULE,
    POOLING,
    STRUCTURE,
    TASK,
    TORCH_WEIGHTS,
)
from compress.core.disk.files import make_folder, remove, write_json, write_text
from compress.core.disk.reading import content_errors
from compress.core.errors import ModelError
from compress.models.anatomy.structure import Structure, describe_structure
from compress.models.io.architectures import (
    Attention,
    build_model,
    build_on_meta,
    classifier_class,
    model_class,
    read_config,
)
from compress.models.io.ensemble import Ensemble, member_folders
from compress.models.io.low_bit import replace_layers, unpack_layers
from compress.models.io.plain import UserModule, image_outputs, make_module, rebuild_module
from compress.models.io.weights import read_model_json, read_weights, write_weights
from compress.models.teacher.heads import plan_head, reorder_rows, with_labels
from compress.models.text.pooling import read_pooling
from compress.models.text.sentence import SentenceEncoder, drop_pooler, write_pooling


def save_model(model: nn.Module, out: Path, leave_out: Collection[str] = ()) -> None:
    """Write `model.safetensors`, `config.json` and, for an irregular model, `structure.json` into `out`.

    Tied weights are written once. Each file is written atomically. For a sentence encoder the bare encoder and
    `pooling.json` are written.

    Args:
        leave_out: weights that are not written because they are untrained.
    """
    make_folder(out)
    if isinstance(model, Ensemble):
        names = [f"member-{number}" for number in range(len(model.members))]
        for name, member in zip(names, model.members, strict=True):
            save_model(member, out / name)
        write_json(out / ENSEMBLE, {"members": names})
        return
    if isinstance(model, UserModule):
        _save_user_module(model, out)
        return
    if isinstance(model, SentenceEncoder):
        _save_transformer(model.encoder, out, leave_out)
        write_pooling(model, out)
        return
    assert isinstance(model, PreTrainedModel)
    _save_transformer(model, out, leave_out)


def _save_user_module(model: UserModule, out: Path) -> None:
    # The model was built, so its code was allowed and has already run.
    regular, _ = make_module(model.origin, seed=0, allow_code=True)
    write_weights(_unique_tensors(model.module), out / TORCH_WEIGHTS)
    write_json(out / MODULE, model.describe())
    _write_structure(describe_structure(model.module, regular), out)


def _write_structure(structure: Structure | None, out: Path) -> None:
    if structure is None:
        remove(out / STRUCTURE)
    else:
        write_json(out / STRUCTURE, structure)


def _save_transformer(model: PreTrainedModel, out: Path, leave_out: Collection[str]) -> None:
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    regular = build_on_meta(type(model), config)
    if getattr(model, "pooler", regular) is None:
        drop_pooler(regular)
    structure = describe_structure(model, regular)
    tensors = {name: tensor for name, tensor in _unique_tensors(model).items() if name not in leave_out}
    write_weights(tensors, out / TORCH_WEIGHTS)
    write_text(out / MODEL_CONFIG, config.to_json_string())
    _write_structure(structure, out)


def load_model(path: Path, attention: Attention = "sdpa", *, allow_code: bool = False) -> nn.Module:
    """Load a model written by `save_model`, in float32 and eval mode; every weight comes from the file.

    Args:
        allow_code: whether the code that a `module.json` names may run, in this folder or in those of an ensemble.

    Raises:
        UsageError: the model is built by code, and that is not allowed.
        ModelError: a file is missing or damaged, the architecture is unknown, or a weight is missing, unexpected or
            of another shape than given by config and structure.
    """
    with content_errors("this model", str(path)):
        return _load(path, attention, allow_code)


def _load(path: Path, attention: Attention, allow_code: bool) -> nn.Module:
    if (path / ENSEMBLE).is_file():
        return Ensemble(
            [load_model(folder, attention, allow_code=allow_code) for folder in member_folders(path)]
        ).eval()
    if (path / MODULE).is_file():
        user_module = rebuild_module(path, allow_code=allow_code)
        _load_weights(user_module.module, path)
        return user_module.eval()
    config = read_config(path)
    model = build_model(model_class(config, path), config, path, attention)
    pooling = read_pooling(path) if (path / POOLING).is_file() else None
    if pooling is not None:
        drop_pooler(model)
    _load_weights(model, path)
    loaded = model if pooling is None else SentenceEncoder(model, pooling.mode, pooling.normalize)
    return loaded.eval()


def bare_model(model: nn.Module) -> nn.Module | None:
    """Return the module whose parameter names the model's file uses; None for an ensemble."""
    if isinstance(model, Ensemble):
        return None
    module: nn.Module = model
    if isinstance(model, SentenceEncoder):
        module = model.encoder
    elif isinstance(model, UserModule):
        module = model.module
    return module


def load_for_labels(
    path: Path,
    labels: Sequence[str],
    seed: int,
    attention: Attention = "sdpa",
    *,
    allow_code: bool = False,
) -> nn.Module:
    """Build a classifier of `labels` on the encoder of a model directory, in float32 and eval mode.

    The directory may hold an encoder alone or a classifier of any labels. A head of the same labels (by name) is
    kept, in the order of `labels`; any other is replaced by a fresh one initialised from `seed`. Every weight of the
    encoder must be present; only the head, and a pooler that the file lacks, may be fresh (see `plan_head` in
    `compress.models.teacher.heads`). A plain module keeps its head, which must have one output per label.

    Raises:
        UsageError: the model is built by code, and that is not allowed.
        ModelError: a file is missing or damaged, the architecture is unknown or has no classifier, or the encoder
            lacks a weight or has one of another shape.
    """
    if (path / MODULE).is_file():
        return _user_module_for_labels(path, labels, allow_code)
    config = read_config(path)
    plan = plan_head(path, config, labels)
    kind = classifier_class(config, path)
    model: nn.Module = build_model(kind, with_labels(config, labels), path, attention, seed=seed)
    saved = read_weights(path)
    weights = {name: saved[saved_name] for saved_name, name in plan.names.items()}
    _check_shapes(model, weights, path)
    if plan.order is not None:
        weights = reorder_rows(weights, plan.rows, plan.order)
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load every weight and buffer of the model from the file, which must not contain any others."""
    weights = read_weights(path)
    packed = unpack_layers(model, weights, path) if (path / BITSANDBYTES).is_file() else {}
    replace_layers(model, list(packed))  # the others are checked and loaded without them
    _check_names(model, set(weights), path)
    _check_shapes(model, weights, path)
    model.load_state_dict(weights, strict=False)
    replace_layers(model, packed)


def _user_module_for_labels(path: Path, labels: Sequence[str], allow_code: bool) -> UserModule:
    """Load the plain model of a directory; only its own code could replace its head."""
    model = load_model(path, allow_code=allow_code)
    assert isinstance(model, UserModule)
    image = read_model_json(path / TASK)["image"]
    outputs = image_outputs(model, image["channels"], tuple(image["size"]), str(path))
    if outputs != len(labels):
        raise ModelError(
            f"this model has {outputs} outputs, but the data has {len(labels)} labels",
            where=model.origin.source,
            hint=f"Make the function build a model with {len(labels)} outputs.",
        )
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _unique_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a model with only the first name of tied weights."""
    unique: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in seen or not tensor.numel():
            seen.add(key)
            unique[name] = tensor
    return unique


def _check_names(model: nn.Module, saved_names: set[str], path: Path) -> None:
    """Check that every weight of the model is in the file under one of its names, and nothing else is."""
    state = model.state_dict(keep_vars=True)
    loaded = {id(tensor) for name, tensor in state.items() if name in saved_names}
    missing = [name for name, tensor in state.items() if id(tensor) not in loaded]
    unexpected = sorted(saved_names - set(state))
    if missing or unexpected:
        what = (
            f"lacks {missing[0]!r}" if missing else f"holds {unexpected[0]!r}, which the model does not have"
        )
        count = len(missing) or len(unexpected)
        more = f" ({count} such weights)" if count > 1 else ""
        raise ModelError(f"the file {what}{more}", where=str(path / TORCH_WEIGHTS))


def _check_shapes(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Check that each weight has the shape of the model's."""
    for name, tensor in model.state_dict().items():
        if name in weights and weights[name].shape != tensor.shape:
            raise ModelError(
                f"{name!r} has the shape {list(weights[name].shape)}, expected {list(tensor.shape)}",
                where=str(path / TORCH_WEIGHTS),
            )
