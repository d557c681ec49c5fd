"""The README's pictures of the page: one job run through a browser, as somebody sees it who has just asked for it.

    python benchmarks/page_pictures.py http://127.0.0.1:8000                    asks for PROMPT, with SEED
    python benchmarks/page_pictures.py http://127.0.0.1:8000 --prompt "a star above a circle" --seed 5

The server must run, with a model and without keys. Needs Debian's chromium. It writes docs/images/page.webp, the run as
an animation, and docs/images/page.png, the page at its end. Long waits are shown short, and none is shown twice.
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

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
PROMPT = "two yellow stars and one red circle"
SEED = 7

_VIEW: ViewportSize = {"width": 1180, "height": 800}
_FILM_WIDTH = 900
_FRAME_MS = 140  # of the film, for what changed
_TYPED_MS = 45
_END_MS = 3500
_MOST_BYTES = {"page.png": 400_000, "page.webp": 2_000_000}
_QUALITIES = (80, 65, 50, 35)
_MOST_WAIT_MS = 600_000
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
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--dark", action="store_true", help="the page in its dark colours")
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder to write to")
    asked = parser.parse_args()
    with _browser_page(dark=asked.dark) as page:
        frames = list(_run(page, asked.url, asked.prompt, asked.seed))
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
    yield from _followed(page)
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    yield Frame(_shot(page), _END_MS)


def _followed(page: Page) -> Iterator[Frame]:
    """A frame whenever something can be seen to have changed."""
    before: bytes = b""
    deadline_s = time.monotonic() + _MOST_WAIT_MS / 1000
    while time.monotonic() < deadline_s:
        has_ended = page.locator(".status").get_attribute("class") not in {"status is-queued", "status is-running"}
        image = _shot(page)
        if (content := image.tobytes()) != before:
            yield Frame(image, _FRAME_MS)
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
    page.set_viewport_size({"width": _VIEW["width"], "height": min(1100, page.evaluate("document.body.scrollHeight"))})
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
