"""The page as people treat it: two clicks for one, broken pictures, long prompts, mangled links, a server that goes."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Locator, Route, expect

from tests.server.test_serve import Served
from tests.server.waiting import until
from tests.web.conftest import PHONE, Open, ended, picture, run

pytestmark = pytest.mark.timeout(900)
PROMPT = "a small red house"
PASTE = """async ([selector, withText]) => {
    const data = new DataTransfer();
    const picture = await new OffscreenCanvas(96, 96).getContext("2d").canvas.convertToBlob();
    data.items.add(new File([picture], "a.png", { type: "image/png" }));
    if (withText) data.items.add("a cat", "text/plain");
    const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    return document.querySelector(selector).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def finished(quick: Served) -> str:
    """The address of a finished job with two edits."""
    return made(quick, prompt=PROMPT)


def made(server: Served, **body: Any) -> str:
    """The address of a job that has ended."""
    job = httpx.post(f"{server.url}/generate", json=body, timeout=120).json()
    assert job["status"] == "succeeded", job
    return f"{server.url}/j/{job['id']}"


def jobs_of(server: Served) -> int:
    return len(httpx.get(f"{server.url}/jobs?limit=100").json()["jobs"])


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


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(content, "PNG")
    return content.getvalue()


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


def test_a_double_click_and_a_held_key_ask_for_one_job(slow: Served, open_page: Open) -> None:
    page = open_page(slow.url)
    before = jobs_of(slow)
    page.locator("#prompt").fill("a house")
    page.get_by_role("button", name="Run").dblclick(delay=150)  # time enough for the first to be answered
    page.wait_for_url("**/j/job_*")
    ended(page)
    page.locator("#prompt").focus()
    page.keyboard.down("Control")
    page.keyboard.down("Enter")
    page.wait_for_timeout(300)
    page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    page.keyboard.up("Control")
    ended(page)
    assert jobs_of(slow) == before + 2


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


@pytest.mark.parametrize(
    ("content", "words"),
    [(png(96, 96)[:60], "It is empty or broken"), (b"", "It is empty or broken"), (png(5000, 5000), "5000 × 5000")],
    ids=["broken", "empty", "of too many pixels"],
)
def test_a_picture_that_cannot_be_used_is_refused_at_once(
    quick: Served, open_page: Open, content: bytes, words: str
) -> None:
    page = open_page(quick.url)
    page.set_input_files("#start-file", {"name": "a.png", "mimeType": "image/png", "buffer": content})
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_alt_text("The picture to start from")).to_have_count(0)


def test_a_picture_that_is_pasted_while_the_form_is_folded_is_shown(open_page: Open, finished: str) -> None:
    page = open_page(finished, **PHONE)
    ended(page)
    page.evaluate("scrollTo(0, 900)")
    page.evaluate(PASTE, ["body", False])
    expect(page.get_by_alt_text("The picture to start from")).to_be_in_viewport()


def test_text_that_is_copied_with_a_picture_of_it_is_pasted_as_text(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.wait_for_selector("#prompt")
    assert page.evaluate(PASTE, ["#prompt", True]), "the page has taken the paste from the field"
    assert not page.evaluate(PASTE, ["#prompt", False])


def test_a_mangled_address_of_a_job_is_told(quick: Served, open_page: Open) -> None:
    page = open_page(f"{quick.url}/j/job_123")
    expect(page.get_by_role("alert")).to_contain_text("No such job")


def test_going_home_again_leaves_nothing_to_go_back_to(quick: Served, open_page: Open, finished: str) -> None:
    page = open_page(finished)
    ended(page)
    for _ in range(3):
        page.get_by_role("link", name="R3").click()
    expect(page).to_have_url(f"{quick.url}/")
    page.go_back()
    expect(page).to_have_url(finished)


def test_a_way_to_another_job_keeps_what_was_written(quick: Served, open_page: Open, finished: str) -> None:
    page = open_page(finished)
    ended(page)
    page.get_by_role("button", name="One more round").last.click()
    page.wait_for_url(lambda url: "/j/job_" in url and url != finished)
    page.locator("#prompt").fill("a thought of mine")
    page.get_by_role("link", name="an earlier job").click()
    expect(page).to_have_url(finished)
    page.get_by_role("button", name="History").click()
    page.get_by_role("dialog").get_by_role("link", name=PROMPT).last.click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("#prompt")).to_have_value("a thought of mine")


