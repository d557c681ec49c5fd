"""A server that asks for keys: signing in, what a cookie does, and a link that needs none."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from server.keys import digest_of, id_of, new_secret
from tests.server.test_serve import Served
from tests.web.conftest import Open, accessible, ended, run, serving, shot

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def secret() -> str:
    """A key."""
    return new_secret()


@pytest.fixture(scope="module")
def keyed(browser: Browser, secret: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes this key; its model is the fake one, for the pictures do not matter here."""
    folder: Path = tmp_path_factory.mktemp("keyed")
    entry = {
        "id": id_of(secret),
        "name": "alice",
        "tenant": "alice",
        "scopes": ["generate"],
        "sha256": digest_of(secret),
    }
    (folder / "keys.json").write_text(json.dumps({"keys": [entry]}))
    with serving(folder / "data", R3_KEYS_FILE=str(folder / "keys.json"), R3_RUNNER="fake") as one:
        yield one


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """The address of a page of another site: `localhost` is one to a browser that is at 127.0.0.1."""
    (tmp_path / "index.html").write_text("<!doctype html><title>Elsewhere</title>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def sign_in(page: Page, secret: str) -> None:
    page.get_by_label("Key", exact=True).fill(secret)
    page.get_by_role("button", name="Sign in").click()


def sharing(page: Page, secret: str) -> Page:
    """The same page, signed in, with a finished job and the dialog that shares it."""
    sign_in(page, secret)
    run(page, "a dog", rounds=1)
    ended(page)
    page.get_by_role("button", name="Share").click()
    return page


def link_made(page: Page) -> str:
    """A link from that dialog."""
    page.get_by_role("button", name="Make a link").click()
    return page.get_by_label("The link, which is shown this once").input_value()


def test_a_key_lets_in_and_a_cookie_keeps_one_in(keyed: Served, secret: str, open_page: Open) -> None:
    page = open_page(keyed.url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    shot(page, "sign-in")
    accessible(page)
    sign_in(page, "r3_nonsense")
    expect(page.get_by_role("alert")).to_contain_text("A key is needed")
    sign_in(page, secret)
    run(page, "a cat", rounds=1)
    ended(page)
    page.reload()
    ended(page)
    expect(page.locator(".round .frame img").first).to_be_visible()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    assert secret not in json.dumps(page.evaluate("({ ...localStorage, ...sessionStorage })"))
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.context.cookies() == []


def test_a_session_that_is_over_asks_for_the_key_again_and_keeps_what_was_written(
    keyed: Served, secret: str, open_page: Open
) -> None:
    page = open_page(keyed.url)
    sign_in(page, secret)
    page.wait_for_selector("#prompt")
    page.locator("#prompt").fill("a thought of mine")
    page.context.clear_cookies()
    page.get_by_role("button", name="History").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    sign_in(page, secret)
    expect(page.locator("#prompt")).to_have_value("a thought of mine")
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, secret)
    expect(page.locator("#prompt")).to_have_value("")


def test_a_shared_link_needs_no_key_and_changes_nothing(keyed: Served, secret: str, open_page: Open) -> None:
    page = sharing(open_page(keyed.url), secret)
    accessible(page)
    link = link_made(page)
    assert re.search(r"/j/job_[0-9a-f]{32}\?token=", link)
    reader = open_page(link)
    ended(reader)
    expect(reader.locator(".round .frame img").first).to_be_visible()
    for name in ("Run", "Cancel", "One more round", "Share", "History"):
        expect(reader.get_by_role("button", name=name)).to_have_count(0)
    accessible(reader)
    page.get_by_role("button", name="Revoke all links").click()
    expect(page.get_by_text("All links to this job are revoked.")).to_be_visible()
    reader.reload()
    expect(reader.get_by_role("alert")).to_contain_text("Ask for a new one.")


def test_another_page_cannot_use_the_session(keyed: Served, secret: str, open_page: Open, elsewhere: str) -> None:
    page = open_page(keyed.url)
    sign_in(page, secret)
    page.wait_for_selector("#prompt")
    other = page.context.new_page()
    other.goto(elsewhere)
    with other.expect_response("**/generate") as answer:
        other.evaluate(
            """(url) => {
                const form = Object.assign(document.createElement("form"), { method: "post", action: url });
                document.body.append(form);
                form.submit();
            }""",
            f"{keyed.url}/generate",
        )
    assert answer.value.status == 401


def test_who_could_not_be_signed_out_is_told_and_still_in(keyed: Served, secret: str, open_page: Open) -> None:
    page = open_page(keyed.url)
    sign_in(page, secret)
    page.wait_for_selector("#prompt")
    busy = {"title": "Too many requests", "status": 429, "code": "rate_limited", "detail": "Wait."}

    def refused(route: Route) -> None:
        is_out = route.request.method == "DELETE"
        route.fulfill(status=429, json=busy) if is_out else route.continue_()

    page.route("**/session", refused)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("alert")).to_contain_text("You are still signed in.")
    shot(page, "sign-out-refused")
    accessible(page)
    page.unroute("**/session")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_browser_that_keeps_no_cookie_is_told_of(keyed: Served, secret: str, open_page: Open) -> None:
    page = open_page(keyed.url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    said = {"key": {"id": "a"}, "tenant": "alice"}
    page.route("**/session", lambda r: r.fulfill(json=said) if r.request.method == "POST" else r.continue_())
    sign_in(page, secret)
    expect(page.get_by_role("alert")).to_contain_text("The browser has kept no cookie")


def test_a_key_with_a_character_that_none_has_is_not_sent(keyed: Served, secret: str, open_page: Open) -> None:
    page = open_page(keyed.url)
    sign_in(page, f"{secret}…")
    expect(page.get_by_role("alert")).to_contain_text("This is no key")


def test_home_leads_on_from_a_link(keyed: Served, secret: str, open_page: Open) -> None:
    page = sharing(open_page(keyed.url), secret)
    page.goto(link_made(page))
    ended(page)
    page.get_by_role("link", name="R3").click()
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
