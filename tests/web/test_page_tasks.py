"""Jobs that are not the whole loop: a picture's way through words and back, descriptions, reviews and scores."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.server.test_serve import Served
from tests.web.conftest import PHONE, Open, accessible, ended, run, seen, shot, watch, whole

pytestmark = pytest.mark.timeout(900)
PROMPT = "two yellow stars and one red circle"
SCORERS = ["lift", "vqa", "verdict"]


def asked(server: Served, path: str, **body: Any) -> dict[str, Any]:
    """A job that has ended."""
    job: dict[str, Any] = httpx.post(f"{server.url}{path}", json=body, timeout=120).json()
    assert job["status"] == "succeeded", job
    return job


@pytest.fixture(scope="module")
def image(quick: Served) -> str:
    """The id of a picture."""
    made = asked(quick, "/generate", prompt=PROMPT, max_rounds=0)
    found: str = made["trajectories"][0]["image"]["id"]
    return found


@pytest.fixture(scope="module")
def tasks(quick: Served, image: str) -> dict[str, dict[str, Any]]:
    """A job of each kind."""
    return {
        "roundtrip": asked(quick, "/roundtrip", image=image),
        "describe": asked(quick, "/describe", image=image, question="How many stars are there?"),
        "reflect": asked(quick, "/reflect", image=image, prompt=PROMPT),
        "score": asked(quick, "/score", images=[image, image], prompt=PROMPT, scorers=SCORERS),
    }


def gone_to_another(page: Page, before: str) -> None:
    """Wait until the page shows another job, and that this one has ended."""
    page.wait_for_url(lambda url: "/j/job_" in url and url != before)
    ended(page)


def test_what_the_model_sees_is_written_and_drawn_again(slow: Served, open_page: Open) -> None:
    page = open_page(slow.url)
    run(page, "a small house words=30", rounds=0)
    ended(page)
    watch(page, ".described.is-writing", ".trip li:nth-child(3) progress")
    before = page.url
    page.get_by_role("button", name="What does it see?").click()
    gone_to_another(page, before)
    assert seen(page) == {".described.is-writing", ".trip li:nth-child(3) progress"}
    expect(page.locator(".trip img:not(.under)")).to_have_count(2)
    expect(page.locator(".described")).to_have_text("The picture: a gradient.")
    expect(page.get_by_text("Looks at the first picture of")).to_be_visible()
    likeness = page.locator(".similarities")
    assert likeness.locator("dd").all_inner_texts() == ["0.750", "0.500", "20.0 dB"]
    expect(likeness).to_contain_text("are proxies")
    expect(likeness).to_contain_text("cannot be compared with published tables")
    live = whole(page)
    page.reload()
    assert whole(page) == live
    expect(page.locator(".trip img")).to_have_count(2)
    page.get_by_role("button", name="Compare").click()
    page.get_by_label("Left, before").select_option(label="The picture")
    page.get_by_label("Right, after").select_option(label="The reconstruction")
    accessible(page)


def test_a_picture_of_ones_own_is_looked_at(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    content = io.BytesIO()
    Image.new("RGB", (96, 96), "white").save(content, "PNG")
    page.set_input_files("#start-file", {"name": "a.png", "mimeType": "image/png", "buffer": content.getvalue()})
    page.get_by_role("button", name="What does it see?").click()
    gone_to_another(page, quick.url)
    expect(page.get_by_role("heading", name="Round trip")).to_be_visible()
    expect(page.locator(".trip img")).to_have_count(2)


def test_a_first_picture_may_be_drawn_for_it(quick: Served, open_page: Open) -> None:
    page = open_page(f"{quick.url}/j/{asked(quick, '/roundtrip', prompt=PROMPT)['id']}")
    ended(page)
    expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()
    expect(page.locator(".trip img")).to_have_count(2)


def test_descriptions_reviews_and_scores_can_be_read(
    quick: Served, tasks: dict[str, dict[str, Any]], open_page: Open
) -> None:
    page = open_page(f"{quick.url}/j/{tasks['describe']['id']}")
    ended(page)
    expect(page.get_by_role("heading", name="How many stars are there?")).to_be_visible()
    expect(page.locator(".described")).to_have_text(tasks["describe"]["result"]["text"])
    page.goto(f"{quick.url}/j/{tasks['reflect']['id']}")
    expect(page.locator(".thought")).to_have_text(tasks["reflect"]["result"]["reflection"]["thought"])
    expect(page.locator(".instruction")).to_have_text(tasks["reflect"]["result"]["reflection"]["instruction"])
    page.goto(f"{quick.url}/j/{tasks['score']['id']}")
    expect(page.locator(".scored li")).to_have_count(2)
    for index, scored in enumerate(tasks["score"]["result"]["images"]):
        values = page.locator(".scored li").nth(index).locator(".scores dd")
        assert values.all_inner_texts() == [f"{score['value']:.2f}" for score in scored["scores"]]
    expect(page.locator(".scored li").first.locator(".word").first).to_contain_text("two")
    expect(page.get_by_role("heading", name="Picture 2")).to_be_visible()


@pytest.mark.parametrize("kind", ["describe", "reflect", "score"])
def test_they_are_followed_as_they_are_made(slow: Served, open_page: Open, kind: str) -> None:
    made = asked(slow, "/generate", prompt="a house", max_rounds=0)["trajectories"][0]["image"]["id"]
    body: dict[str, Any] = {
        "describe": {"image": made},
        "reflect": {"image": made, "prompt": "a house words=30"},
        "score": {"images": [made, made], "prompt": "a house words=30", "scorers": SCORERS},
    }[kind]
    job = httpx.post(f"{slow.url}/{kind}", json=body, headers={"Prefer": "respond-async"}, timeout=60).json()
    page = open_page(f"{slow.url}/j/{job['id']}")
    live = whole(page)
    page.reload()
    assert whole(page) == live


def test_the_history_tells_them_apart(quick: Served, tasks: dict[str, dict[str, Any]], open_page: Open) -> None:
    page = open_page(quick.url)
    expect(page.get_by_role("heading", name="Your newest pictures")).to_be_visible()
    page.get_by_role("button", name="History").click()
    dialog = page.get_by_role("dialog")
    for words in ("Round trip", "What the model sees · Finished", "A review · Finished", "Scores · Finished"):
        expect(dialog.get_by_text(words).first).to_be_visible()
    dialog.get_by_label("Search the prompts").fill("round trip")
    dialog.locator(f"a[href='/j/{tasks['roundtrip']['id']}']").click()
    ended(page)
    expect(page.locator(".trip")).to_be_visible()


@pytest.mark.parametrize("kind", ["roundtrip", "describe", "reflect", "score"])
def test_what_is_copied_as_code_asks_for_the_same(
    quick: Served, tasks: dict[str, dict[str, Any]], open_page: Open, kind: str
) -> None:
    page = open_page(f"{quick.url}/j/{tasks[kind]['id']}")
    ended(page)
    page.get_by_role("button", name="Copy as code").click()
    curl = page.locator("pre.code").text_content() or ""
    subprocess.run(["bash", "-c", f"{curl} --fail"], check=True, capture_output=True, timeout=120)
    page.get_by_label("Python").check()
    program = page.locator("pre.code").text_content() or ""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)
    for again in httpx.get(f"{quick.url}/jobs?limit=2").json()["jobs"]:
        same = {name: value for name, value in again["params"].items() if not name.startswith("image")}
        assert same == {name: value for name, value in tasks[kind]["params"].items() if not name.startswith("image")}
        assert again["kind"] == kind


def test_one_that_fails_keeps_what_it_has(quick: Served, open_page: Open) -> None:
    headers = {"Prefer": "respond-async"}
    body = {"prompt": "a cow raise=describe"}
    job = httpx.post(f"{quick.url}/roundtrip", json=body, headers=headers, timeout=60).json()
    page = open_page(f"{quick.url}/j/{job['id']}")
    ended(page, "failed")
    expect(page.get_by_role("alert")).to_contain_text("The job failed")
    for _ in range(2):
        expect(page.locator(".trip img")).to_have_count(1)
        expect(page.locator(".trip progress")).to_have_count(0)
        page.reload()
        ended(page, "failed")


def test_one_is_cancelled_but_not_stopped_halfway(slow: Served, open_page: Open) -> None:
    body = {"prompt": "a house words=100"}
    job = httpx.post(f"{slow.url}/roundtrip", json=body, headers={"Prefer": "respond-async"}, timeout=60).json()
    page = open_page(f"{slow.url}/j/{job['id']}")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("button", name="Stop here")).to_have_count(0)
    page.get_by_role("button", name="Cancel").click()
    ended(page, "cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_every_kind_is_accessible(
    quick: Served, tasks: dict[str, dict[str, Any]], open_page: Open, screen: dict[str, Any], scheme: str
) -> None:
    page = open_page(quick.url, **screen, color_scheme=scheme)
    for kind, job in tasks.items():
        page.goto(f"{quick.url}/j/{job['id']}")
        ended(page)
        page.wait_for_selector(".task img")
        shot(page, f"{'phone' if screen else 'wide'}-{scheme}-{kind}")
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), kind
