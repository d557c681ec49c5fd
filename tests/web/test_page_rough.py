"""The page where there is much to show: long prompts, many pictures, and what must not go out of sight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.server.test_serve import Served
from tests.web.conftest import PHONE, Open, ended, picture, run, serving

pytestmark = pytest.mark.timeout(900)
PROMPT = "a small red house"


@pytest.fixture(scope="module")
def slow(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the fake model that takes its time."""
    with serving(tmp_path_factory.mktemp("slow") / "data", R3_RUNNER="fake", R3_FAKE_STEP_S="0.05") as one:
        yield one


@pytest.fixture(scope="module")
def finished(quick: Served) -> str:
    """The address of a finished job with two edits."""
    return made(quick, prompt=PROMPT)


def made(server: Served, **body: Any) -> str:
    """The address of a job that has ended."""
    job = httpx.post(f"{server.url}/generate", json=body, timeout=120).json()
    assert job["status"] == "succeeded", job
    return f"{server.url}/j/{job['id']}"


def is_seen(one: Locator) -> bool:
    """Whether all of it is on the screen, and nothing over its middle."""
    expect(one).to_be_in_viewport(ratio=1)
    seen: bool = one.evaluate(
        """(element) => {
            const { x, y, width, height } = element.getBoundingClientRect();
            return element.contains(document.elementFromPoint(x + width / 2, y + height / 2));
        }"""
    )
    return seen


def test_what_was_being_said_when_a_job_is_cancelled_is_no_longer_awaited(slow: Served, open_page: Open) -> None:
    page = open_page(slow.url)
    run(page, "a house words=200", rounds=1)
    page.wait_for_function("() => document.querySelector('#round-0-0 .thought')?.textContent.length > 20")
    page.get_by_role("button", name="Cancel").click()
    ended(page, "cancelled")
    expect(page.locator(".chip")).to_have_text("not reviewed")
    expect(page.locator(".is-writing")).to_have_count(0)


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_stop_and_cancel_stay_in_sight(slow: Served, open_page: Open, screen: dict[str, Any]) -> None:
    page = open_page(slow.url, **screen)
    run(page, "a house words=200 edits=9", rounds=8)
    page.wait_for_selector(picture(page, 0))
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    assert is_seen(page.get_by_role("button", name="Stop here"))
    assert is_seen(page.get_by_role("button", name="Cancel"))
    page.get_by_role("button", name="Cancel").click()
    ended(page, "cancelled")


@pytest.mark.parametrize("width", [320, 390, 880])
def test_many_pictures_beside_each_other_make_the_page_no_wider(quick: Served, open_page: Open, width: int) -> None:
    address = made(quick, prompt="a house edits=9", n=3, max_rounds=8)
    page = open_page(address, **{**PHONE, "viewport": {"width": width, "height": 844}})
    ended(page)
    expect(page.locator(".round")).to_have_count(27)
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    lefts = [page.locator(one).first.bounding_box() for one in (".run-head h1", ".bar", ".trajectory")]
    assert len({round(box["x"]) for box in lefts if box is not None}) <= 2  # the bar is wider, and covers what is under
    page.locator(".thumb").nth(5).click()
    assert is_seen(page.get_by_role("link", name="R3"))


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_what_is_wrong_with_a_request_is_seen_wherever_the_form_is_scrolled(
    quick: Served, open_page: Open, screen: dict[str, Any]
) -> None:
    page = open_page(quick.url, **screen)
    page.get_by_text("More settings").click()
    page.get_by_label("Temperature, reasoning").fill("99")
    page.locator("#prompt").fill("a cat")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("Temperature, reasoning")
    assert is_seen(page.get_by_role("alert"))


@pytest.mark.parametrize("prompt", ["a cat and " * 300, "a\n" * 60], ids=["long", "of many lines"])
def test_a_long_prompt_leaves_room_and_can_be_read_to_its_end(quick: Served, open_page: Open, prompt: str) -> None:
    page = open_page(made(quick, prompt=f"{prompt} to the end", max_rounds=0))
    ended(page)
    heading = page.get_by_role("heading", level=1)
    assert is_seen(page.get_by_role("button", name="Compare"))
    heading.focus()
    page.keyboard.press("End")
    page.wait_for_function("(h) => h.scrollTop + h.clientHeight >= h.scrollHeight - 1", arg=heading.element_handle())


def test_words_that_are_read_from_the_right_stand_on_the_right(quick: Served, open_page: Open) -> None:
    page = open_page(made(quick, prompt="חתול אדום, על שולחן!", max_rounds=0))
    ended(page)
    gap = page.get_by_role("heading", level=1).evaluate(
        """(h) => {
            const range = document.createRange();
            range.selectNodeContents(h);
            return h.getBoundingClientRect().right - range.getBoundingClientRect().right;
        }"""
    )
    assert gap < 2


def test_the_slider_covers_the_pictures_that_it_compares(open_page: Open, finished: str) -> None:
    page = open_page(finished)
    ended(page)
    page.get_by_role("button", name="Compare").click()
    slider, shown = (page.locator(one).bounding_box() for one in (".over input", ".over"))
    assert slider is not None
    assert shown is not None
    assert (slider["y"], slider["height"]) == (shown["y"], shown["height"])


def test_candidates_that_are_at_the_same_are_named_together(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    told = page.evaluate(
        """async () => {
            const { statusOf } = await import("/assets/words.js");
            const drawn = { index: 0, image: {}, said: null };
            const at = (index, rounds) => ({ index, rounds, isReasoned: true, drawing: null });
            const job = (...trajectories) => ({ status: "running", params: {}, trajectories });
            return [job(at(0, []), at(1, [])), job(at(0, []), at(1, [drawn]), at(2, []))].map(statusOf);
        }"""
    )
    assert told == ["Drawing the first picture", "A, C: drawing the first picture; B: looking at the first picture"]
