"""The next token and every random draw: the reference's distributions, and draws that depend on their key alone."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r3core.model.sampling import generator, noise, probabilities, sample
from r3core.types import TextSampling
from tests.core.strategies import seeds

stages = st.sampled_from(["reason", "generate", "reflect", "refine", "describe"])
keys = st.tuples(seeds, st.integers(0, 8), stages, st.integers(0, 4), st.integers(0, 8))


def test_distributions_equal_the_references(golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    logits = golden_tensors["sampling.logits"]
    assert golden["sampling"]
    for recorded in golden["sampling"]:
        settings = TextSampling(
            temperature=recorded["temperature"], top_p=recorded["top_p"], top_k=max(0, recorded["top_k"])
        )
        for row, expected, support in zip(logits, golden_tensors[recorded["probs"]], recorded["support"], strict=True):
            ids, mass = probabilities(row, settings)
            scattered = torch.zeros_like(expected).scatter_(0, ids, mass.to(expected.dtype))
            assert ids.shape[0] == support
            assert torch.allclose(scattered, expected, atol=1e-6)


def test_top_p_takes_precedence_over_top_k() -> None:
    logits = torch.zeros(100)
    assert probabilities(logits, TextSampling(temperature=1, top_p=0.5, top_k=3))[0].shape[0] > 49
    assert probabilities(logits, TextSampling(temperature=1, top_p=1.0, top_k=3))[0].shape[0] == 3
    assert probabilities(logits, TextSampling(temperature=1, top_p=1.0, top_k=0))[0].shape[0] == 100


def test_the_candidate_that_crosses_top_p_stays_and_the_best_always_does() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    kept = {p: probabilities(logits, TextSampling(temperature=1, top_p=p))[0].tolist() for p in (0.01, 0.4, 0.6, 0.9)}
    assert kept == {0.01: [0], 0.4: [0], 0.6: [0, 1], 0.9: [0, 1, 2]}


def test_at_most_a_thousand_candidates_are_weighed() -> None:
    ids, mass = probabilities(torch.zeros(5000), TextSampling(temperature=1, top_p=0.99))
    assert ids.shape[0] == 1000
    assert float(mass.sum()) == pytest.approx(1)


def test_temperature_zero_is_the_largest_logit_and_the_lowest_id_of_a_tie() -> None:
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0])
    assert {sample(logits, TextSampling(temperature=0), u) for u in (0.0, 0.5, 0.999)} == {1}


@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 2), st.floats(0.01, 1), st.integers(0, 20))
def test_a_uniform_draw_falls_into_the_cumulative_distribution(
    uniform: float, temperature: float, top_p: float, top_k: int
) -> None:
    settings = TextSampling(temperature=temperature, top_p=top_p, top_k=top_k)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=50).astype(np.float32))
    ids, mass = probabilities(logits, settings)
    index = ids.tolist().index(sample(logits, settings, uniform))
    below = float(mass[:index].sum())
    assert below - 1e-9 <= uniform <= below + float(mass[index]) + 1e-9


def test_no_draw_gives_a_token_without_mass_even_at_the_very_end() -> None:
    logits = torch.tensor([0.0, -float("inf"), 0.0])
    for top_p in (1.0, 0.9):
        settings = TextSampling(temperature=1, top_p=top_p, top_k=0)
        assert sample(logits, settings, 1 - 2**-53) in (0, 2)


@given(keys)
def test_a_key_always_gives_the_same_draws(key: tuple[int, int, str, int, int]) -> None:
    assert generator(*key).random() == generator(*key).random()
    assert torch.equal(noise(generator(*key), 4, 8), noise(generator(*key), 4, 8))


@given(keys, keys)
def test_different_keys_give_different_draws(
    one: tuple[int, int, str, int, int], other: tuple[int, int, str, int, int]
) -> None:
    assert (generator(*one).random() == generator(*other).random()) == (one == other)


def test_draws_do_not_depend_on_who_draws_in_between() -> None:
    alone = generator(1, 0, "reason").random(5)
    mine, theirs = generator(1, 0, "reason"), generator(2, 0, "reason")
    shared = []
    for _ in range(5):
        theirs.random()
        torch.rand(3)
        np.random.default_rng().random()
        shared.append(mine.random())
    assert shared == alone.tolist()


def test_draws_are_a_contract_and_never_change() -> None:
    """A seed that a user wrote down must give the same picture with a later build."""
    assert generator(1, 0, "reason").random(3).tolist() == [0.7136337081556158, 0.1276443495974262, 0.4541384980921297]
    assert noise(generator(1, 0, "generate"), 2, 2).tolist() == [[-0.67578125, 0.640625], [-0.1337890625, 0.416015625]]
    assert generator(2**53 - 1, 8, "refine", 4).random() == 0.8030270667373415


@given(keys)
def test_the_first_candidate_has_the_key_of_a_request_without_and_the_others_their_number_after_it(key: Any) -> None:
    *four, candidate = key
    text = "|".join(map(str, key if candidate else four))
    words = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    assert generator(*key).random() == np.random.Generator(np.random.Philox(key=words)).random()


def test_noise_is_normal_and_rounded_to_bf16() -> None:
    values = noise(generator(5, 1, "refine"), 1024, 64)
    assert values.shape == (1024, 64)
    assert values.dtype == torch.float32
    assert torch.equal(values, values.bfloat16().float())
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.std()) - 1) < 0.02
