"""What a key is, what a link is, what the keys file says, and how limits are told: without Redis and without HTTP."""

from __future__ import annotations

import base64
import hmac
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.keys import Key, TenantLimits, digest_of, id_of, key_shown, new_secret, scopes_named, tenant_name
from server.keys_file import KeysFileError, entry, read_keys_file
from server.links import Linked, Links
from server.logs import struck
from server.rate_limits import JOBS, LIMITS, QUEUED, REQUESTS, Limit, headers_of, note

SECRET = "s" * 32
HOUR = 3600
NOON = 1_800_000_000.0


def made(**fields: Any) -> tuple[Key, str]:
    secret = new_secret()
    key_id = id_of(secret)
    assert key_id is not None
    given = {"name": "ci", "tenant": "team", "scopes": ("generate",), "sha256": digest_of(secret), **fields}
    return Key(key_id, **given), secret


def test_a_key_holds_256_random_bits_and_begins_with_its_id() -> None:
    key, secret = made()
    assert re.fullmatch(r"r3_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", secret)
    assert len(base64.urlsafe_b64decode(secret.split("_", 2)[2] + "=")) == 32
    assert secret.startswith(f"{key.id}_")
    assert len({new_secret() for _ in range(100)}) == 100


@pytest.mark.row("T1")
def test_what_is_kept_of_a_key_is_not_the_key() -> None:
    key, secret = made(requests_per_min=5, created_ms=1)
    assert secret.removeprefix(key.id) not in key.to_json()
    assert Key.from_json(key.id, key.to_json()) == key
    assert Key.from_json(key.id, key.revoked(7).to_json()).revoked_ms == 7


@pytest.mark.parametrize("text", ["[]", "{}", '{"name": "a", "tenant": "a", "scopes": ["read"], "sha256": "", "x": 1}'])
def test_a_record_that_we_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Key.from_json("r3_0", text)


def test_only_the_whole_key_opens() -> None:
    key, secret = made()
    known = {key.id: key}
    assert key_shown(secret, known) is key
    other = new_secret()
    for wrong in ("", key.id, secret[:-1], secret + "x", secret.upper(), " " + secret, key.id + other[19:], other, "ä"):
        assert key_shown(wrong, known) is None
    assert key_shown(secret, {key.id: key.revoked(1)}) is None
    assert key_shown(key.sha256, known) is None, "who reads the database cannot come in with what is there"


@pytest.mark.row("T1")
def test_one_comparison_in_constant_time_is_made_whatever_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    really = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return really(one, other)

    monkeypatch.setattr("server.keys.hmac.compare_digest", compare)
    key, secret = made()
    shown = [secret, new_secret(), key.id + "_" + "x" * 43, "nonsense", ""]
    assert [key_shown(one, {key.id: key}) for one in shown] == [key, None, None, None, None]
    assert len(compared) == len(shown)
    assert {(len(one), len(other)) for one, other in compared} == {(64, 64)}


@pytest.mark.parametrize("name", ["", ".", "..", "-x", ".x", "a/b", "a:b", "a b", "ä", "a\n", "x" * 129, "a\0"])
def test_a_name_that_could_leave_its_folder_or_its_redis_key_names_no_tenant(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a tenant"):
        tenant_name(name)


@pytest.mark.parametrize("name", ["a", "local", "team-a", "me@example.com", "_", "x" * 128])
def test_a_plain_name_names_a_tenant(name: str) -> None:
    assert tenant_name(name) == name


def test_scopes_are_named_once_and_in_one_order() -> None:
    assert scopes_named(["admin", "read", "admin"]) == ("read", "admin")
    for wrong in ([], ["all"], ["READ"]):
        with pytest.raises(ValueError, match="use read, generate, admin"):
            scopes_named(wrong)


@pytest.mark.parametrize("wrong", [{"queued": 0}, {"running": -1}, {"jobs_per_min": 10**9}, {"weight": 0.0}])
def test_limits_that_would_lock_out_or_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} .* must be from"):
        TenantLimits(**wrong)
    with pytest.raises(ValueError, match="weight nan"):
        TenantLimits(weight=float("nan"))


# signed links


