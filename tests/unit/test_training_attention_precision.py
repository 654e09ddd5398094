from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from compress.training.prediction import autocast_for
from tests.tiny import tiny_bert


def parts(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    one, two, three = (torch.randn(2, 3, 5, 8).bfloat16().requires_grad_() for _ in range(3))
    return one, two, three


@pytest.mark.parametrize("mask", [None, torch.rand(2, 1, 5, 5) > 0.4, torch.randn(2, 1, 5, 5).bfloat16()])
def test_attention_of_bfloat16_is_computed_in_float32(mask: Tensor | None) -> None:
    query, key, value = parts()
    with autocast_for("bf16", "cpu"):
        found = scaled_dot_product_attention(query, key, value=value, attn_mask=mask)
    wide = mask.float() if mask is not None and mask.is_floating_point() else mask
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=wide)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    found.float().sum().backward()
    assert query.grad is not None
    assert query.grad.dtype == torch.bfloat16


def test_nothing_else_changes_its_precision() -> None:
    model = tiny_bert()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with autocast_for("bf16", "cpu"):
        ours = model(**batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(**batch).logits
    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, atol=0.05, rtol=0.05)


def test_without_gradients_torchs_own_kernel_runs() -> None:
    query, key, value = parts()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = scaled_dot_product_attention(query, key, value)
    with torch.no_grad(), autocast_for("bf16", "cpu"):
        assert torch.equal(scaled_dot_product_attention(query, key, value), expected)
