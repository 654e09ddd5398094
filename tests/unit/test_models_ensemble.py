from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from compress.core.errors import ModelError
from compress.lowering.export import export_graph, signature_of
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.io.ensemble import Ensemble, member_folders
from compress.models.text.sentence import SentenceEncoder
from tests.tiny import tiny_bert
from tests.unit.test_models_families import bare, tiny_vision

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
TEXTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


class Fixed(nn.Module):
    """Gives the same logits whatever it reads."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(input_ids), -1)


def sentences(seed: int) -> SentenceEncoder:
    encoder = bare("bert")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.1
            )
    return SentenceEncoder(encoder, "mean", False).eval()


def test_probabilities_are_averaged_and_not_logits() -> None:
    ensemble = Ensemble([Fixed(0.0, np.log(3.0)), Fixed(9.0, 9.0)])
    with torch.no_grad():
        found = ensemble(input_ids=IDS)
    # 1/4 and 3/4 with 1/2 and 1/2
    assert torch.allclose(found.exp(), torch.tensor([[0.375, 0.625]]).expand(2, -1))
    assert torch.allclose(found.softmax(dim=-1), found.exp())


def test_probabilities_too_small_for_float32_stay_finite() -> None:
    with torch.no_grad():
        found = Ensemble([Fixed(0.0, 500.0), Fixed(0.0, 400.0)])(input_ids=IDS)
    assert found.isfinite().all()
    assert found[0, 0] == pytest.approx(-400 - np.log(2), rel=1e-6)


def test_embeddings_are_averaged_at_length_1() -> None:
    members = [sentences(0), sentences(1)]
    with torch.no_grad():
        found = Ensemble(members)(**TEXTS)
        each = [member(**TEXTS).numpy() for member in members]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in each]
    assert np.allclose(found.numpy(), (unit[0] + unit[1]) / 2, atol=1e-6)


def test_models_of_two_sorts_and_single_ones_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot be averaged"):
        Ensemble([sentences(0), tiny_bert()])
    with pytest.raises(ModelError, match="at least two models"):
        Ensemble([tiny_bert()])


def test_an_ensemble_is_saved_and_read_back_member_by_member(tmp_path: Path) -> None:
    members = [tiny_bert(seed=seed, layers=layers) for seed, layers in ((0, 1), (1, 2), (2, 1))]
    ensemble = Ensemble(members).eval()
    save_model(ensemble, tmp_path)
    assert json.loads((tmp_path / "ensemble.json").read_text()) == {
        "members": ["member-0", "member-1", "member-2"]
    }
    again = load_model(tmp_path)
    assert isinstance(again, Ensemble)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(**TEXTS), ensemble(**TEXTS))
    assert count_parameters(again) == sum(count_parameters(member) for member in members)


@pytest.mark.parametrize(
    "names", [["member-0"], ["member-0", "../elsewhere"], ["/etc", "member-1"], "member", ["a", ".."]]
)
def test_a_list_of_members_that_leads_elsewhere_is_refused(tmp_path: Path, names: object) -> None:
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": names}))
    with pytest.raises(ModelError, match=r"ensemble\.json"):
        member_folders(tmp_path)


def exported(ensemble: Ensemble, task: Mapping[str, object]) -> onnxruntime.InferenceSession:
    file = io.BytesIO()
    onnx.save(ir.to_proto(export_graph(ensemble, signature_of(task))), file)
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", ["logits", "embedding"])
def test_an_ensemble_of_texts_exports(kind: str) -> None:
    members = (
        [tiny_bert(seed=0, layers=1), tiny_bert(seed=1)] if kind == "logits" else [sentences(0), sentences(1)]
    )
    ensemble = Ensemble(members).eval()
    session = exported(ensemble, {"input_names": list(TEXTS), "output_names": [kind]})
    ids = torch.tensor([[2, 9, 8, 7, 6, 5, 3], [2, 8, 3, 0, 0, 0, 0], [2, 5, 5, 3, 0, 0, 0]])
    fed = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    (found,) = session.run([kind], {name: tensor.numpy() for name, tensor in fed.items()})
    with torch.no_grad():
        assert np.allclose(found, ensemble(**fed).numpy(), atol=1e-4)


@pytest.mark.slow
def test_an_ensemble_of_images_exports() -> None:
    ensemble = Ensemble([tiny_vision("vit"), tiny_vision("deit with a distillation token", seed=1)]).eval()
    task = {
        "input_names": ["pixel_values"],
        "output_names": ["logits"],
        "image": {"size": [8, 8], "channels": 1},
    }
    pixels = torch.randn(5, 1, 8, 8)
    (found,) = exported(ensemble, task).run(None, {"pixel_values": pixels.numpy()})
    with torch.no_grad():
        assert np.allclose(found, ensemble(pixel_values=pixels).numpy(), atol=1e-4)
