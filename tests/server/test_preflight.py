"""What is looked at before a process starts, check by check; test_cli.py has the same as a user meets it."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from server.embedded import EmbeddedServer
from server.misconfigured import Misconfigured
from server.preflight import check_api, check_port, check_redis_answers, check_serve
from server.settings import Settings
from tests.server.older_redis import older

Check = Callable[[Settings], object]
NOBODY: Final = 65534
LOW: Final = 80


def asked(tmp_path: Path, **fields: Any) -> Settings:
    """Settings that nothing is wrong with but what `fields` say."""
    plain = {"redis_url": "redis://127.0.0.1:1", "runner": "fake", "port": 0, "worker_port": 0}
    return Settings(**{**plain, "data_dir": tmp_path / "data", **fields})


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.fixture
def no_low_ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user who may not listen below 1024: whoever is not root. Where the system lets everyone, as in most containers,
    its refusal is played.
    """
    first, ids = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start"), Path("/proc/self/uid_map")
    has_nobody = ids.exists() and int(ids.read_text().split()[2]) > NOBODY
    if not first.exists() or int(first.read_text()) <= LOW or (os.geteuid() == 0 and not has_nobody):

        def refused(*_: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(socket.socket, "bind", refused)
        yield
    elif os.geteuid() == 0:
        check_port("127.0.0.1", 0, "port")  # what it imports may be for root alone to read
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("check", [check_serve, check_api])
def test_a_port_for_metrics_that_is_taken_is_found_before_the_start(
    check: Check, taken_port: int, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=rf"port {taken_port} of 127\.0\.0\.1 is in use.*R3_METRICS_PORT"):
        check(asked(tmp_path, metrics_port=taken_port))


@pytest.mark.parametrize("check", [check_serve, check_api])
def test_a_file_of_authorities_for_webhooks_that_is_not_there_is_found_before_the_start(
    check: Check, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=r"R3_WEBHOOK_CA_FILE=.*nowhere\.pem cannot be used \(No such file"):
        check(asked(tmp_path, webhook_ca_file=tmp_path / "nowhere.pem"))


@pytest.mark.usefixtures("no_low_ports")
def test_a_port_that_only_root_may_listen_on_is_refused_with_those_that_all_may() -> None:
    told = f"port {LOW} may not be listened on by this user; give one above 1023 with --port/R3_PORT"
    with pytest.raises(Misconfigured, match=f"^{re.escape(told)}$"):
        check_port("127.0.0.1", LOW, "port")


def test_a_redis_that_is_too_old_is_refused_with_its_url_its_version_and_the_remedy(
    queue_server: EmbeddedServer,
) -> None:
    check_redis_answers(queue_server.url)
    with older(queue_server.url) as url:
        with pytest.raises(Misconfigured, match=rf"^{re.escape(url)}: Redis 6\.\S+ is too old: 7\.0 or newer.*upgrade"):
            check_redis_answers(url)
