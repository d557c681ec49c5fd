"""`r3 keys`: beside a running `r3 serve`, alone, and without any server; and what may listen where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import SecretStr

from server.embedded import EmbeddedServer, lent, locked
from server.keys import KEY, digest_of, key_shown
from server.keys_file import read_keys_file
from server.misconfigured import Misconfigured
from server.preflight import check_exposure, check_metrics_port, load_settings
from server.serve import child_environment
from server.settings import Settings
from tests.server.test_cli import Environment, r3, refusal
from tests.server.test_serve import Served
from tests.server.waiting import until


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    return {**plain, "R3_DATA_DIR": str(tmp_path / "data"), "R3_RUNNER": "fake", "R3_LOG_LEVEL": "warning"}


def keys(*arguments: str, environment: Environment) -> subprocess.CompletedProcess[str]:
    done = r3("keys", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    return done


def audit_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert all(line["logger"] == "r3.audit" for line in found)
    return found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, which is a full disk")
def test_a_key_that_nobody_could_read_is_not_made(environment: Environment) -> None:
    command = [sys.executable, "-P", "-m", "server.cli", "keys", "create", "alice"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "r3: the key cannot be printed (No space left on device), and was not made\n"
    closed = subprocess.run(
        ["sh", "-c", f"{' '.join(command)} >&-"], env=environment, stderr=subprocess.PIPE, check=False
    )
    assert (closed.returncode, b"standard output is closed" in closed.stderr) == (2, True)
    assert len(keys("list", environment=environment).stdout.splitlines()) == 1
    assert "from now on" in keys("create", "alice", environment=environment).stderr


@pytest.mark.row("L2")
def test_keys_are_made_listed_limited_and_revoked_without_a_running_server(environment: Environment) -> None:
    made = keys("create", "alice", "--scope", "read", "--scope", "admin", environment=environment)
    secret = made.stdout.strip()
    assert KEY.fullmatch(secret), "standard output is the key and nothing else"
    key_id = secret.rpartition("_")[0][:19]
    assert "shown this once" in made.stderr
    assert "from now on requests without a key are refused" in made.stderr
    second = keys("create", "alice", "--tenant", "team", "--requests-per-min", "7", environment=environment)
    assert "from now on" not in second.stderr
    listed = keys("list", environment=environment).stdout.splitlines()
    assert listed[0].split()[:4] == ["ID", "NAME", "TENANT", "SCOPES"]
    assert [line.split()[1:5] for line in listed[1:]] == [
        ["alice", "alice", "read,admin", "-"],
        ["alice", "team", "generate", "7"],
    ]
    assert "2 keys are named alice" in refusal("keys", "revoke", "alice", environment=environment)
    revoked = keys("revoke", key_id, environment=environment)
    keys("revoke", "alice", environment=environment)
    assert len(keys("list", environment=environment).stdout.splitlines()) == 1
    assert len(keys("list", "--revoked", environment=environment).stdout.splitlines()) == 3
    for done in (made, second, revoked):
        [line] = audit_lines(done)
        assert line["who"] == "local"
        assert "@" in line["from_"]
        assert line["timestamp"]
        assert secret not in done.stderr
        assert digest_of(secret) not in done.stderr
    assert (audit_lines(made)[0]["event"], audit_lines(made)[0]["key"]) == ("key created", key_id)
    assert (audit_lines(revoked)[0]["event"], audit_lines(revoked)[0]["tenant"]) == ("key revoked", "alice")


def test_what_a_tenant_may_have_is_set_bit_by_bit_and_shown(environment: Environment) -> None:
    done = keys("limits", "team", "--queued", "5", "--weight", "2.5", environment=environment)
    assert audit_lines(done)[0]["event"] == "tenant limited"
    shown = keys("limits", "team", "--running", "2", environment=environment).stdout.split()
    assert shown == ["jobs-per-min", "-", "queued", "5", "running", "2", "weight", "2.5"]
    assert not audit_lines(keys("limits", "team", environment=environment)), "who looks does nothing"
    cleared = keys("limits", "team", "--clear", environment=environment).stdout.split()
    assert cleared == ["jobs-per-min", "-", "queued", "-", "running", "-", "weight", "1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "a/b"], "cannot name a tenant"),
        (["create", "a", "--tenant", ".."], "cannot name a tenant"),
        (["create", "a", "--scope", "all"], "use read, generate, admin"),
        (["create", "a", "--requests-per-min", "1000001"], "1000001 requests a minute are too many"),
        (["hash", "a", "--requests-per-min", "1000001"], "1000001 requests a minute are too many"),
        (["revoke", "nobody"], "no key has the id or name 'nobody'"),
        (["limits", "a", "--weight", "0"], "weight 0.0 must be from"),
        (["limits", "a", "--queued", "-1"], "queued -1 must be from"),
        (["limits", "a/b"], "cannot name a tenant"),
        (["list", "--redis-url", "redis://127.0.0.1:1/0"], "no answer from Redis"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], told: str, environment: Environment) -> None:
    assert told in refusal("keys", *arguments, environment=environment)


def test_a_key_that_is_given_where_its_id_belongs_is_not_repeated(environment: Environment) -> None:
    secret = keys("create", "a", environment=environment).stdout.strip()
    keys("revoke", "a", environment=environment)
    assert secret not in refusal("keys", "revoke", secret, environment=environment)


def test_an_entry_for_the_file_is_made_without_a_server(environment: Environment, tmp_path: Path) -> None:
    done = keys("hash", "ci", "--tenant", "team", "--scope", "read", environment=environment)
    secret = done.stderr.split()[-1]
    assert KEY.fullmatch(secret)
    assert secret not in done.stdout
    assert not (tmp_path / "data").exists()
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n{done.stdout}tenants: {{team: {{queued: 3}}}}")
    key = key_shown(secret, read_keys_file(file).keys)
    assert key is not None
    assert (key.name, key.tenant, key.scopes) == ("ci", "team", ("read",))
    asked = {**environment, "R3_KEYS_FILE": str(file)}
    assert f"{key.id}  ci" in keys("list", environment=asked).stdout
    assert "take it out there" in refusal("keys", "revoke", key.id, environment=asked)
    assert "change them there" in refusal("keys", "limits", "team", "--queued", "4", environment=asked)
    assert keys("limits", "team", environment=asked).stdout.split()[3] == "3"


def test_a_key_that_is_there_already_can_be_put_into_a_file(environment: Environment) -> None:
    secret = keys("create", "a", environment=environment).stdout.strip()
    command = [sys.executable, "-P", "-m", "server.cli", "keys", "hash", "a", "--stdin"]
    done = subprocess.run(command, env=environment, input=f"{secret}\n", capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout)[0]["sha256"] == digest_of(secret)
    wrong = subprocess.run(command, env=environment, input="hunter2\n", capture_output=True, text=True, check=False)
    assert (wrong.returncode, "hunter2" in wrong.stderr) == (2, False)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_beside_a_running_serve_keys_open_it_and_close_it(environment: Environment) -> None:
    served = Served(environment)
    try:
        served.ready()
        with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as http:
            assert http.get("/jobs").status_code == 200
            secret = keys("create", "alice", environment=environment).stdout.strip()
            until(lambda: http.get("/jobs").status_code == 401)
            bearer = {"Authorization": f"Bearer {secret}"}
            done = http.post("/generate", json={"prompt": "a red circle"}, headers=bearer)
            assert (done.status_code, done.json()["status"]) == (200, "succeeded")
            picture = done.json()["trajectories"][0]["image"]["url"]
            assert http.get(picture).status_code == 200
            keys("revoke", "alice", environment=environment)
            until(lambda: http.get("/jobs", headers=bearer).status_code == 401)
            assert http.get("/livez").status_code == 200
        assert served.stop() == 0
    finally:
        served.close()


def test_a_running_server_is_lent_and_one_that_was_started_for_the_moment_is_ended(tmp_path: Path) -> None:
    with locked(tmp_path) as directory, EmbeddedServer(directory) as server, lent(tmp_path) as url:
        assert url == server.url
    assert server.is_running() is False
    with lent(tmp_path) as url:
        socket = Path(url.removeprefix("unix://"))
        assert socket.exists()
    assert not socket.exists()


def test_a_directory_whose_holder_has_its_queue_elsewhere_says_so(tmp_path: Path) -> None:
    with locked(tmp_path) as directory:
        directory.record(elsewhere=True)
        with pytest.raises(Misconfigured, match="given another queue; name the same one"), lent(tmp_path):
            pass
        directory.record()
        with pytest.raises(Misconfigured, match="in use by process"), lent(tmp_path, timeout_s=0.3):
            pass


# what may listen where


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"R3_HOST": "0.0.0.0"}, "set R3_AUTH=keys"),
        ({"R3_HOST": "0.0.0.0", "R3_AUTH": "none"}, "R3_AUTH=none may ask no caller for a key"),
        ({"R3_INSECURE": "1", "R3_AUTH": "keys"}, "leave out one"),
        ({"R3_AUTH": "maybe"}, "R3_AUTH=maybe is refused"),
        ({"R3_KEYS_FILE": "/nowhere/keys.yaml"}, "R3_KEYS_FILE=/nowhere/keys.yaml cannot be read"),
        ({"R3_KEYS_FILE": "/nowhere/keys.yaml", "R3_AUTH": "none"}, "asks nobody for one"),
        ({"R3_METRICS_PORT": "8000", "R3_PORT": "8000"}, "cannot both listen on port 8000"),
        ({"R3_REQUESTS_PER_MIN": "0"}, "R3_REQUESTS_PER_MIN=0 is refused"),
        ({"R3_TRUSTED_PROXIES": "127.0.0.1,*"}, "'*' is no address and no network"),
    ],
)
def test_what_would_let_strangers_in_or_cannot_work_is_refused(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def look() -> None:
        settings = load_settings({})
        check_exposure(settings)
        check_metrics_port(settings)

    with pytest.raises(Misconfigured, match=re.escape(told)):
        look()


@pytest.mark.parametrize("command", ["serve", "api"])
def test_a_secret_that_is_too_short_is_refused_and_not_repeated(command: str, environment: Environment) -> None:
    line = refusal(command, environment={**environment, "R3_TOKEN_SECRET": "hunter2"})
    assert "R3_TOKEN_SECRET=*** is refused: it has 7 characters" in line


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"R3_AUTH": "none"},
        {"R3_HOST": "0.0.0.0", "R3_AUTH": "keys"},
        {"R3_HOST": "0.0.0.0", "R3_INSECURE": "1"},
        {"R3_HOST": "0.0.0.0", "R3_INSECURE": "1", "R3_AUTH": "none"},
    ],
)
def test_what_asks_for_keys_or_is_reached_from_here_alone_may_listen(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_exposure(load_settings({}))


def test_children_of_serve_are_told_every_setting_of_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s" * 40
    given = Settings(
        auth="none",
        token_secret=SecretStr(secret),
        requests_per_min=None,
        keys_file=tmp_path / "k",
        trusted_proxies=("10.0.0.0/8", "::1"),
    )
    for name, value in child_environment(given).items():
        if name.startswith("R3_"):
            monkeypatch.setenv(name, value)
    told = Settings()
    assert (told.auth, told.requests_per_min, told.keys_file) == ("none", None, tmp_path / "k")
    assert told.trusted_proxies == ("10.0.0.0/8", "::1")
    assert told.token_secret is not None
    assert told.token_secret.get_secret_value() == secret
    assert secret not in repr(told)
