"""Connections that say nothing, or not all of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server import protocol
from tests.server.api.running import RunningApi

HEAD = b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture(autouse=True)
def impatient(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN_S", 0.6)


@contextmanager
def connected(api: RunningApi) -> Iterator[socket.socket]:
    url = api.client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        yield connection


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("said", [b"", HEAD[:30]], ids=["nothing", "half a head"])
def test_who_never_comes_to_the_end_of_a_head_is_cut_off(api: RunningApi, said: bytes) -> None:
    with connected(api) as connection:
        connection.sendall(said)
        assert is_cut(connection)


def test_the_next_head_on_a_connection_is_waited_for_no_longer(api: RunningApi) -> None:
    with connected(api) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD[:30])
        began = time.monotonic()
        assert is_cut(connection)
        assert time.monotonic() - began < 4, "uvicorn's own limit, of connections that are idle, is five seconds"


def test_whose_head_is_whole_may_take_his_time(api: RunningApi) -> None:
    with connected(api) as connection:
        connection.sendall(HEAD)
        time.sleep(1.5)
        connection.sendall(b"{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 422")


@pytest.mark.parametrize("late", [b"\r\n", b"{}"], ids=["a blank line", "a body that was refused"])
def test_what_comes_behind_an_answer_gives_nobody_the_connection_for_ever(api: RunningApi, late: bytes) -> None:
    with connected(api) as connection:
        refused = HEAD.replace(b"application/json", b"text/plain") if late == b"{}" else HEAD.replace(b": 2", b": 0")
        connection.sendall(refused)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 4")
        connection.sendall(late)
        began = time.monotonic()
        assert is_cut(connection)
        assert time.monotonic() - began < 4


def test_who_is_being_answered_is_not_cut_off_for_half_a_head_behind_it(api: RunningApi) -> None:
    job = api.submit()
    with connected(api) as connection:
        connection.sendall(f"GET /jobs/{job['id']}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() + HEAD[:30])
        until_s, seen = time.monotonic() + 2.5, b""
        while time.monotonic() < until_s:
            piece = connection.recv(65536)
            assert piece, "its stream was cut"
            seen += piece
    assert seen.count(b": hb") >= 1
