"""The README's pictures of the page: one job run through a browser, as somebody sees it who has just asked for it.

    python benchmarks/page_pictures.py http://127.0.0.1:8000
    python benchmarks/page_pictures.py http://127.0.0.1:8000 --prompt "a star above a circle" --seed 5

The server must run, with a model and without keys. Needs Debian's chromium. It writes docs/images/page.webp, the run as
an animation, and docs/images/page.png, the page at its end. Without --seed it first looks for one with which the model
finds fault with its picture, and is satisfied after an edit or more. Waits in which nothing happens are left out.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
PROMPT = "two yellow stars and one red circle"

_VIEW: ViewportSize = {"width": 1180, "height": 800}
_FILM_WIDTH = 900
_RUN_MS = 8000  # of the film, from the prompt to the job's end, however long that took
_FRAME_MS = (80, 400)  # and yet no frame shorter or longer than this
_TYPED_MS = 45
_END_MS = 3500
_MOST_BYTES = {"page.png": 400_000, "page.webp": 2_000_000}
_QUALITIES = (80, 65, 50, 35)
_MOST_WAIT_MS = 600_000
_CANDIDATES = 4
_MOST_SEEDS = 120
_ROUNDS_WORTH_SEEING = (2, 3)  # pictures: the first one, and an edit or two
# Nearer to what people's own systems have than DejaVu is.
_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<include ignore_missing="yes">/etc/fonts/fonts.conf</include>
<match target="pattern"><edit name="family" mode="prepend" binding="strong">
<string>Liberation Sans</string></edit></match></fontconfig>"""


@dataclass(frozen=True)
class Frame:
    """One picture of the film, and for how long it is shown."""

    image: Image.Image
    shown_ms: int


def main() -> int:
    """Make both, and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the server is, such as http://127.0.0.1:8000")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dark", action="store_true", help="the page in its dark colours")
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder to write to")
    asked = parser.parse_args()
    seed = _seed_worth_seeing(asked.url, asked.prompt) if asked.seed is None else asked.seed
    print(f"prompt {asked.prompt!r}, seed {seed}")
    with _browser_page(dark=asked.dark) as page:
        frames = list(_run(page, asked.url, asked.prompt, seed))
        still = _still(page)
    asked.out.mkdir(parents=True, exist_ok=True)
    written = {"page.png": still, "page.webp": _film(frames)}
    for name, content in written.items():
        (asked.out / name).write_bytes(content)
        print(f"{asked.out / name}: {len(content) / 1000:.0f} kB")
    too_large = [name for name, content in written.items() if len(content) > _MOST_BYTES[name]]
    if too_large:
        print(f"too large for the README: {', '.join(too_large)}; take a shorter run", file=sys.stderr)
    return 1 if too_large else 0


def _seed_worth_seeing(url: str, prompt: str) -> int:
    """A seed with which the model corrects itself, and is satisfied in the end."""
    body = {"prompt": prompt, "n": _CANDIDATES}
    with httpx.Client(base_url=url, timeout=None) as client:
        for first in range(0, _MOST_SEEDS, _CANDIDATES):
            job = client.post("/generate", json={**body, "seed": first}).raise_for_status().json()
            while job["status"] in {"queued", "running"}:
                time.sleep(1)
                job = client.get(f"/jobs/{job['id']}").raise_for_status().json()
            for trajectory in job["trajectories"]:
                if trajectory["stop_reason"] == "satisfied" and len(trajectory["rounds"]) in _ROUNDS_WORTH_SEEING:
                    return int(trajectory["seed"])
    raise SystemExit(f"none of the seeds below {_MOST_SEEDS} has an edit and ends satisfied; give another --prompt")


@contextmanager
def _browser_page(*, dark: bool) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium on PATH; apt install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(_FONTS)
        environment: dict[str, str | float | bool] = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments, env=environment)
        context = browser.new_context(
            viewport=_VIEW, color_scheme="dark" if dark else "light", reduced_motion="reduce", device_scale_factor=1
        )
        context.set_default_timeout(_MOST_WAIT_MS)
        yield context.new_page()
        browser.close()


def _run(page: Page, url: str, prompt: str, seed: int) -> Iterator[Frame]:
    """The frames of a whole run: the prompt is typed, and the page followed until the job has ended."""
    page.goto(url)
    page.wait_for_selector("#prompt")
    page.fill("#seed", str(seed))
    page.focus("#prompt")
    yield Frame(_shot(page), 900)
    for end in range(3, len(prompt) + 3, 3):
        page.fill("#prompt", prompt[:end])
        yield Frame(_shot(page), _TYPED_MS * 3)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".run-head")
    images = list(_followed(page))
    shown_ms = min(_FRAME_MS[1], max(_FRAME_MS[0], _RUN_MS // len(images)))
    yield from (Frame(image, shown_ms) for image in images)
    page.evaluate("() => { document.activeElement?.blur(); scrollTo(0, 0); }")
    yield Frame(_shot(page), _END_MS)


def _followed(page: Page) -> Iterator[Image.Image]:
    """The page whenever something can be seen to have changed."""
    before: bytes = b""
    deadline_s = time.monotonic() + _MOST_WAIT_MS / 1000
    while time.monotonic() < deadline_s:
        has_ended = page.locator(".status").get_attribute("class") not in {"status is-queued", "status is-running"}
        image = _shot(page)
        if (content := image.tobytes()) != before:
            yield image
        before = content
        if has_ended:
            return
    raise SystemExit("the job did not end in time")


def _shot(page: Page) -> Image.Image:
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
    height = round(image.height * _FILM_WIDTH / image.width)
    return image.resize((_FILM_WIDTH, height), Image.Resampling.LANCZOS)


def _still(page: Page) -> bytes:
    """The page from its top, as a PNG of few colours."""
    page.set_viewport_size({"width": _VIEW["width"], "height": min(1600, page.evaluate("document.body.scrollHeight"))})
    page.evaluate("scrollTo(0, 0)")
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    content = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


def _film(frames: list[Frame]) -> bytes:
    """The frames as one animated WebP, as fine as fits."""
    first, *others = (frame.image for frame in frames)
    shown_ms = [frame.shown_ms for frame in frames]
    for quality in _QUALITIES:
        content = io.BytesIO()
        first.save(
            content,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=shown_ms,
            loop=0,
            quality=quality,
            method=4,
            minimize_size=True,
        )
        if content.tell() <= _MOST_BYTES["page.webp"]:
            break
    return content.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
