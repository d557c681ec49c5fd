"""One job on the page: followed as it is made, stopped, cancelled, found again, and never lost from sight."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.server.test_serve import Served
from tests.web.conftest import PHONE, Open, accessible, ended, heard, listen, picture, run, seen, shot, watch

pytestmark = pytest.mark.timeout(900)
PROMPT = "a blue square to the left of a green triangle"


def test_a_whole_run_from_the_prompt_to_the_last_picture(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    expect(page.get_by_text("knows coloured shapes and nothing else")).to_be_visible()
    shot(page, "welcome")
    accessible(page)
    watch(page, ".steps progress", ".round-text .is-writing", ".round.is-coming")
    run(page, PROMPT, rounds=2, early_stop=False)
    ended(page)
    assert seen(page) >= {".steps progress", ".round-text .is-writing", ".round.is-coming"}
    expect(page.locator(".round")).to_have_count(3)
    expect(page.locator(".arrow")).to_have_count(2)
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator(".reasoning p")).to_have_text(f"I will draw {PROMPT}.")
    expect(page.locator("#round-0-0 .thought")).to_contain_text("I see")
    expect(page.locator(".status")).to_have_text("Finished: all rounds are used")
    shot(page, "finished")
    accessible(page)


def test_a_small_picture_is_shown_four_times_as_large(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    run(page, PROMPT, rounds=0)
    page.wait_for_selector(picture(page, 0))
    shown = page.locator(picture(page, 0)).evaluate(
        "img => ({ width: img.getBoundingClientRect().width, natural: img.naturalWidth })"
    )
    assert shown == {"width": 384, "natural": 96}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_nothing_moves_while_pictures_and_texts_come(
    slow: Served, open_page: Open, screen: dict[str, Any], n: int
) -> None:
    page = open_page(slow.url, **screen)
    page.locator(f"input[name=n][value='{n}']").check()
    page.get_by_label("What should the picture show?").fill("a house words=40")
    page.evaluate(
        "() => { window.shifts = 0; new PerformanceObserver((list) => list.getEntries().forEach("
        "(entry) => { window.shifts += entry.hadRecentInput ? 0 : entry.value; })).observe({ type: 'layout-shift' }); }"
    )
    page.keyboard.press("Control+Enter")
    ended(page)
    assert page.evaluate("window.shifts") < 0.05


def test_good_enough_ends_it_with_what_it_has(slow: Served, open_page: Open) -> None:
    page = open_page(slow.url)
    before_the_first = ".endings button:first-child:disabled"
    watch(page, before_the_first)
    run(page, "a house words=50 edits=9", rounds=8, early_stop=False, is_long=True)
    page.wait_for_selector(picture(page, 0))
    assert seen(page) == {before_the_first}
    page.get_by_role("button", name="Stop here").click()
    ended(page)
    expect(page.locator(".status")).to_have_text("Finished: stopped where it was good enough")
    assert page.locator(".round").count() < 9


def test_a_job_is_cancelled_and_keeps_its_pictures(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    run(page, PROMPT, rounds=8, early_stop=False, is_long=True)
    page.wait_for_selector(picture(page, 0))
    page.get_by_role("button", name="Cancel").click()
    ended(page, "cancelled")
    expect(page.locator(picture(page, 0))).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_an_api_that_dies_in_mid_stream_is_found_again_and_nothing_is_lost(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    job = run(page, PROMPT, rounds=8, early_stop=False)
    page.wait_for_selector(picture(page, 1))
    os.kill(served.running()["api"], signal.SIGKILL)
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    ended(page)
    expect(page.get_by_text("The connection is lost.")).to_have_count(0)
    expect(page.locator(".round")).to_have_count(9)
    made = httpx.get(f"{served.url}/jobs/{job}").json()["trajectories"][0]
    told = [made["rounds"][i]["reflection"]["thought"] for i in range(8)]
    assert page.locator(".thought").all_text_contents()[:8] == told


def test_a_permalink_shows_a_job_while_it_runs_and_when_it_is_finished(served: Served, open_page: Open) -> None:
    first = open_page(served.url)
    run(first, PROMPT, rounds=4, early_stop=False)
    first.wait_for_selector(picture(first, 1))
    second = open_page(first.url)
    second.wait_for_selector(picture(second, 0))
    expect(second.locator(".reasoning p")).to_have_text(f"I will draw {PROMPT}.")
    for page in (first, second):
        ended(page)
        expect(page.locator(".round")).to_have_count(5)
    third = open_page(first.url)
    ended(third)
    assert third.locator(".thought").all_text_contents() == first.locator(".thought").all_text_contents()


def test_a_job_that_is_not_there_is_told_in_words(served: Served, open_page: Open) -> None:
    page = open_page(f"{served.url}/j/job_{'0' * 32}")
    expect(page.get_by_role("alert")).to_contain_text("No such job")
    expect(page.get_by_role("alert")).to_contain_text("Look for it in the history")


def test_a_request_that_is_refused_says_which_field_and_what_to_do(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    page.keyboard.press("Control+Enter")
    page.get_by_label("What should the picture show?").press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("There is no prompt yet")
    page.get_by_label("What should the picture show?").fill("a cat")
    page.get_by_text("More settings").click()
    page.get_by_label("Timesteps, edits").fill("999")
    page.get_by_label("Ask until satisfied, times").fill("3")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("Timesteps, edits")
    accessible(page)


def test_without_a_network_the_page_says_so_and_goes_on_by_itself(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    page.context.set_offline(True)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_text("You are offline.")).to_have_count(0)


def test_without_a_worker_the_page_says_so(served: Served, open_page: Open) -> None:
    page = open_page(f"{served.url}/nothing")
    page.route("**/readyz", lambda route: route.fulfill(json={"status": "ready", "workers": 0, "models": []}))
    page.goto(served.url)
    expect(page.get_by_text("No worker is running.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_it_fits_and_can_be_touched(served: Served, open_page: Open, scheme: str) -> None:
    page = open_page(served.url, **PHONE, color_scheme=scheme)
    page.wait_for_selector("#prompt")
    shot(page, f"phone-{scheme}-welcome")
    for _ in range(2):
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.evaluate(
            "() => [...document.querySelectorAll('button, .button, select, summary, .switch, .segments label')]"
            ".filter((e) => e.checkVisibility()).map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])"
            ".filter(([, box]) => box.height < 44 || box.width < 44).map(([name]) => name)"
        )
        assert not small
        if "/j/" not in page.url:
            run(page, PROMPT, rounds=1, early_stop=False)
            ended(page)
            shot(page, f"phone-{scheme}-finished")


def test_all_can_be_done_with_the_keyboard(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    page.wait_for_selector("#prompt")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the pictures")).to_be_focused()
    page.locator("#prompt").focus()
    page.keyboard.type("a purple heart")
    page.keyboard.press("Meta+Enter")
    page.wait_for_url("**/j/job_*")
    ended(page)
    page.get_by_role("button", name="Copy as code").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Copy as code")).to_be_focused()


def test_what_happens_is_told_to_a_screen_reader(served: Served, open_page: Open) -> None:
    page = open_page(served.url)
    listen(page)
    run(page, PROMPT, rounds=1, early_stop=False)
    ended(page)
    assert "First picture is finished." in heard(page)
    assert heard(page).rpartition(". ")[2].startswith("Finished")


def test_the_settings_end_where_info_says(served: Served, open_page: Open) -> None:
    def narrower(route: Route) -> None:
        info = route.fetch().json()
        info["ranges"]["max_rounds"]["maximum"] = 5
        info["ranges"]["n"]["maximum"] = 2
        info["ranges"]["refine.cfg_img_scale"]["maximum"] = 7
        route.fulfill(json=info)

    page = open_page("about:blank")
    page.route("**/info", narrower)
    page.goto(served.url)
    expect(page.get_by_label("Rounds", exact=False).first).to_have_attribute("max", "5")
    expect(page.get_by_role("radio")).to_have_count(2)
    expect(page.locator("#refineImageScale")).to_have_attribute("max", "7")
