"""How many cores a forward computes with: by its size, and fewer where somebody else wants them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from r3core.engine.threads import Threads, waited_s
from r3core.model.one_thread import attended, silu
from r3core.model.padding import PieceRows, attend_short, together

A_ROW = 4_000_000  # multiplications: two such rows are worth a thread


class Clock:
    """Time that passes when told to, some of it waiting for a core."""

    def __init__(self) -> None:
        self.now_s, self.waited_s = 100.0, 7.0

    def pass_(self, seconds: float, waiting: float = 0.0) -> None:
        self.now_s += seconds
        self.waited_s += waiting * seconds


@pytest.fixture
def of_four(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("r3core.engine.threads.usable_cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def threads(of_four: None, clock: Clock) -> Threads:
    return Threads(A_ROW, clock=lambda: clock.now_s, waited=lambda: clock.waited_s)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (2, 2), (3, 2), (4, 3), (6, 4), (1000, 4), (None, 4)])
def test_a_forward_takes_as_many_as_it_is_worth(threads: Threads, rows: int | None, count: int) -> None:
    with threads.computing(rows, beside=0):
        assert torch.get_num_threads() == count
    assert torch.get_num_threads() == 4


def test_where_their_number_would_show_all_but_one_compute_whatever_there_is(of_four: None) -> None:
    threads = Threads(A_ROW, varies=False)
    assert [threads.count(rows, beside) for rows, beside in ((1, 0), (1, 3), (None, 3))] == [3, 3, 3]


def test_a_thread_that_computes_beside_it_keeps_its_core(threads: Threads) -> None:
    assert [threads.count(None, beside) for beside in (0, 1, 3, 4)] == [4, 3, 1, 1]


def test_threads_come_back_where_a_forward_fails(threads: Threads) -> None:
    with pytest.raises(ZeroDivisionError), threads.computing(1, beside=0):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4


def test_fewer_are_taken_while_this_thread_waits_for_its_core_and_all_of_them_later(
    threads: Threads, clock: Clock
) -> None:
    assert threads.count(None, 0) == 4
    clock.pass_(0.6, waiting=0.05)
    assert threads.count(None, 0) == 4, "a little waiting is no crowd"
    counts = []
    for _ in range(3):
        clock.pass_(0.6, waiting=0.3)
        counts.append(threads.count(None, 0))
    assert counts == [2, 1, 1]
    clock.pass_(1.0)
    assert threads.count(None, 0) == 1
    clock.pass_(1.5)
    assert threads.count(None, 0) == 4


def test_who_is_crowded_again_and_again_waits_longer_until_it_has_been_quiet(threads: Threads, clock: Clock) -> None:
    def pause_s() -> float:
        while threads.count(None, 0) > 1:
            clock.pass_(0.6, waiting=0.9)
        began_s = clock.now_s
        while threads.count(None, 0) < 4:
            clock.pass_(0.6)
        return clock.now_s - began_s

    pauses = [pause_s() for _ in range(5)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]
    assert pauses[-1] < 35
    for _ in range(100):
        clock.pass_(0.6)
        threads.count(None, 0)
    assert pause_s() == pytest.approx(pauses[0])


def test_a_single_thread_is_never_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r3core.engine.threads.torch.get_num_threads", lambda: 1)
    assert Threads(A_ROW).count(10**9, beside=0) == 1


def test_waiting_is_told_by_the_system_where_it_tells_it(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 <= waited_s() < 3600
    monkeypatch.setattr("r3core.engine.threads._SCHEDSTAT", tmp_path / "none")  # type: ignore[operator]
    assert waited_s() == 0


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").is_file(), reason="not told by this system; Linux does")
def test_waiting_is_that_of_the_calling_thread() -> None:
    def waited_by_id() -> float:
        told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
        return int(told[1]) / 1e9

    found: list[tuple[float, float, float]] = []

    def look() -> None:
        found.append((waited_by_id(), waited_s(), waited_by_id()))

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    for before, told, after in found:
        assert before <= told <= after


@pytest.mark.parametrize("elements", [100, 33_001, 98_307, 100_003])
def test_what_has_an_exponential_is_computed_by_one_thread(elements: int) -> None:
    x = torch.randn(elements, generator=torch.Generator().manual_seed(1))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        found.append(silu(x))
        assert torch.get_num_threads() == count
    torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.fixture
def as_many_after() -> Iterator[None]:
    """Leaves as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("as_many_after")
@pytest.mark.parametrize(
    ("pieces", "heads", "rows"),
    [(1, 1, 1), (1, 1, 3), (1, 1, 4), (1, 1, 31), (1, 1, 32), (1, 2, 3), (3, 1, 3), (2, 2, 1), (2, 2, 2)],
)
@pytest.mark.parametrize("keys", [5, 61, 67, 165])
def test_attention_of_few_rows_is_the_same_with_any_number_of_threads(
    pieces: int, heads: int, rows: int, keys: int
) -> None:
    """Where a CPU's products of few rows are the same too, this shows nothing; the next test does."""
    made = torch.Generator().manual_seed(1)
    q = torch.randn(pieces, heads, rows, 24, generator=made)
    k, v = (torch.randn(pieces, keys, heads, 24, generator=made).transpose(1, 2) for _ in range(2))
    mask = torch.randn(pieces, 1, rows, keys, generator=made)
    found = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        found.append(torch.stack((attended(q, k, v, None), attended(q, k, v, mask))))
        assert torch.get_num_threads() == count
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.usefixtures("as_many_after")
@pytest.mark.parametrize(
    ("kv_heads", "rows", "alone", "in_company"),
    [(1, 1, 1, 1), (1, 2, 1, 2), (1, 10, 1, 2), (1, 11, 2, 2), (2, 1, 1, 1), (2, 2, 2, 2)],
)
def test_attention_of_few_rows_and_that_which_is_not_parted_has_one_thread(
    monkeypatch: pytest.MonkeyPatch, kv_heads: int, rows: int, alone: int, in_company: int
) -> None:
    """Three query heads read a key head, so that their rows are three times as many."""
    given: list[int] = []
    own: Callable[..., torch.Tensor] = torch.nn.functional.scaled_dot_product_attention

    def recorded(*tensors: Any, **named: Any) -> torch.Tensor:
        given.append(torch.get_num_threads())
        return own(*tensors, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    torch.set_num_threads(2)
    k, v = torch.randn(2, 40, kv_heads, 8)
    attend_short(torch.randn(rows, 3 * kv_heads, 8), k, v, causal=False)
    pieces = [(i * rows, PieceRows(start=20 * i, past=5, rows=rows, causal=True, stored=True)) for i in range(2)]
    (group,), rest = together(pieces, None)
    assert not rest
    q, own_k, own_v = torch.randn(2 * rows, 3 * kv_heads, 8), *torch.randn(2, 2 * rows, kv_heads, 8)
    group.attend(q, own_k, own_v, k, v)
    assert given == [alone, in_company]
    assert torch.get_num_threads() == 2
