from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.core.errors import ModelError
from compress.models.anatomy import stream
from compress.models.anatomy.encoder import Encoder, encoder_of
from compress.models.anatomy.observing import Batches
from compress.models.anatomy.stream import estimate_stream, measure_stream
from tests.tiny import tiny_classifier
from tests.unit.test_models_families import CONFIGS, VISION, tiny_vision

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0], [2, 11, 12, 3, 0]])
MASK = (IDS != 0).long()


def block_influence(encoder: Encoder, batches: Batches) -> tuple[float, ...]:
    return stream.block_influence(encoder.model, [layer.block for layer in encoder.layers], batches)


def texts() -> Iterable[dict[str, Tensor]]:
    """Three texts in two batches, padded."""
    yield {"input_ids": IDS[:2], "attention_mask": MASK[:2]}
    yield {"input_ids": IDS[2:], "attention_mask": MASK[2:]}


def pixels() -> Iterable[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    yield from ({"pixel_values": torch.randn(count, 1, 8, 8, generator=generator)} for count in (3, 5))


def nothing() -> Iterable[dict[str, Tensor]]:
    return ()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_moments_behind_each_layer_are_those_of_its_hidden_states(kind: str) -> None:
    model = tiny_classifier(CONFIGS[kind])
    encoder = encoder_of(model)
    with torch.no_grad():
        states = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    stream = measure_stream(encoder, texts)
    seen = [
        layer.scaled(place.output_norm.weight, place.output_norm.bias)
        for layer, place in zip(stream.output, encoder.layers, strict=True)
    ]
    assert stream.embedding is not None
    assert stream.final is None
    norm = encoder.embedding_norm
    assert norm is not None
    whole = encoder.projection is None
    seen.insert(0, stream.embedding.scaled(norm.weight, norm.bias) if whole else stream.embedding)
    assert len(states) == len(seen) == 4
    for found, hidden in zip(seen, states, strict=True):
        rows = hidden[MASK.bool()].double().numpy()
        # The normalised stream has a larger epsilon than some of these norms.
        assert np.allclose(found.mean, rows.mean(axis=0), atol=1e-3)
        assert np.allclose(found.second_moments, rows.T @ rows / len(rows), atol=1e-3)


@pytest.mark.parametrize("kind", VISION)
def test_the_moments_before_each_layer_of_an_image_model_are_those_of_its_normalised_states(
    kind: str,
) -> None:
    model = tiny_vision(kind)
    batch = torch.cat([one["pixel_values"] for one in pixels()])
    with torch.no_grad():
        states = model(pixel_values=batch, output_hidden_states=True).hidden_states
    stream = measure_stream(encoder_of(model), pixels)
    assert stream.embedding is None
    assert stream.final is not None
    assert len(states) == 4
    for found, hidden in zip((*stream.attention, stream.final), states, strict=True):
        rows = hidden.flatten(0, 1).double().numpy()
        rows = (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
        assert np.allclose(found.mean, rows.mean(axis=0), atol=1e-3)
        assert np.allclose(found.second_moments, rows.T @ rows / len(rows), atol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_the_influence_of_a_layer_is_what_it_turns_its_input_by(kind: str) -> None:
    image = kind in VISION
    model = tiny_vision(kind) if image else tiny_classifier(CONFIGS[kind])
    batch = torch.cat([one["pixel_values"] for one in pixels()])
    inputs = {"pixel_values": batch} if image else {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    kept = torch.ones(states[0].shape[:2], dtype=torch.bool) if image else MASK.bool()
    rows = [state[kept].double().numpy() for state in states]
    expected = []
    for before, after in itertools.pairwise(rows):
        lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        expected.append(1 - np.mean((before * after).sum(axis=1) / lengths))
    assert block_influence(encoder_of(model), pixels if image else texts) == pytest.approx(expected, abs=1e-5)


def test_padding_changes_nothing() -> None:
    encoder = encoder_of(tiny_classifier(CONFIGS["bert"]))

    def longer() -> Iterable[dict[str, Tensor]]:
        room = torch.zeros(3, 4, dtype=torch.int64)
        yield {"input_ids": torch.cat([IDS, room], dim=1), "attention_mask": torch.cat([MASK, room], dim=1)}

    one, other = measure_stream(encoder, texts), measure_stream(encoder, longer)
    for first, second in zip(one.output, other.output, strict=True):
        assert torch.allclose(first.second_moments, second.second_moments, atol=1e-5)
    assert block_influence(encoder, texts) == pytest.approx(block_influence(encoder, longer), abs=1e-5)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = tiny_classifier(CONFIGS["bert"]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_stream(encoder_of(model), texts)
    block_influence(encoder_of(model), texts)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("measure", [measure_stream, block_influence])
def test_nothing_can_be_measured_on_no_examples(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ModelError, match="no examples"):
        measure(encoder_of(tiny_classifier(CONFIGS["bert"])), nothing)


@pytest.mark.parametrize("kind", [*CONFIGS, *VISION])
def test_embeddings_give_one_guess_for_all_norms(kind: str) -> None:
    model = tiny_vision(kind) if kind in VISION else tiny_classifier(CONFIGS[kind])
    stream = estimate_stream(encoder_of(model))
    assert len(stream.attention) == len(stream.output) == 3
    for seen in (*stream.attention, *stream.output):
        assert torch.equal(seen.second_moments, stream.attention[0].second_moments)
        assert not seen.mean.any()
    values = torch.linalg.eigvalsh(stream.attention[0].second_moments)
    assert values.min() > -1e-9
    assert values.max() > 0


def test_the_guess_for_texts_is_of_their_words_at_the_first_positions() -> None:
    encoder = encoder_of(tiny_classifier(CONFIGS["bert"]))
    assert encoder.words is not None
    assert encoder.positions is not None
    assert encoder.token_types is not None
    words, positions, types = (
        table.weight.detach().double().numpy()
        for table in (encoder.words, encoder.positions, encoder.token_types)
    )
    rows = words + positions[:32].mean(axis=0) + types[0]
    rows = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-5)
    assert np.allclose(
        estimate_stream(encoder).output[1].second_moments, rows.T @ rows / len(rows), atol=1e-6
    )