def test_a_token_names_its_tenant_and_its_job() -> None:
    links = Links(SECRET, HOUR)
    token = links.token("team", "job_1", NOON)
    assert links.read(token, NOON) == Linked("team", "job_1")
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", token), "it goes into a URL as it is"


def test_tokens_of_one_hour_are_equal_and_good_for_one_to_two_hours() -> None:
    links = Links(SECRET, HOUR)
    hour = NOON - NOON % HOUR
    assert (
        links.token("t", "j", hour + 1) == links.token("t", "j", hour + HOUR) != links.token("t", "j", hour + HOUR + 1)
    )
    token = links.token("t", "j", hour + 1)
    assert links.read(token, hour + 2 * HOUR - 1) == Linked("t", "j")
    assert links.read(token, hour + 2 * HOUR) is None


def test_a_token_of_another_secret_is_worthless() -> None:
    assert Links("x" * 32, HOUR).read(Links(SECRET, HOUR).token("t", "j", NOON), NOON) is None


@given(place=st.integers(0, 200), other=st.sampled_from("abcXYZ019-_."))
def test_a_token_with_one_character_changed_is_worthless(place: int, other: str) -> None:
    links = Links(SECRET, HOUR)
    token = links.token("team", "job_1", NOON)
    place %= len(token)
    changed = token[:place] + other + token[place + 1 :]
    # The last character of base64 holds two bits that mean nothing: an equal signature spelt otherwise is refused too.
    assert (links.read(changed, NOON) is None) == (changed != token)


@given(text=st.text(max_size=300))
def test_nonsense_is_no_token(text: str) -> None:
    assert Links(SECRET, HOUR).read(text, NOON) is None


def test_a_token_cannot_be_made_longer_by_moving_its_parts() -> None:
    links = Links(SECRET, HOUR)
    content, _, signature = links.token("a", "job_1", NOON).partition(".")
    moved = base64.urlsafe_b64encode(b"a job_2 99999999999").decode().rstrip("=")
    for forged in (f"{moved}.{signature}", f"{content}.", f".{signature}", f"{content}.{signature}.{signature}"):
        assert links.read(forged, NOON) is None


# the keys file


def test_an_entry_is_read_back_as_the_key_that_it_is_of(tmp_path: Path) -> None:
    key, secret = made(requests_per_min=60, created_ms=5)
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n{entry(key)}tenants:\n  team: {{weight: 2, queued: 5, running: 1, jobs_per_min: 9}}\n")
    read = read_keys_file(file)
    assert read.keys == {key.id: key}
    assert key_shown(secret, read.keys) == key
    assert read.tenants == {"team": TenantLimits(9, 5, 1, 2.0)}
    assert secret.removeprefix(key.id) not in file.read_text()


def test_json_and_an_empty_file_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [], "tenants": {"a": {"queued": 3}}}')
    assert read_keys_file(file).tenants == {"a": TenantLimits(queued=3)}
    file.write_text("")
    assert not read_keys_file(file).keys


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keys: [", "line 1, column 8"),
        ("keys: 3", "keys: "),
        ("key: []", "key: "),
        ("- a", "the file: "),
        ("tenants: {a/b: {}}", "cannot name a tenant"),
        ("tenants: {a: {weight: 0}}", "weight 0"),
        ("tenants: {a: {queue: 1}}", "tenants.a.queue"),
        ("keys: [{id: r3_1, name: a, tenant: a, scopes: [read], sha256: x}]", "keys.0.id"),
        ("keys: [{scopes: [all]}]", "scope 'all' is not known"),
        ("keys: [{requests_per_min: '5'}]", "keys.0.requests_per_min"),
        ("keys: [{created_ms: 99999999999999999999}]", "keys.0.created_ms"),
        ("keys: []\ntenants: {}\nkeys: []", "line 3, column 1: this name is there twice"),
        ("tenants: {a: {queued: 1}, a: {queued: 50}}", "line 1, column 27: this name is there twice"),
        ("keys: [{scopes: [read], 'scopes': [admin]}]", "this name is there twice"),
        ("&a [*a]", "the file: "),
        ("\0", "not YAML"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
    ],
)
def test_a_file_with_a_mistake_is_refused_whole_and_the_mistake_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(KeysFileError, match=re.escape(told)) as caught:
        read_keys_file(file)
    assert str(file) in str(caught.value)


