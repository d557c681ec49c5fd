"""The next token and every random draw: the reference's distributions, and draws that depend on their key alone."""

from __future__ import annotations

import hashlib
import math
from itertools import accumulate, islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from r3core.model.sampling import NOT_A_NUMBER, Choice, Uniforms, candidates, choose, generator, noise
from r3core.types import TextSampling
from tests.core.strategies import seeds

stages = st.sampled_from(["reason", "generate", "reflect", "refine", "describe"])
keys = st.tuples(seeds, st.integers(0, 8), stages, st.integers(0, 4), st.integers(0, 8))


samplings = st.builds(
    TextSampling,
    temperature=st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
)
uniforms = st.floats(0, 1, exclude_max=True, width=32)


def support(logits: Tensor, sampling: TextSampling) -> Tensor:
    """The ids that one row of logits may choose."""
    ids, mass = candidates(logits[None], [sampling])
    return ids[0][mass[0] > 0]


def chosen(logits: Tensor, sampling: TextSampling, uniform: float) -> int:
    """What one row of logits chooses."""
    return choose(logits[None], [Choice(sampling, uniform)])[0]


def plainly(row: list[float], sampling: TextSampling, uniform: float) -> int:
    """The same, id by id."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    if not sampling.temperature:
        return order[0]
    weights = [math.exp((row[i] - row[order[0]]) / sampling.temperature) for i in order]
    kept = len(row)
    if sampling.top_p < 1:
        whole, before = math.fsum(weights), accumulate(weights, initial=0.0)
        kept = min(1000, sum(mass <= sampling.top_p * whole for mass in islice(before, len(row))))
    elif sampling.top_k:
        kept = sampling.top_k
    until = list(accumulate(weights[:kept]))
    return order[next(i for i, mass in enumerate(until) if mass > uniform * until[-1])]


@pytest.fixture(params=["a device that answers at once", "a device that is waited for"])
def any_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never asked of a device that computes beside the host is not asked here either."""
    monkeypatch.setattr("r3core.model.sampling._waits", lambda _: request.param == "a device that is waited for")


def test_distributions_equal_the_references(golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    logits = golden_tensors["sampling.logits"]
    assert golden["sampling"]
    for recorded in golden["sampling"]:
        sampling = TextSampling(
            temperature=recorded["temperature"], top_p=recorded["top_p"], top_k=max(0, recorded["top_k"])
        )
        ids, mass = candidates(logits, [sampling] * len(logits))
        expected = golden_tensors[recorded["probs"]]
        assert (mass > 0).sum(-1).tolist() == recorded["support"]
        assert torch.allclose(torch.zeros_like(expected).scatter_(1, ids, mass.to(expected.dtype)), expected, atol=1e-6)


@pytest.mark.usefixtures("any_device")
def test_top_p_takes_precedence_over_top_k() -> None:
    logits = torch.zeros(100)
    assert support(logits, TextSampling(temperature=1, top_p=0.5, top_k=3)).shape[0] > 49
    assert support(logits, TextSampling(temperature=1, top_p=1.0, top_k=3)).tolist() == [0, 1, 2]
    assert support(logits, TextSampling(temperature=1, top_p=1.0, top_k=0)).shape[0] == 100


@pytest.mark.usefixtures("any_device")
def test_the_candidate_that_crosses_top_p_stays_and_the_best_always_does() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    kept = {p: support(logits, TextSampling(temperature=1, top_p=p)).tolist() for p in (0.0, 0.01, 0.4, 0.6, 0.9)}
    assert kept == {0.0: [0], 0.01: [0], 0.4: [0], 0.6: [0, 1], 0.9: [0, 1, 2]}


@pytest.mark.usefixtures("any_device")
def test_at_most_a_thousand_candidates_are_weighed() -> None:
    ids, mass = candidates(torch.zeros(1, 5000), [TextSampling(temperature=1, top_p=0.99)])
    assert ids[0].tolist() == list(range(1000))
    assert float(mass.sum()) == pytest.approx(1)


def test_temperature_zero_is_the_largest_logit_and_the_lowest_id_of_a_tie() -> None:
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0])
    assert {chosen(logits, TextSampling(temperature=0), u) for u in (0.0, 0.5, 0.999)} == {1}


@pytest.mark.parametrize("size", [1, 40, 1500])
@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_any_settings_choose_together_what_each_chooses_by_itself(
    any_device: None, size: int, data: st.DataObject
) -> None:
    """Of equal logits, which a 16-bit model has many of, the lowest id comes first."""
    numbers = np.random.default_rng(data.draw(st.integers(0, 1000)))
    choices = data.draw(st.lists(st.builds(Choice, samplings, uniforms), min_size=1, max_size=6))
    values = numbers.normal(scale=data.draw(st.sampled_from([0.1, 3, 10])), size=(len(choices), size))
    logits = torch.from_numpy(values).bfloat16().float()
    logits[numbers.random(logits.shape) < 0.1] = 0.0
    logits[numbers.random(logits.shape) < 0.1] = -0.0
    together = choose(logits, choices)
    assert together == [choose(row[None], [choice])[0] for row, choice in zip(logits, choices, strict=True)]
    assert together == [plainly(row.tolist(), c.sampling, c.uniform) for row, c in zip(logits, choices, strict=True)]


@pytest.mark.usefixtures("any_device")
def test_more_rows_than_are_weighed_at_once_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32))
    choices = [Choice(TextSampling(temperature=i % 3, top_p=0.9), i / 7) for i in range(7)]
    at_once = choose(logits, choices)
    for numbers in (1, 100, 200):
        monkeypatch.setattr("r3core.model.sampling._AT_ONCE", numbers)
        assert choose(logits, choices) == at_once


@pytest.mark.usefixtures("any_device")
def test_no_draw_gives_a_token_without_mass_even_at_the_very_end() -> None:
    logits = torch.tensor([0.0, -float("inf"), 0.0])
    for top_p in (1.0, 0.9):
        assert chosen(logits, TextSampling(temperature=1, top_p=top_p, top_k=0), 1 - 2**-53) in {0, 2}


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("sampling", [TextSampling(temperature=0), TextSampling(), TextSampling(top_p=1.0)])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_chooses_nothing_and_its_neighbours_choose_as_ever(
    broken: float, sampling: TextSampling
) -> None:
    logits = torch.arange(100.0).repeat(3, 1)
    logits[1] = broken
    assert choose(logits, [Choice(sampling, 0.5)] * 3) == [99, NOT_A_NUMBER, 99]
    logits[1] = 0
    logits[1, 3] = float("nan")
    assert choose(logits, [Choice(sampling, 0.5)] * 3) == [99, NOT_A_NUMBER, 99]


@given(keys, st.lists(st.integers(1, 5), max_size=8))
def test_numbers_that_are_looked_at_stay_the_next_ones_until_they_are_taken(key: Any, steps: list[int]) -> None:
    plain = generator(*key).random(64).tolist()
    ours, taken = Uniforms(generator(*key)), 0
    for count in steps:
        assert ours.next(count) == plain[taken : taken + count]
        for _ in range(count // 2):
            ours.take()
        taken += count // 2
    ours.take()
    assert ours.next(1) == [plain[taken + 1]]


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
