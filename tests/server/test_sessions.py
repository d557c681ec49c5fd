"""A session's cookie: what it is good for, when it ends, and whose calls it counts in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.keys import Key, digest_of, id_of, new_secret
from server.sessions import SESSION_S, Sessions, sessions_shown

SECRET = "a secret of thirty-two characters"
NOW = 1_800_000_000.0


def made() -> Key:
    secret = new_secret()
    key_id = id_of(secret)
    assert key_id is not None
    return Key(key_id, "alice", "alice", ("generate",), digest_of(secret))


def test_a_session_speaks_for_its_key_until_it_expires() -> None:
    key, sessions = made(), Sessions(SECRET)
    value = sessions.value(key, NOW)
    assert sessions.read(value, {key.id: key}, NOW) == key
    assert sessions.read(value, {key.id: key}, NOW + SESSION_S - 1) == key
    assert sessions.read(value, {key.id: key}, NOW + SESSION_S) is None


def test_a_session_holds_nothing_of_the_key_but_its_id() -> None:
    key = made()
    assert key.sha256 not in Sessions(SECRET).value(key, NOW)


def test_a_session_ends_with_its_key() -> None:
    key, sessions = made(), Sessions(SECRET)
    value = sessions.value(key, NOW)
    assert sessions.read(value, {}, NOW) is None
    assert sessions.read(value, {key.id: key.revoked(1)}, NOW) is None
    assert sessions.read(value, {key.id: replace(key, sha256=digest_of(new_secret()))}, NOW) is None


@pytest.mark.parametrize(
    "change", [lambda v: v[:-2] + ("A" if v[-2] != "A" else "B") + v[-1], lambda v: "A" + v, lambda v: ""]
)
def test_what_was_changed_or_signed_elsewhere_is_none(change: object) -> None:
    key, sessions = made(), Sessions(SECRET)
    value = sessions.value(key, NOW)
    assert callable(change)
    assert sessions.read(change(value), {key.id: key}, NOW) is None
    assert Sessions("another " + SECRET).read(value, {key.id: key}, NOW) is None


SAME, SITE, CROSS, TYPED = (("sec-fetch-site", value) for value in ("same-origin", "same-site", "cross-site", "none"))
OURS, THEIRS, NULL = (("origin", value) for value in ("https://r3.example", "https://evil.example", "null"))


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [
        ("POST", [SAME], True),
        ("POST", [SAME, OURS], True),
        ("POST", [OURS], True),
        ("GET", [SAME], True),
        ("GET", [TYPED], True),
        ("GET", [], True),
        ("POST", [], False),
        ("POST", [TYPED], False),
        ("POST", [SITE], False),
        ("POST", [CROSS], False),
        ("POST", [CROSS, OURS], False),
        ("POST", [THEIRS], False),
        ("POST", [NULL], False),
        ("DELETE", [SITE, OURS], False),
        ("GET", [CROSS], False),
        ("GET", [SITE], False),
        ("GET", [THEIRS], False),
    ],
)
def test_a_cookie_counts_only_in_calls_of_our_own_page(
    method: str, headers: list[tuple[str, str]], counts: bool
) -> None:
    given = [("host", "r3.example"), ("cookie", "theme=dark; r3_session=abc"), *headers]
    scope = {"type": "http", "method": method, "headers": [(n.encode(), v.encode()) for n, v in given]}
    assert sessions_shown(scope, None) == (["abc"] if counts else [])


def test_by_https_a_cookie_counts_that_no_other_name_of_the_site_can_plant() -> None:
    headers = [(b"sec-fetch-site", b"same-origin"), (b"cookie", b"r3_session=planted; __Host-r3_session=ours")]
    scope = {"type": "http", "method": "GET", "headers": headers}
    assert sessions_shown(scope, None) == ["planted"]
    assert sessions_shown(scope, "https://r3.example") == sessions_shown({**scope, "scheme": "https"}, None) == ["ours"]


def test_a_cookie_that_was_planted_locks_nobody_out() -> None:
    key, other, sessions = made(), made(), Sessions(SECRET)
    value, keys = sessions.value(key, NOW), {key.id: key, other.id: other}
    assert sessions.read_any(["nonsense", value], keys, NOW) == key
    assert sessions.read_any([value, value], keys, NOW) == key
    assert sessions.read_any([value, sessions.value(other, NOW)], keys, NOW) is None, "nobody knows whose it is"
    assert sessions.read_any([], keys, NOW) is None