def test_each_of_two_edits_has_a_field_of_its_own(open_page: Open, finished: str) -> None:
    page = open_page(finished)
    ended(page)
    for index in (0, 1):
        page.locator(f"#round-0-{index}").get_by_text("Go on from this picture").click()
        page.locator(f"#round-0-{index}").get_by_role("button", name="Edit it my way").click()
    for index in (0, 1):
        page.locator(f"#round-0-{index}").get_by_text("What should be changed?").click()
        expect(page.locator(f"#round-0-{index} .my-edit input")).to_be_focused()


def test_a_job_that_came_by_v1_is_repeated_by_the_code_that_is_copied(
    quick: Served, open_page: Open, tmp_path: Path
) -> None:
    prompt = 'it\'s a "cat" \\ in\n$HOME'
    asked = {"prompt": prompt, "model": "r3-small", "n": 2, "response_format": "b64_json"}
    answer = httpx.post(f"{quick.url}/v1/images/generations", json=asked, timeout=120).json()
    page = open_page(f"{quick.url}/j/{httpx.get(f'{quick.url}/jobs').json()['jobs'][0]['id']}")
    ended(page)
    page.get_by_role("button", name="Copy as code").click()
    page.get_by_label("Python").check()
    program = page.locator("pre.code").text_content() or ""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)
    newest = httpx.get(f"{quick.url}/jobs").json()["jobs"][0]
    assert newest["prompt"] == prompt
    expected = {Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).tobytes() for one in answer["data"]}
    assert {Image.open(path).tobytes() for path in tmp_path.glob("*.png")} == expected


