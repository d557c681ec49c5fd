"""The page in Debian's Chromium, before a real `r3 serve` with the small model.

Playwright's synchronous API keeps an event loop in this thread for as long as it runs, and tests elsewhere have loops
of their own: so a browser lives for one file of tests, and no test here is async.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.programs import needed
from tests.server.test_serve import Served
from tests.server.waiting import until

WAIT_MS = 120_000
AXE = Path(__file__).parent / "axe" / "axe.min.js"
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SCREENS = Path(os.environ["R3_SCREENS"]) if "R3_SCREENS" in os.environ else None

Open = Callable[..., Page]

expect.set_options(timeout=WAIT_MS)


@contextmanager
def serving(data_dir: Path, **variables: str) -> Iterator[Served]:
    """`r3 serve` that is ready, with these settings and no other."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    served = Served({**plain, "R3_DATA_DIR": str(data_dir), "R3_LOG_LEVEL": "warning", **variables})
    try:
        until(lambda: bool(served.said("ready: ")) or served.process.poll() is not None, 300)
        yield served.ready()
    finally:
        served.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once for a file of tests."""
    path = needed("chromium", package="chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the small model. One thread: several wait for each other where others use the machine."""
    with serving(tmp_path_factory.mktemp("served") / "data", R3_TORCH_THREADS="1") as one:
        yield one


@pytest.fixture(scope="module")
def quick(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the fake model, where it does not matter what the pictures show."""
    with serving(tmp_path_factory.mktemp("quick") / "data", R3_RUNNER="fake") as one:
        yield one


@pytest.fixture(scope="module")
def slow(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the fake model that takes its time."""
    with serving(tmp_path_factory.mktemp("slow") / "data", R3_RUNNER="fake", R3_FAKE_STEP_S="0.05") as one:
        yield one


class Complaints:
    """What the browser's console says that it should not: errors, and what the policy has blocked."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def listen(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.heard.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        # A refused or broken request is told by the browser itself; what the page makes of it is for the tests.
        if message.type == "error" and "Failed to load resource" not in message.text and "net::ERR" not in message.text:
            self.heard.append(message.text)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens an address as somebody with nothing kept from before, 1280 x 800 unless told; closed with the test."""
    contexts: list[BrowserContext] = []
    complaints = Complaints()

    def opened(address: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        complaints.listen(page)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints.heard


def run(page: Page, prompt: str, rounds: int | None = None, *, early_stop: bool = True, is_long: bool = False) -> str:
    """Ask for a picture; the id of the job. With `is_long` its edits take longer than a click on a busy machine."""
    page.get_by_label("What should the picture show?").fill(prompt)
    if rounds is not None:
        page.get_by_label("Rounds", exact=False).first.fill(str(rounds))
    if not early_stop:
        page.get_by_label("Stop when the model is satisfied").uncheck()
    if is_long:
        page.get_by_text("More settings").click()
        page.get_by_label("Timesteps, edits").fill("200")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/j/job_*")
    return page.url.rpartition("/")[2]


def watch(page: Page, *selectors: str) -> None:
    """Note which of these are there at any moment from now on: what lasts a tenth of a second a test may not catch."""
    page.evaluate(
        """(selectors) => {
          window.seen = [];
          const look = () => {
            for (const one of selectors) if (!seen.includes(one) && document.querySelector(one)) seen.push(one);
          };
          new MutationObserver(look).observe(document.body, { attributes: true, childList: true, subtree: true });
        }""",
        list(selectors),
    )


def seen(page: Page) -> set[str]:
    """What `watch` has noted."""
    return set(page.evaluate("seen"))


def listen(page: Page) -> None:
    """Note from now on what a screen reader is told, which may be something else a moment later."""
    page.evaluate(
        """() => {
          window.heard = [];
          const look = () => {
            const text = document.querySelector(".run > [role=status]")?.textContent;
            if (text && text !== heard.at(-1)) heard.push(text);
          };
          new MutationObserver(look).observe(document.body, { characterData: true, childList: true, subtree: true });
        }"""
    )


def heard(page: Page) -> str:
    """What `listen` has noted."""
    return " ".join(page.evaluate("heard"))


def picture(page: Page, index: int, trajectory: int = 0) -> str:
    """A selector of a finished picture."""
    return f"#round-{trajectory}-{index} .frame:not(.is-open) img:not(.under)"


def ended(page: Page, status: str = "succeeded") -> None:
    """Wait until the job has ended so."""
    page.wait_for_selector(f".status.is-{status}")


def whole(page: Page) -> str:
    """What a page says of a job that succeeded, once all of it is there: what can be done with it comes with what the
    server says of its models, which a page asks for by itself.
    """
    ended(page)
    expect(page.get_by_role("button", name="Copy as code")).to_be_visible()
    return page.locator("main").inner_text()


def accessible(page: Page) -> None:
    """axe-core finds nothing that breaks WCAG 2.2 AA, or its own best practices."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    told = [(v["id"], v["help"], [n["html"][:200] for n in v["nodes"]]) for v in found["violations"]]
    assert not told


def shot(page: Page, name: str) -> None:
    """Keep a picture of the page where R3_SCREENS names a folder."""
    if SCREENS is not None:
        SCREENS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENS / f"{name}.png")
