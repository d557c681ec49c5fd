"""From one job to the next: compare, branch, edit, start from a picture, take away, find again."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.server.test_serve import Served
from tests.web.conftest import Open, accessible, ended, picture, run, shot

pytestmark = pytest.mark.timeout(900)
PROMPT = "two yellow stars and one red circle"


@pytest.fixture(scope="module")
def finished(served: Served) -> str:
    """The address of a finished job with two edits."""
    body = {"prompt": PROMPT, "seed": 7, "max_rounds": 2, "early_stop": False}
    job = httpx.post(f"{served.url}/generate", json=body, timeout=120).json()
    assert job["status"] == "succeeded", job
    return f"{served.url}/j/{job['id']}"


@pytest.fixture
def page(open_page: Open, finished: str) -> Page:
    """The page of that job."""
    one = open_page(finished)
    ended(one)
    return one


def job_of(page: Page, served: Served) -> dict[str, object]:
    """The job that the page has gone to."""
    found = re.search(r"job_[0-9a-f]{32}", page.url)
    assert found is not None
    job: dict[str, object] = httpx.get(f"{served.url}/jobs/{found[0]}").json()
    return job


def gone_on(page: Page, finished: str) -> None:
    """Wait until the page shows another job than before, and that this one has ended."""
    page.wait_for_url(lambda url: "/j/job_" in url and url != finished)
    ended(page)


def test_one_more_round_goes_on_from_that_picture(page: Page, served: Served, finished: str) -> None:
    page.locator("#round-0-2").get_by_role("button", name="One more round").click()
    gone_on(page, finished)
    job = job_of(page, served)
    assert job["parent"] == {"job": finished.rpartition("/")[2], "trajectory": 0, "round": 2}
    expect(page.locator(".round")).to_have_count(2)
    expect(page.get_by_text("Goes on from edit 2 of")).to_be_visible()
    page.get_by_role("link", name="an earlier job").click()
    expect(page).to_have_url(finished)


def test_a_branch_has_that_picture_and_another_seed(page: Page, served: Served, finished: str) -> None:
    page.locator("#round-0-0").get_by_text("Go on from this picture").click()
    page.locator("#round-0-0").get_by_role("button", name="Branch, new seed").click()
    gone_on(page, finished)
    job = job_of(page, served)
    assert job["parent"] == {"job": finished.rpartition("/")[2], "trajectory": 0, "round": 0}
    params = job["params"]
    assert isinstance(params, dict)
    assert params["seed"] != 7
    assert params["max_rounds"] == 2


def test_an_edit_of_ones_own_is_carried_out(page: Page, served: Served, finished: str) -> None:
    page.locator("#round-0-2").get_by_role("button", name="Edit it my way").click()
    page.get_by_label("What should be changed?").fill("Make the circle blue.")
    page.keyboard.press("Enter")
    gone_on(page, finished)
    expect(page.locator(".arrow p")).to_contain_text("Make the circle blue.")


def test_a_picture_becomes_the_start_and_settings_are_reused(page: Page, served: Served, finished: str) -> None:
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.locator("#seed")).to_have_value("7")
    expect(page.locator("#prompt")).to_have_value(PROMPT)
    page.locator("#round-0-2").get_by_role("button", name="Use as start").click()
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
    expect(page.locator("#size")).to_be_disabled()
    accessible(page)
    page.locator("#rounds").fill("1")
    page.get_by_role("button", name="Run").click()
    gone_on(page, finished)
    params = job_of(page, served)["params"]
    assert isinstance(params, dict)
    assert (params["seed"], params["max_rounds"], params["early_stop"]["on_satisfied"]) == (7, 1, False)
    expect(page.get_by_role("heading", name="The picture given")).to_be_visible()


def test_settings_that_have_no_field_are_reused_too_and_can_be_left_out(open_page: Open, served: Served) -> None:
    asked = {
        "prompt": PROMPT,
        "max_rounds": 1,
        "previews": 2,
        "output_format": "webp",
        "output_compression": 60,
        "priority": "low",
        "reason": {"max_tokens": 100},
        "generate": {"num_timesteps": 5, "step_cache": 2, "cfg_interval": [0.25, 1.0]},
        "reflect": {"max_tokens": 40, "top_p": 0.8},
        "refine": {"step_cache": 3, "cfg_renorm_type": "channel"},
    }
    job = httpx.post(f"{served.url}/generate", json=asked, timeout=120).json()
    assert job["status"] == "succeeded", job
    address = f"{served.url}/j/{job['id']}"
    page = open_page(address)
    page.get_by_role("button", name="Reuse settings").click()
    told = page.get_by_text("Also reused")
    for words in (
        *('output_format "webp"', "output_compression 60", 'priority "low"', "reason.max_tokens 100"),
        *("generate.cfg_interval [0.25,1]", "reflect.max_tokens 40 · reflect.top_p 0.8", "refine.cfg_renorm_type"),
    ):
        expect(told).to_contain_text(words)
    expect(told).not_to_contain_text("step_cache")
    expect(told).to_be_visible()
    accessible(page)
    told.scroll_into_view_if_needed()
    shot(page, "settings-without-fields")
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Step cache, first picture")).to_have_value("2")
    expect(page.get_by_label("Step cache, edits")).to_have_value("3")
    page.get_by_role("button", name="Run", exact=True).click()
    gone_on(page, address)
    assert job_of(page, served)["params"] == job["params"]

    page.get_by_role("button", name="Leave these out").click()
    expect(told).not_to_be_attached()
    expect(page.locator(".more > summary")).to_be_focused()
    before = page.url
    page.get_by_role("button", name="Run", exact=True).click()
    gone_on(page, before)
    plain = httpx.get(f"{served.url}/info").json()["models"][0]["defaults"]
    left = job_of(page, served)["params"]
    assert isinstance(left, dict)
    assert left["generate"] == {**plain["generate"], "num_timesteps": 5, "step_cache": 2}
    assert left["reflect"] == plain["reflect"]
    assert (left["output_format"], left["priority"]) == ("png", "normal")


def test_a_picture_of_ones_own_starts_a_job_and_what_is_none_is_refused(
    open_page: Open, served: Served, tmp_path: Path
) -> None:
    page = open_page(served.url)
    content = io.BytesIO()
    Image.new("RGB", (96, 96), "white").save(content, "PNG")
    page.set_input_files("#start-file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("Give a PNG, a JPEG or a WebP.")
    page.set_input_files("#start-file", {"name": "a.png", "mimeType": "image/png", "buffer": content.getvalue()})
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
    page.get_by_label("What to change in it").fill("Add a red circle.")
    run(page, "a red circle", rounds=1)
    ended(page)
    expect(page.locator(".arrow p")).to_contain_text("Add a red circle.")


def test_a_picture_that_is_dropped_or_pasted_is_taken(open_page: Open, served: Served) -> None:
    page = open_page(served.url)
    page.wait_for_selector("#prompt")
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([event, holder]) => {
                const canvas = new OffscreenCanvas(96, 96);
                canvas.getContext("2d").fillRect(0, 0, 9, 9);
                const data = new DataTransfer();
                data.items.add(new File([await canvas.convertToBlob()], "a.png", { type: "image/png" }));
                const Kind = event === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Kind(event, { [holder]: data, bubbles: true, cancelable: true }));
            }""",
            [event, holder],
        )
        expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
        page.get_by_role("button", name="Do not start from this picture").click()


