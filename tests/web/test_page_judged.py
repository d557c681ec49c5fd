"""What scores add to the page: values, words, candidates, the way back, and settings that are never refused."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.server.test_serve import Served
from tests.web.conftest import PHONE, Open, accessible, ended, heard, listen, picture, run, shot, whole

pytestmark = pytest.mark.timeout(900)
# The fake model scores the rounds 5, 2, 8 and 3, and of several candidates the third half a point more.
PROMPT = "a red house beside a tall tree scores=5283 best=2 edits=9"
JUDGED: dict[str, Any] = {
    "prompt": PROMPT,
    "seed": 7,
    "max_rounds": 3,
    "judge": {"scorers": ["lift", "vqa"]},
    "candidates": {"first": 4, "refine": 2},
    "choose": "best",
    "on_regression": "backtrack",
}
MIN_GAIN = {"scorer": "lift", "min_gain": 1.5, "patience": 8}
SHIFTS = (
    "() => { window.shifts = 0; new PerformanceObserver((list) => list.getEntries().forEach("
    "(entry) => { window.shifts += entry.hadRecentInput ? 0 : entry.value; })).observe({ type: 'layout-shift' }); }"
)

BAR_HEIGHTS = (
    "() => { window.heights = []; new MutationObserver(() => {"
    " const last = [...document.querySelectorAll('.strip .thumb')].at(-1);"
    " if (last) heights.push([last.tagName, document.querySelector('.bar').getBoundingClientRect().height]);"
    " }).observe(document.body, { childList: true, subtree: true, attributes: true, characterData: true }); }"
)


def made(server: Served, **body: Any) -> dict[str, Any]:
    """A job that has ended."""
    job: dict[str, Any] = httpx.post(f"{server.url}/generate", json=body, timeout=120).json()
    assert job["status"] == "succeeded", job
    return job


def job_of(page: Page, server: Served) -> dict[str, Any]:
    """The job that the page shows."""
    job: dict[str, Any] = httpx.get(f"{server.url}/jobs/{page.url.rpartition('/')[2]}").json()
    return job


def pixels(server: Served, path: str) -> bytes:
    """What a picture shows, whatever its file says beside."""
    with Image.open(io.BytesIO(httpx.get(f"{server.url}{path}").content)) as image:
        return image.tobytes()


@pytest.fixture(scope="module")
def judged(quick: Served) -> dict[str, Any]:
    """A job that was scored, chose among candidates, and went back once."""
    return made(quick, **JUDGED)


@pytest.fixture
def page(quick: Served, judged: dict[str, Any], open_page: Open) -> Page:
    """The page of that job."""
    one = open_page(f"{quick.url}/j/{judged['id']}")
    ended(one)
    return one


def test_a_judged_run_looks_the_same_while_it_is_made_and_afterwards(slow: Served, open_page: Open) -> None:
    page = open_page(slow.url)
    page.get_by_text("More settings").click()
    page.locator(".judge").get_by_label("Lift").check()
    page.locator(".judge").get_by_label("VQA").check()
    page.get_by_label("Candidates, first").fill("4")
    page.get_by_label("Candidates, edits").fill("2")
    page.get_by_label("The result is").select_option(label="the best picture")
    page.get_by_label("Where the score falls").select_option(value="backtrack")
    run(page, PROMPT, rounds=3)
    expect(page.locator(".candidate.is-coming")).to_have_count(4)
    expect(page.locator("#round-0-1 .candidate img")).to_have_count(2)
    expect(page.locator("#round-0-2 .back")).to_have_text("Back to the first picture, which scored higher")
    expect(page.locator(".round")).to_have_count(4)
    live = whole(page)
    plot = page.get_by_role("img", name="Lift by round").get_attribute("aria-label")
    page.reload()
    assert whole(page) == live
    page.wait_for_selector(picture(page, 3))
    assert page.get_by_role("img", name="Lift by round").get_attribute("aria-label") == plot
    params = job_of(page, slow)["params"]
    assert {name: params[name] for name in JUDGED if name in params and name != "seed"} == {
        name: value for name, value in JUDGED.items() if name not in ("prompt", "seed")
    }


def test_each_round_has_its_score_and_how_it_stands_to_the_best_before(page: Page) -> None:
    told = [page.locator(f"#round-0-{index} .scores div").first.inner_text().split() for index in range(4)]
    assert [words[:2] for words in told] == [["Lift", "5.50"], ["Lift", "2.00"], ["Lift", "8.00"], ["Lift", "3.00"]]
    assert "3.50 lower than the best before" in " ".join(told[1])
    assert "2.50 higher than the best before" in " ".join(told[2])
    expect(page.locator("#round-0-2").get_by_text("the result")).to_be_visible()
    expect(page.locator(".chip", has_text="the result")).to_have_count(1)
    expect(page.get_by_role("img", name="Edit 2, made of the first picture")).to_be_visible()
    expect(page.get_by_text("10 pictures drawn, 8 of them not used")).to_be_visible()


def test_the_words_say_what_the_picture_makes_of_them(page: Page, judged: dict[str, Any]) -> None:
    words = judged["trajectories"][0]["rounds"][0]["scores"][0]["words"]
    shown = page.locator("#round-0-0 .word")
    assert [text.partition(",")[0] for text in shown.all_text_contents()] == [word["text"] for word in words]
    for index, word in enumerate(words):
        lift = f"{word['lift']:.2f}".replace("-", "−")
        expect(shown.nth(index)).to_contain_text(f"lift {lift}")
        is_less = word["lift"] < -0.05
        line = shown.nth(index).evaluate("word => getComputedStyle(word).textDecorationLine")
        assert line == ("underline" if is_less else "none")
    least = min(words, key=lambda word: word["lift"])
    told = page.locator("#round-0-0 .words-told")
    expect(told).to_contain_text(f"Least shown: {least['text']}")
    shown.nth(2).hover()
    expect(told).to_contain_text(f"{words[2]['text']} {words[2]['lift']:.2f}".replace("-", "−"))
    page.mouse.move(0, 0)
    shown.nth(2).focus()
    page.keyboard.press("ArrowRight")
    expect(shown.nth(3)).to_be_focused()
    expect(told).to_contain_text(f"{words[3]['text']} {words[3]['lift']:.2f}".replace("-", "−"))
    page.keyboard.press("End")
    expect(shown.last).to_be_focused()
    assert page.locator("#round-0-0 .word[tabindex='0']").count() == 1


def test_another_candidate_is_picked_and_gone_on_from(page: Page, quick: Served, judged: dict[str, Any]) -> None:
    first = page.locator("#round-0-0")
    expect(first.get_by_role("button", name="Candidate 3, 5.50, went on")).to_have_attribute("aria-pressed", "true")
    first.get_by_role("button", name="Candidate 1, 5.00").click()
    expect(first.locator(".chip")).to_have_text("candidate 1, not chosen")
    accessible(page)
    shot(page, "judged-candidate")
    before = page.url
    first.get_by_role("button", name="One more round").click()
    page.wait_for_url(lambda url: "/j/job_" in url and url != before)
    ended(page)
    job = job_of(page, quick)
    of_both = [judged["trajectories"][0]["rounds"][0]["candidates"][0], job["trajectories"][0]["rounds"][0]]
    assert len({pixels(quick, one["image"]["url"]) for one in of_both}) == 1
    assert job["params"]["judge"] == JUDGED["judge"]
    assert len(job["trajectories"][0]["rounds"][1]["candidates"]) == 2


def test_every_candidate_is_compared_and_taken_away(page: Page, judged: dict[str, Any], tmp_path: Path) -> None:
    with page.expect_download() as all_of_them:
        page.get_by_role("button", name="Download all").click()
    all_of_them.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        drawn = [name for name in archive.namelist() if name.endswith(".png")]
    assert len(drawn) == sum(len(round_["candidates"]) for round_ in judged["trajectories"][0]["rounds"]) == 10
    assert "trajectory-0-round-0-candidate-3.png" in drawn
    page.get_by_role("button", name="Compare").click()
    left = page.get_by_label("Left, before")
    expect(left.locator("option:checked")).to_have_text("First picture, candidate 3")
    left.select_option(label="Edit 1, candidate 2")
    expect(page.get_by_role("dialog").get_by_role("img", name="Edit 1, candidate 2")).to_be_visible()


def test_which_candidate_goes_on_is_told_to_a_screen_reader(slow: Served, open_page: Open) -> None:
    job = httpx.post(f"{slow.url}/generate", json=JUDGED, headers={"Prefer": "respond-async"}, timeout=60).json()
    page = open_page(f"{slow.url}/j/{job['id']}")
    listen(page)
    ended(page)
    assert "Candidate 1 goes on, Lift 8.00." in heard(page)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"early_stop": {"score": {"scorer": "lift", "at_least": 7, "patience": 3}}},
            "Lift 8.00 is enough",
        ),
        ({"early_stop": {"score": {"scorer": "vqa"}}}, "VQA rose no more"),
        ({"max_images": 6}, "its pictures are used up"),
    ],
    ids=["reached", "risen no more", "budget"],
)
def test_why_it_stopped_is_said_in_words(quick: Served, open_page: Open, changes: dict[str, Any], words: str) -> None:
    job = made(quick, **{**JUDGED, **changes})
    page = open_page(f"{quick.url}/j/{job['id']}")
    ended(page)
    expect(page.locator(".status")).to_have_text(f"Finished: {words}")


def test_settings_are_used_again_and_copied_as_code(page: Page, quick: Served) -> None:
    page.get_by_role("button", name="Copy as code").click()
    curl = page.locator("pre.code").text_content() or ""
    answer = subprocess.run(["bash", "-c", curl], check=True, capture_output=True, timeout=120)
    before = job_of(page, quick)
    again = httpx.get(f"{quick.url}/jobs").json()["jobs"][0]
    assert answer.returncode == 0
    assert again["params"] == before["params"]
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Reuse settings").click()
    address = page.url
    page.get_by_role("button", name="Run").click()
    page.wait_for_url(lambda url: "/j/job_" in url and url != address)
    ended(page)
    shown = {**job_of(page, quick)["params"], "previews": before["params"]["previews"]}
    assert shown == before["params"]


def test_nothing_that_can_be_set_is_refused_for_a_score_that_is_missing(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.get_by_text("More settings").click()
    scorers = page.locator(".judge")
    scorers.get_by_label("GvU").check()
    scorers.get_by_label("Lift").check()
    page.get_by_label("Candidates, first").fill("8")
    page.get_by_label("Stop by the score").check()
    expect(page.get_by_label("Enough from")).to_be_disabled()
    page.get_by_label("By which score").select_option(label="Lift")
    page.get_by_label("Enough from").fill("0.5")
    page.get_by_label("Patience, rounds").fill("99")
    page.get_by_label("By which score").select_option(label="GvU")
    page.locator("input[name=n][value='2']").check()
    page.get_by_label("Pictures at most").fill("3")
    page.get_by_label("Pictures at most").blur()
    expect(page.get_by_label("Pictures at most")).to_have_value("16")
    accessible(page)
    run(page, "a cat", rounds=1)
    ended(page)
    params = job_of(page, quick)["params"]
    assert params["early_stop"]["score"] == {"scorer": "gvu", "at_least": None, "min_gain": 0.0, "patience": 8}
    assert params["max_images"] == 16
    scorers.get_by_label("GvU").uncheck()
    scorers.get_by_label("Lift").uncheck()
    address = page.url
    page.get_by_role("button", name="Run").click()
    page.wait_for_url(lambda url: "/j/job_" in url and url != address)
    ended(page)
    assert "judge" not in job_of(page, quick)["params"]


def test_a_score_alone_can_end_the_loop(quick: Served, open_page: Open) -> None:
    page = open_page(quick.url)
    page.get_by_text("More settings").click()
    page.locator(".judge").get_by_label("VQA").check()
    page.get_by_label("Stop by the score").check()
    page.get_by_label("Only when the model is satisfied too").check()
    page.get_by_label("Enough from").fill("4")
    run(page, "a cat scores=0045 edits=9", rounds=4, early_stop=False)
    ended(page)
    expect(page.locator(".status")).to_have_text("Finished: VQA rose no more")
    params = job_of(page, quick)["params"]
    assert params["early_stop"]["on_satisfied"] is False
    assert params["early_stop"]["score"]["at_least"] == 4
    assert "all" not in params["early_stop"]


def test_the_settings_of_scores_end_where_info_says(quick: Served, open_page: Open) -> None:
    def narrower(route: Route) -> None:
        info = route.fetch().json()
        info["ranges"]["candidates.first"]["maximum"] = 3
        route.fulfill(json=info)

    page = open_page("about:blank")
    page.route("**/info", narrower)
    page.goto(quick.url)
    page.get_by_text("More settings").click()
    page.locator(".judge").get_by_label("Lift").check()
    page.get_by_label("What should the picture show?").fill("a cat")
    page.get_by_label("Candidates, first").fill("8")
    page.keyboard.press("Control+Enter")  # from within the field
    page.wait_for_url("**/j/job_*")
    ended(page)
    assert job_of(page, quick)["params"]["candidates"] == {"first": 3, "refine": 1}


def test_a_job_that_is_not_judged_shows_nothing_of_it(quick: Served, open_page: Open) -> None:
    page = open_page(f"{quick.url}/j/{made(quick, prompt='a cat')['id']}")
    ended(page)
    for selector in (".scores", ".words", ".fan", ".plot", ".spent", ".back"):
        expect(page.locator(selector)).to_have_count(0)


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_nothing_moves_while_scores_and_candidates_come(slow: Served, open_page: Open, screen: dict[str, Any]) -> None:
    body = {**JUDGED, "max_rounds": 2}
    job = httpx.post(f"{slow.url}/generate", json=body, headers={"Prefer": "respond-async"}, timeout=60).json()
    page = open_page(f"{slow.url}/j/{job['id']}", **screen)
    page.wait_for_selector(".plot")
    page.evaluate(SHIFTS)
    ended(page)
    assert page.evaluate("window.shifts") < 0.05


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_the_bar_is_as_high_before_the_first_picture_as_after_it(
    slow: Served, open_page: Open, screen: dict[str, Any]
) -> None:
    page = open_page(slow.url, **screen)
    page.evaluate(BAR_HEIGHTS)
    run(page, "a red house rounds=1", rounds=1)
    ended(page)
    assert page.locator(".strip .thumb").count() == 2
    heights: list[list[Any]] = page.evaluate("window.heights")
    assert {kind for kind, _ in heights} >= {"SPAN", "BUTTON"}
    assert len({height for _, height in heights}) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [{}, PHONE], ids=["wide", "phone"])
def test_every_state_of_it_is_accessible(
    quick: Served, judged: dict[str, Any], open_page: Open, screen: dict[str, Any], scheme: str
) -> None:
    several = made(quick, **{**JUDGED, "n": 3, "judge": {"scorers": ["vqa", "gvu", "lift", "verdict"]}})
    page = open_page(quick.url, **screen, color_scheme=scheme)
    for name, job in (("judged", judged), ("judged-several", several)):
        page.goto(f"{quick.url}/j/{job['id']}")
        ended(page)
        page.wait_for_selector(picture(page, 0))
        shot(page, f"{'phone' if screen else 'wide'}-{scheme}-{name}")
        accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        small = page.evaluate(
            "() => [...document.querySelectorAll('button, .button, select, summary, .switch, .segments label')]"
            ".filter((e) => e.checkVisibility()).map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])"
            ".filter(([, box]) => box.height < 44 || box.width < 44).map(([name]) => name)"
        )
        assert not small


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": "a cat scores=31425 edits=9", "max_rounds": 4, "candidates": {"first": 1, "refine": 3}},
        {"prompt": "a cat scores=53214 edits=9", "max_rounds": 4, "early_stop": {"score": MIN_GAIN}},
        {"judge": {"scorers": ["verdict", "gvu"]}, "max_images": 11, "n": 2, "choose": "last"},
        {"on_regression": "keep", "judge": {"scorers": ["vqa"]}, "candidates": {"first": 2}},
    ],
    ids=["back once", "back and forth", "back by more than a little", "verdict and budget", "never back"],
)
def test_a_job_made_of_its_events_is_the_job_made_of_its_json(
    quick: Served, open_page: Open, changes: dict[str, Any]
) -> None:
    job = made(quick, **{**JUDGED, **changes})
    events = httpx.get(f"{quick.url}/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"}).text
    page = open_page(quick.url)
    followed, read = page.evaluate(
        """async ([json, events]) => {
            const [{ parser }, { after }, { fromJson }] = await Promise.all(
                ["events", "job", "json"].map((name) => import(`/assets/${name}.js`)));
            let job = fromJson(json, true);
            parser((event) => { if (event.name !== "job.succeeded") job = after(job, event); })(events);
            const bare = (value) => JSON.parse(JSON.stringify(value, (key, part) => key === "preview" ? null : part));
            return [bare(job.trajectories), bare(fromJson(json).trajectories)];
        }""",
        [job, events],
    )
    assert followed == read
