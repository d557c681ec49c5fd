"""`r3 serve` as a whole: real processes, a real queue, the fake model; it leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from server.embedded import lent
from server.queue_records import ROOT
from server.serve import child_environment
from server.settings import Settings, default_checkpoint
from tests.programs import needed_malloc
from tests.server.promises import promised
from tests.server.waiting import is_alive, until

Start = Callable[..., "Served"]


class Served:
    """A running `r3 serve`, what it says, and the processes it has."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", "server.cli", "serve", "--port", "0", "--worker-port", "0", *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self.children: set[int] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def said(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in list(self.lines))

    def ready(self, times: int = 1) -> Served:
        until(lambda: self.said("ready: ") >= times or self.process.poll() is not None, timeout_s=40)
        assert self.process.poll() is None, self.lines
        self.children |= set(self.running().values())
        return self

    @property
    def url(self) -> str:
        return next(m[1] for line in self.lines if (m := re.search(r"ready: (\S+)$", line)))

    def running(self) -> dict[str, int]:
        """Its children by name."""
        found = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                command = (status.parent / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.process.pid:
                name = next((w.decode() for w in command if w in (b"api", b"worker")), "queue")
                found[name] = int(status.parent.name)
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        """End it where it still runs, and what reads from it."""
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def nothing_is_left(self) -> bool:
        return not any(is_alive(pid) for pid in self.children)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("R3_", "LD_PRELOAD"))}
    return {**plain, "R3_DATA_DIR": str(tmp_path / "data"), "R3_RUNNER": "fake", "R3_LOG_LEVEL": "warning"}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start a `r3 serve`; all are ended with the test."""
    started: list[Served] = []

    def begin(*arguments: str, **variables: str) -> Served:
        started.append(Served({**environment, **variables}, *arguments))
        return started[-1]

    yield begin
    for served in started:
        served.close()


@contextmanager
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as http:
        yield http


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


def test_a_job_runs_to_its_end_and_ctrl_c_leaves_no_process(start: Start) -> None:
    served = start().ready()
    assert set(served.running()) == {"api", "worker", "queue"}
    with client(served) as http:
        job = http.post("/generate", json={"prompt": "a red circle"})
        assert job.status_code == 200, job.text
        assert job.json()["status"] == "succeeded"
    assert served.stop(signal.SIGINT) == 0
    assert served.nothing_is_left()
    assert served.lines[-1].startswith("r3  stopping") or "stopping" in served.lines[-2]


def test_sigterm_stops_it_too(start: Start) -> None:
    served = start().ready()
    assert served.stop(signal.SIGTERM) == 0
    assert served.nothing_is_left()


def test_a_parent_that_is_killed_leaves_no_process(start: Start) -> None:
    served = start().ready()
    served.process.kill()
    served.process.wait()
    until(served.nothing_is_left)


def test_a_second_serve_on_the_same_data_is_refused_and_told_who_holds_it(start: Start) -> None:
    first = start().ready()
    second = start()
    assert second.process.wait(30) == 2
    until(lambda: second.said("in use by process") == 1)
    assert second.said(f"process {first.process.pid};") == 1
    assert len(second.lines) == 1


@pytest.mark.parametrize("victim", ["api", "worker", "queue"])
def test_a_child_that_dies_is_started_again(victim: str, start: Start) -> None:
    served = start().ready()
    os.kill(served.running()[victim], signal.SIGKILL)
    until(lambda: served.said(f"{victim} ended") == 1)
    until(lambda: set(served.running()) == {"api", "worker", "queue"})
    if victim != "queue":
        served.ready(times=2)
    with client(served) as http:
        until(lambda: answers(http), timeout_s=20)
        assert http.post("/generate", json={"prompt": "a red circle"}).json()["status"] == "succeeded"
    served.children |= set(served.running().values())
    assert served.stop() == 0
    assert served.nothing_is_left()


def test_the_job_of_a_worker_that_dies_is_finished_by_the_next(start: Start) -> None:
    served = start(R3_FAKE_STEP_S="0.02", R3_LEASE_S="2", R3_RENEW_S="0.4").ready()
    with client(served) as http:
        asked = {"prompt": "a red circle", "max_rounds": 2, "early_stop": False}
        job = http.post("/generate", json=asked, headers={"Prefer": "respond-async"}).json()
        until(lambda: bool(http.get(f"/jobs/{job['id']}").json()["trajectories"][0]["rounds"]), timeout_s=20)
        os.kill(served.running()["worker"], signal.SIGKILL)
        until(lambda: http.get(f"/jobs/{job['id']}").json()["status"] == "succeeded", timeout_s=40)
        done = http.get(f"/jobs/{job['id']}").json()
    assert done["attempt"] == 2
    assert len(done["trajectories"][0]["rounds"]) == 3


def test_a_worker_that_is_misconfigured_ends_everything_with_its_one_line(start: Start) -> None:
    served = start(R3_RUNNER="model", R3_DEVICE="cuda:63")
    assert served.process.wait(60) == 2
    until(lambda: served.said(r"^r3: ") == 1)
    assert served.said("cuda:63") == 1
    assert not served.running()


def test_a_checkpoint_whose_configs_are_broken_ends_everything_with_its_one_line(start: Start, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(default_checkpoint(), broken)
    config = json.loads((broken / "llm_config.json").read_text())
    (broken / "llm_config.json").write_text(json.dumps({**config, "num_attention_heads": None}))
    served = start("--checkpoint", str(broken), R3_RUNNER="model")
    assert served.process.wait(60) == 2
    until(lambda: served.said(r"^r3: ") == 1)
    assert served.said("Traceback") == 0
    assert served.said(r"num_attention_heads is null") == 1
    assert not served.running()


def test_a_second_ctrl_c_does_not_wait_for_the_step_in_hand(start: Start) -> None:
    served = start(R3_FAKE_STEP_S="3600").ready()
    with client(served) as http:
        http.post("/generate", json={"prompt": "a red circle"}, headers={"Prefer": "respond-async"})
        until(lambda: http.get("/jobs").json()["jobs"][0]["status"] == "running")
    served.process.send_signal(signal.SIGINT)
    until(lambda: served.said("stopping") == 1)
    with promised(10.0):
        assert served.stop(signal.SIGINT) == 0  # which waits for less than the step, and than the drain limit
    assert served.nothing_is_left()


def test_a_child_reads_exactly_the_settings_that_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("R3_")]:
        monkeypatch.delenv(name)
    asked = Settings(
        port=9,
        insecure=True,
        allowed_hosts=("a.example", "b.example"),
        data_dir=tmp_path,
        kv_cache_gb=1.5,
        dtype="bf16",
        webhook_allow=("*.example.com", "10.0.0.0/8"),
        webhook_ca_file=tmp_path / "ca.pem",
        similarity_models=(f"clip={tmp_path}", f"dinov2={tmp_path}"),
    )
    for name, value in child_environment(asked).items():
        monkeypatch.setenv(name, value)
    assert Settings() == asked


def test_what_is_no_setting_is_not_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("R3_CHEKPOINT", "x")
    handed_on = child_environment(Settings(data_dir=tmp_path))
    assert "R3_CHEKPOINT" not in handed_on
    assert Settings.unknown_variables(handed_on) == []


def test_a_child_that_never_comes_up_ends_everything_with_a_hint(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise RuntimeError('a broken installation')")
    served = start(PYTHONPATH=str(tmp_path))
    assert served.process.wait(60) == 1
    until(lambda: served.said("r3 doctor") == 1)
    assert not served.running()


def test_jobs_are_there_after_a_stop_and_a_start(start: Start) -> None:
    served = start().ready()
    with client(served) as http:
        job = http.post("/generate", json={"prompt": "a red circle"}).json()
    served.stop()
    again = start().ready()
    with client(again) as http:
        assert json.dumps(http.get(f"/jobs/{job['id']}").json()["trajectories"]) == json.dumps(job["trajectories"])


@pytest.mark.parametrize(("given", "kept_for_s"), [({}, None), ({"R3_JOB_TTL_S": "7200"}, 7200)])
def test_jobs_are_kept_for_ever_unless_a_lifetime_is_asked_for(
    start: Start, environment: dict[str, str], given: dict[str, str], kept_for_s: int | None
) -> None:
    served = start(**given).ready()
    with client(served) as http:
        job = http.post("/generate", json={"prompt": "a red circle"}).json()
    assert job["status"] == "succeeded"
    with lent(Path(environment["R3_DATA_DIR"])) as url, redis.Redis.from_url(url, protocol=2) as database:
        left_s = database.ttl(f"{ROOT}job:{job['id']}")
    assert left_s == (-1 if kept_for_s is None else pytest.approx(kept_for_s, abs=120))


def test_a_back_up_of_the_data_directory_has_every_job_and_picture(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    """By the commands of docs/operations.md."""
    served = start().ready()
    with client(served) as http:
        job = http.post("/generate", json={"prompt": "a red circle"}).json()
        picture = http.get(job["trajectories"][0]["image"]["url"]).content
    served.stop()
    archive, restored = tmp_path / "backup.tar.gz", tmp_path / "restored"
    subprocess.run(["tar", "-C", environment["R3_DATA_DIR"], "-czf", archive, "redis", "images"], check=True)
    restored.mkdir()
    subprocess.run(["tar", "-C", restored, "-xzf", archive], check=True)
    again = start("--data-dir", str(restored)).ready()
    with client(again) as http:
        assert http.get(job["links"]["self"]).json() == job
        assert http.get(job["trajectories"][0]["image"]["url"]).content == picture


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("given", "is_there"), [({}, True), ({"LD_PRELOAD": ""}, False), ({"R3_DEVICE": "cuda"}, False)]
)
def test_a_worker_on_a_cpu_has_the_quicker_malloc_unless_it_is_told_otherwise(
    start: Start, given: dict[str, str], is_there: bool
) -> None:
    name = needed_malloc()
    children = start(**{"R3_DEVICE": "cpu", **given}).ready().running()
    has = {child for child, pid in children.items() if name in Path(f"/proc/{pid}/maps").read_text()}
    assert has == ({"worker"} if is_there else set())
