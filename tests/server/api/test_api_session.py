"""Signing in: a key makes a cookie, and the cookie is good where a key is, in calls of the server's own page alone."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.server.api.keyed import Holder, KeyedApi, revoke
from tests.server.api.running import RunningApi
from tests.server.waiting import until

OURS = {"Sec-Fetch-Site": "same-origin"}


def signed_in(keyed: KeyedApi, holder: Holder) -> httpx.Client:
    browser = httpx.Client(base_url=keyed.api.url, headers=OURS)
    keyed.clients.append(browser)
    answer = browser.post("/session", headers={"Authorization": f"Bearer {holder.secret}"})
    assert answer.status_code == 200, answer.text
    return browser


def test_the_cookie_is_for_browsers_alone_and_holds_no_key(keyed: KeyedApi) -> None:
    holder = keyed.holder("alice")
    answer = keyed.stranger.post("/session", headers={"Authorization": f"Bearer {holder.secret}"})
    assert answer.json() == {"tenant": "alice", "key": holder.key.id, "scopes": ["generate"]}
    cookie = answer.headers["set-cookie"]
    assert re.search(r"; HttpOnly;.*; SameSite=strict$", cookie), cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
    assert holder.secret.split("_", 2)[2] not in cookie
    keyed.stranger.cookies.clear()


def test_behind_https_the_cookie_goes_by_https_alone(keyed: KeyedApi) -> None:
    holder = keyed.holder("alice")
    headers = {"Authorization": f"Bearer {holder.secret}", "X-Forwarded-Proto": "https"}
    answer = httpx.post(f"{keyed.api.url}/session", headers=headers)
    assert "; Secure" in answer.headers["set-cookie"]


def test_a_session_does_what_its_key_may_and_no_more(keyed: KeyedApi) -> None:
    browser = signed_in(keyed, keyed.holder("alice"))
    assert browser.get("/session").json()["tenant"] == "alice"
    job = browser.post("/generate", json={"prompt": "a cat"}, headers={"Prefer": "respond-async"})
    assert job.status_code == 202
    assert browser.get(f"/jobs/{job.json()['id']}").status_code == 200
    assert browser.get("/metrics").status_code == 403
    reader = signed_in(keyed, keyed.holder("alice", "read"))
    assert reader.post("/generate", json={"prompt": "a cat"}).status_code == 403


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site"}, {}])
def test_what_another_page_has_the_browser_send_is_refused(keyed: KeyedApi, headers: dict[str, str]) -> None:
    browser = signed_in(keyed, keyed.holder("alice"))
    del browser.headers["Sec-Fetch-Site"]
    for method, path in (("POST", "/generate"), ("POST", "/session"), ("DELETE", "/session"), ("DELETE", "/jobs/x")):
        origin = {"Origin": "https://evil.example"}
        assert browser.request(method, path, headers={**headers, **origin}).status_code == 401


def test_no_session_is_made_of_a_session_or_of_a_wrong_key(keyed: KeyedApi) -> None:
    browser = signed_in(keyed, keyed.holder("alice"))
    assert browser.post("/session").status_code == 401
    wrong = keyed.stranger.post("/session", headers={"Authorization": f"Bearer r3_{'0' * 16}_{'A' * 43}"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers


def test_a_session_ends_by_signing_out_and_with_its_key(keyed: KeyedApi) -> None:
    holder = keyed.holder("alice")
    first, second = signed_in(keyed, holder), signed_in(keyed, holder)
    answer = first.delete("/session")
    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert first.get("/session").status_code == 401
    assert second.get("/session").status_code == 200
    revoke(keyed.url, holder.key)
    until(lambda: second.get("/session").status_code == 401)


def test_a_key_that_is_shown_counts_and_not_the_cookie_beside_it(keyed: KeyedApi) -> None:
    browser = signed_in(keyed, keyed.holder("alice"))
    other = {"Authorization": f"Bearer {keyed.holder('bob').secret}"}
    assert browser.get("/session", headers=other).json()["tenant"] == "bob"
    assert browser.get("/session", headers={"Authorization": "Bearer nonsense"}).status_code == 401


def test_where_nobody_is_asked_for_a_key_there_is_nothing_to_sign_in_to(api: RunningApi) -> None:
    for answer in (api.client.get("/session"), api.client.post("/session")):
        assert answer.json() == {"tenant": "local", "key": None, "scopes": ["admin"]}
        assert "set-cookie" not in answer.headers
