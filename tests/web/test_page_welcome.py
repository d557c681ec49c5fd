"""The page before there is a job, and the ways from a picture back to the form; the fake model draws quickly."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.server.test_serve import Served
from tests.web.conftest import PHONE, Open, ended

pytestmark = pytest.mark.timeout(900)
PROMPT = "a small red house"


@pytest.fixture(scope="module")
def finished(quick: Served) -> str:
    """The address of a finished job."""
    job = httpx.post(f"{quick.url}/generate", json={"prompt": PROMPT}, timeout=120).json()
    assert job["status"] == "succeeded", job
    return f"{quick.url}/j/{job['id']}"


def test_an_example_is_taken_into_the_form(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.get_by_role("group", name="Try one").get_by_role("button").first.click()
    expect(page.locator("#prompt")).not_to_have_value("")
    expect(page.locator("#prompt")).to_be_focused()


def test_ones_newest_pictures_lead_to_their_jobs(quick: Served, open_page: Open, finished: str) -> None:
    page = open_page(quick.url)
    page.get_by_role("link", name=PROMPT).first.click()
    expect(page).to_have_url(finished)
    ended(page)


def test_on_a_phone_a_start_leads_back_to_the_form(open_page: Open, finished: str) -> None:
    page = open_page(finished, **PHONE)
    ended(page)
    expect(page.locator("#prompt")).to_be_hidden()
    page.get_by_role("button", name="Use as start").last.click()
    expect(page.get_by_label("What to change in it")).to_be_focused()
    expect(page.locator("#prompt")).to_have_value(PROMPT)


def test_a_picture_that_did_not_come_is_asked_for_again(open_page: Open, finished: str, quick: Served) -> None:
    page = open_page(f"{quick.url}/nothing")
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if route.request.url in refused:
            route.continue_()
        else:
            refused.append(route.request.url)
            route.abort()

    page.route("**/images/*", refuse_once)
    page.goto(finished)
    ended(page)
    page.wait_for_function("() => [...document.querySelectorAll('.frame img')].every((img) => img.naturalWidth > 0)")
    assert refused
