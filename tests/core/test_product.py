"""Rows times weights: both ways agree, and where one is not there the other serves."""

from __future__ import annotations

import pytest
import torch

from r3core.model.bagel import laid_out_bytes
from r3core.model.layers import DecoderConfig, Norm, normed
from r3core.model.product import MOST_BYTES, Product, why_not

CPU = torch.device("cpu")
SMALL = DecoderConfig(64, 128, 2, 4, 2, 512, 1e-6, 1e4, 1024)
BAGEL_7B = DecoderConfig(3584, 18944, 28, 28, 4, 152064, 1e-6, 1e6, 32768)


@pytest.mark.parametrize("rows", [1, 2, 11, 64, 200])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_both_ways_agree(rows: int, dtype: torch.dtype, tolerance: float) -> None:
    draws = torch.Generator().manual_seed(rows)
    shapes = ((rows, 48), (80, 48), (80,), (48,))
    x, weight, bias, scale = (torch.randn(shape, generator=draws).to(dtype) for shape in shapes)
    ways = [Product.of(weight, bias, scale=scale, lay_out=lay_out)(x) for lay_out in (False, True)]
    expected = (x.double() * scale.double()) @ weight.double().T + bias.double()
    for way in ways:
        assert way.dtype == dtype
        assert float((way.double() - expected).abs().max()) < tolerance


def test_a_reason_is_given_where_weights_are_not_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(torch.device("cuda"), torch.bfloat16) == "is for CPUs, this is cuda"
    why_not.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert why_not(CPU, torch.float32) == "this torch was built without oneDNN"
        assert laid_out_bytes(SMALL, CPU, torch.float32) == 0
    why_not.cache_clear()


def test_an_operator_that_is_gone_or_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (lambda *_: torch.zeros(3, 8), lambda *_: torch.ops.mkldnn.no_such_operator()):
        why_not.cache_clear()
        with monkeypatch.context() as without:
            without.setattr("r3core.model.product._one_dnn", broken)
            assert why_not(CPU, torch.float32) is not None
    why_not.cache_clear()


def test_weights_are_held_twice_only_where_they_are_small() -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this torch was built without oneDNN: weights are not laid out here")
    assert why_not(CPU, torch.float32) is None
    # Two experts of two layers: q and o 64 x 64, k and v 32 x 64, three of 128 x 64; 4 bytes each.
    assert laid_out_bytes(SMALL, CPU, torch.float32) == 2 * 2 * 64 * (64 + 64 + 32 + 32 + 3 * 128) * 4
    assert laid_out_bytes(BAGEL_7B, CPU, torch.bfloat16) == 0
    assert MOST_BYTES < 2**31


@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0])
def test_a_norm_by_length_is_the_norm(size: float) -> None:
    draws = torch.Generator().manual_seed(3)
    x, weight = size * torch.randn(5, 7, 48, generator=draws), torch.randn(7, 48, generator=draws)
    norm = Norm.of(48, 1e-6, by_length=True)
    torch.testing.assert_close(norm(x) * norm.weights(weight), normed(x, 1e-6) * weight, rtol=2e-6, atol=1e-7)