def test_a_server_that_has_gone_is_told_before_anything_is_asked(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.wait_for_selector("#prompt")
    page.route("**/readyz", lambda route: route.abort())
    expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
    page.unroute("**/readyz")
    expect(page.get_by_text("The server cannot be reached.")).to_have_count(0)


def test_a_stream_that_is_taken_and_not_answered_can_be_asked_for_anew(slow: Served, open_page: Open) -> None:
    page = open_page(slow.url)
    asked: list[Route] = []

    def answer(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.abort()
        elif len(asked) > 2:
            route.continue_()  # the second hangs

    page.route(re.compile(r"/jobs/job_\w+/events"), answer)
    run(page, "a house", rounds=1)
    expect(page.get_by_text("The connection is lost.")).to_be_visible()
    page.wait_for_timeout(1500)
    assert len(asked) == 2
    page.get_by_role("button", name="Reconnect now").click()
    ended(page)


def test_a_stream_that_has_no_more_to_tell_ends_with_the_job_as_it_is(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    asked: list[Route] = []
    page.route(re.compile(r"/jobs/job_\w+/events"), lambda route: asked.append(route))  # noqa: PLW0108 - playwright marks it
    job_id = run(page, "a house", rounds=1)
    until(lambda: httpx.get(f"{quick.url}/jobs/{job_id}", timeout=10).json()["status"] == "succeeded")
    page.wait_for_timeout(500)  # what the page has asked for is heard of while one waits here
    asked[0].fulfill(status=204)
    ended(page)


def test_what_is_being_typed_stays_while_the_page_asks_how_the_server_stands(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.get_by_text("More settings").click()
    field = page.get_by_label("Ask until satisfied, times")
    field.fill("")
    page.wait_for_timeout(6000)  # it asks every five seconds
    expect(field).to_have_value("")


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


def test_how_several_trajectories_stand_is_told_in_a_short_line(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    told = page.evaluate(
        """async () => {
            const { statusOf } = await import("/assets/words.js");
            const drawn = { index: 0, image: {}, said: null, scores: [], candidates: [] };
            const at = (index, rounds) => ({ index, rounds, isReasoned: true, drawing: null });
            const job = (...trajectories) => ({ kind: "generate", status: "running", params: {}, trajectories });
            return [job(at(0, []), at(1, [])), job(at(0, []), at(1, [drawn]), at(2, []))].map(statusOf);
        }"""
    )
    assert told == ["All 2 drawing", "2 drawing, 1 looking"]


def test_a_browser_without_a_network_still_has_the_server_on_this_machine(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.wait_for_selector("#prompt")
    page.evaluate("""() => {
        Object.defineProperty(navigator, "onLine", { get: () => false });
        dispatchEvent(new Event("offline"));
    }""")
    page.wait_for_timeout(500)
    expect(page.get_by_text("You are offline.")).to_have_count(0)
    run(page, "a house", rounds=0)
    ended(page)
    page.route("**/readyz", lambda route: route.abort())
    page.evaluate("dispatchEvent(new Event('offline'))")
    expect(page.get_by_text("You are offline.")).to_be_visible()


def test_what_is_no_number_is_told_and_shown(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    before = jobs_of(quick)
    page.locator("#prompt").fill("a cat")
    page.get_by_text("More settings").click()
    field = page.get_by_label("Temperature, reasoning")
    field.press_sequentially("1e")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("Look at “Temperature, reasoning”")
    expect(field).to_be_focused()
    assert is_seen(field)
    assert jobs_of(quick) == before


def test_a_double_click_on_what_makes_a_job_makes_one(quick: Served, open_page: Open, finished: str) -> None:
    page = open_page(finished)
    ended(page)
    before = jobs_of(quick)
    page.get_by_role("button", name="One more round").last.dblclick(delay=80)
    page.wait_for_url(re.compile(rf"^(?!{re.escape(finished)})"))
    ended(page)
    page.set_input_files("#start-file", {"name": "a.png", "mimeType": "image/png", "buffer": png(96, 96)})
    page.locator(".look").dblclick(delay=80)
    expect(page.get_by_role("heading", name="Round trip")).to_be_visible()
    ended(page)
    assert jobs_of(quick) == before + 2


def test_a_text_that_is_selected_to_beyond_the_dialog_does_not_close_it(open_page: Open, finished: str) -> None:
    page = open_page(finished)
    page.get_by_role("button", name="Copy as code").click()
    box = page.get_by_role("dialog").locator("pre").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(5, box["y"] + 10, steps=5)
    page.mouse.up()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.mouse.click(5, box["y"] + 10)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_start_picture_that_is_taken_back_is_kept_no_longer(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.wait_for_selector("#prompt")
    page.evaluate("""() => {
        window.revoked = [];
        const revoke = URL.revokeObjectURL;
        URL.revokeObjectURL = (url) => { revoked.push(url); revoke.call(URL, url); };
    }""")
    shown = page.get_by_alt_text("The picture to start from")
    urls: list[str | None] = []
    for _ in range(2):
        page.evaluate(PASTE, ["body", False])
        expect(shown).to_have_count(1)
        page.wait_for_function("(seen) => !seen.includes(document.querySelector('.start img').src)", arg=urls)
        urls.append(shown.get_attribute("src"))
    assert page.evaluate("revoked") == urls[:1]
    page.get_by_role("button", name="Do not start from this picture").click()
    expect(shown).to_have_count(0)
    page.wait_for_function("revoked.length === 2")
    assert page.evaluate("revoked") == urls


def test_a_history_too_long_to_be_searched_through_says_how_far_it_was(
    quick: Served, open_page: Open, finished: str
) -> None:
    page = open_page(quick.url)
    job = httpx.get(f"{quick.url}/jobs/{finished.rpartition('/')[2]}").json()
    pages: list[Route] = []

    def answer(route: Route) -> None:
        jobs = [{**job, "id": f"job_{len(pages)}_{number}"} for number in range(50)]
        pages.append(route)
        route.fulfill(json={"jobs": jobs, "next_cursor": "more"})

    page.route(re.compile(r"/jobs\?limit=50"), answer)
    page.get_by_role("button", name="History").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Search the prompts").fill("no such words")
    expect(dialog.get_by_text("No job among the newest 1,000 has these words in its prompt.")).to_be_visible(
        timeout=60_000
    )
    assert len(pages) == 20