def test_a_key_that_was_put_into_the_file_by_mistake_is_not_repeated(tmp_path: Path) -> None:
    _, secret = made()
    file = tmp_path / "keys.yaml"
    for text in (
        *(f"keys: [{{{field}: {secret}}}]" for field in ("id", "sha256", "scopes")),
        f"{{{secret}: 1, {secret}: 2}}",
    ):
        file.write_text(text)
        with pytest.raises(KeysFileError) as caught:
            read_keys_file(file)
        assert secret not in str(caught.value)


def test_a_file_with_one_id_twice_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    key, _ = made()
    file = tmp_path / "keys.yaml"
    with pytest.raises(KeysFileError, match="cannot be read"):
        read_keys_file(file)
    file.write_text(f"keys:\n{entry(key)}{entry(key)}")
    with pytest.raises(KeysFileError, match=f"{key.id} is there twice"):
        read_keys_file(file)
    file.write_bytes(b"#" * 5_000_000)
    with pytest.raises(KeysFileError, match="more than"):
        read_keys_file(file)
    file.write_bytes(b"\xff")
    with pytest.raises(KeysFileError, match="not UTF-8"):
        read_keys_file(file)


# how limits are told


def test_limits_are_told_as_the_draft_says() -> None:
    scope: dict[str, Any] = {LIMITS: {}}
    assert headers_of(scope) == {}
    note(scope, [Limit(REQUESTS, 600, 599, 1), Limit(JOBS, 30, 0, 2), Limit(QUEUED, 5, 4)])
    assert headers_of(scope) == {
        "RateLimit-Policy": '"requests";q=600;w=60, "jobs";q=30;w=60, "queued";q=5;qu="concurrent-requests"',
        "RateLimit": '"requests";r=599;t=1, "jobs";r=0;t=2, "queued";r=4',
    }
    note(scope, [Limit(JOBS, 30, 7, 2)])
    assert '"jobs";r=7' in headers_of(scope)["RateLimit"]
    note({}, [Limit(JOBS, 30, 7, 2)])  # an open path's answer tells of none


@pytest.mark.row("L1")
def test_keys_and_tokens_are_struck_out_of_every_log_line() -> None:
    key, secret = made()
    token = Links(SECRET, HOUR).token("t", "j", NOON)
    line = struck(None, "", {"path": f"/jobs/{secret}", "exception": f"GET /images/x?token={token}&a=1 failed", "n": 1})
    assert line == {"path": f"/jobs/{key.id}_***", "exception": "GET /images/x?token=***&a=1 failed", "n": 1}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_path_gives_the_terminal_no_orders(log_format: Literal["json", "console"]) -> None:
    program = f"""
import sys, structlog
from server.logs import configure_logging
configure_logging("info", {log_format!r}, sys.stdout)
bad = "/\\x1b]0;pwn\\x07\\x9b31m\\u202e"
structlog.get_logger("r3.api").info("request " + bad, path=bad)
try:
    raise RuntimeError(bad)
except RuntimeError:
    structlog.get_logger("r3.api").exception("unforeseen error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = done.stdout.replace("\x1b[0m", "").replace("\x1b[1m", "")
    told = re.sub(r"\x1b\[[0-9;]*m", "", told)  # the renderer's own colours
    assert not [c for c in told if not c.isprintable() and c != "\n"]
    assert ("\\x1b]0;pwn" in told) == (log_format == "console")
    assert "Traceback" in told


@pytest.mark.row("L1")
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_they_are_struck_out_of_tracebacks_too(log_format: Literal["json", "console"]) -> None:
    key, secret = made()
    program = f"""
import sys, structlog
from server.logs import configure_logging
configure_logging("info", {log_format!r}, sys.stdout)
try:
    raise RuntimeError("GET /images/x?token=abc.def of " + sys.argv[1])
except RuntimeError:
    structlog.get_logger("r3.api").exception("unforeseen error")
"""
    done = subprocess.run([sys.executable, "-c", program, secret], capture_output=True, text=True, check=True)
    assert f"RuntimeError: GET /images/x?token=*** of {key.id}_***" in done.stdout
    assert "abc.def" not in done.stdout
    assert secret.removeprefix(key.id) not in done.stdout