def test_any_two_pictures_are_compared_in_three_ways(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Left, before").select_option(label="First picture")
    dialog.get_by_label("Right, after").select_option(label="Edit 1")
    slider = dialog.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    expect(dialog.locator(".over img").nth(1)).to_have_css("clip-path", "inset(0px 0px 0px 0%)")
    shot(page, "compare")
    accessible(page)
    dialog.get_by_label("Side by side").check()
    expect(dialog.get_by_role("img")).to_have_count(2)
    accessible(page)
    dialog.get_by_label("Toggle").check()
    expect(dialog.get_by_role("img", name="First picture")).to_be_visible()
    dialog.get_by_role("button", name="show the other").click()
    expect(dialog.get_by_role("img", name="Edit 1")).to_be_visible()
    expect(dialog.locator(".diff")).to_be_visible()


def test_trajectories_are_shown_side_by_side(open_page: Open, served: Served) -> None:
    page = open_page(served.url)
    page.locator("input[name=n][value='3']").check()
    run(page, PROMPT, rounds=0)
    ended(page)
    tops = [page.locator(picture(page, 0, i)).bounding_box() for i in range(3)]
    assert len({box["y"] for box in tops if box is not None}) == 1
    expect(page.get_by_role("heading", name="A seed")).to_be_visible()
    shot(page, "trajectories")
    accessible(page)


def test_words_that_came_and_went_are_told_apart(page: Page) -> None:
    pieces = page.evaluate(
        'async () => (await import("/assets/diff.js")).wordDiff("I see two red stars.", "I see three red stars now.")'
    )
    told = [(piece["kind"], piece["text"]) for piece in pieces]
    assert told[:4] == [("same", "I see"), ("gone", "two"), ("new", "three"), ("same", "red")]
    assert ("new", "stars now.") in told


def test_one_picture_and_all_of_them_with_what_is_known_are_saved(page: Page, tmp_path: Path) -> None:
    with page.expect_download() as one:
        page.locator("#round-0-2").get_by_role("link", name="Download").click()
    assert re.fullmatch(r"img_[0-9a-f]{32}\.png", one.value.suggested_filename)
    one.value.save_as(tmp_path / "one.png")
    with page.expect_download() as all_of_them:
        page.get_by_role("button", name="Download all").click()
    all_of_them.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["job.json", *(f"trajectory-0-round-{i}.png" for i in range(3))]
        assert archive.read("trajectory-0-round-2.png") == (tmp_path / "one.png").read_bytes()
        assert json.loads(archive.read("job.json"))["params"]["seed"] == 7


def test_what_is_copied_as_code_makes_the_same_picture(page: Page, served: Served, tmp_path: Path) -> None:
    page.get_by_role("button", name="Copy as code").click()
    curl = page.locator("pre.code").text_content() or ""
    answer = subprocess.run(["bash", "-c", curl], check=True, capture_output=True, timeout=120)
    first = json.loads(answer.stdout)
    assert first["status"] == "succeeded"
    page.get_by_label("Python").check()
    accessible(page)
    program = page.locator("pre.code").text_content() or ""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)
    page.get_by_label("openai").check()
    program = page.locator("pre.code").text_content() or ""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)
    shown = job_of(page, served)["trajectories"]
    assert isinstance(shown, list)
    expected = httpx.get(f"{served.url}{shown[0]['image']['url']}").content
    made = list(tmp_path.glob("*.png"))
    assert len(made) == 2
    for path in made:
        with Image.open(path) as saved, Image.open(io.BytesIO(expected)) as before:
            assert saved.tobytes() == before.tobytes()


def test_the_history_finds_a_job_by_the_words_of_its_prompt(page: Page, served: Served, finished: str) -> None:
    other = httpx.post(f"{served.url}/generate", json={"prompt": "a purple heart", "max_rounds": 0}, timeout=60).json()
    page.get_by_role("button", name="History").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("a purple heart").first).to_be_visible()
    shot(page, "history")
    accessible(page)
    dialog.get_by_label("Search the prompts").fill("HEART purple")
    expect(dialog.get_by_text(PROMPT)).to_have_count(0)
    dialog.get_by_role("button", name="Delete: a purple heart").first.click()
    dialog.get_by_role("button", name="Really delete: a purple heart").click()
    expect(dialog.get_by_text("No job has these words")).to_be_visible()
    assert httpx.get(f"{served.url}/jobs/{other['id']}").status_code == 404
    dialog.get_by_label("Search the prompts").fill("")
    dialog.get_by_role("link", name=PROMPT).last.click()
    expect(page).to_have_url(re.compile(r"/j/job_"))
