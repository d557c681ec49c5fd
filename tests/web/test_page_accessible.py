"""axe-core finds nothing in any of the page's main states, wide and on a phone, in light and in dark colours."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.server.test_serve import Served
from tests.web.conftest import PHONE, Open, accessible, ended, shot

pytestmark = pytest.mark.timeout(1800)
WIDE: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}


@pytest.fixture(scope="module")
def jobs(quick: Served) -> dict[str, str]:
    """The addresses of jobs that have ended in several ways."""
    asked: dict[str, dict[str, Any]] = {
        "finished": {"prompt": "a cat"},
        "trajectories": {"prompt": "a dog", "n": 3},
        "failed": {"prompt": "a cow raise=refine"},
    }
    made = {name: httpx.post(f"{quick.url}/generate", json=body, timeout=120) for name, body in asked.items()}
    jobs = httpx.get(f"{quick.url}/jobs").json()["jobs"]
    assert len(jobs) == len(made)
    by_prompt = {job["prompt"]: f"{quick.url}/j/{job['id']}" for job in jobs}
    return {name: by_prompt[body["prompt"]] for name, body in asked.items()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_state_is_accessible(
    quick: Served, jobs: dict[str, str], open_page: Open, screen: dict[str, Any], scheme: str
) -> None:
    page = open_page(quick.url, **screen, color_scheme=scheme)
    name = f"{'phone' if screen is PHONE else 'wide'}-{scheme}"
    expect(page.get_by_role("heading", name="Your newest pictures")).to_be_visible()
    page.get_by_text("More settings").click()
    _looked_at(page, f"{name}-welcome")
    for job, status in (("failed", "failed"), ("trajectories", "succeeded"), ("finished", "succeeded")):
        page.goto(jobs[job])
        ended(page, status)
        _looked_at(page, f"{name}-{job}")
    page.get_by_role("button", name="Edit it my way").click()
    page.locator("#round-0-0").get_by_text("Go on from this picture").click()
    _looked_at(page, f"{name}-actions")
    for button in ("Compare", "Copy as code", "Share", "History"):
        page.get_by_role("button", name=button).first.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        if button == "Share":
            page.get_by_role("button", name="Make a link").click()
            expect(page.get_by_label("The link, which is shown this once")).to_be_visible()
        _looked_at(page, f"{name}-{button.lower()}")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    page.context.set_offline(True)
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="One more round").last.click()
    expect(page.get_by_role("alert")).to_be_visible()
    _looked_at(page, f"{name}-offline")


def _looked_at(page: Page, name: str) -> None:
    """Nothing to find, nothing wider than the screen, and a picture kept where they are asked for."""
    shot(page, name)
    accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
