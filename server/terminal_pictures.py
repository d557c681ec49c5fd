"""A picture in a terminal: by kitty's or iTerm2's protocol or as sixels where the terminal knows one, else half-blocks.

    kitty    https://sw.kovidgoyal.net/kitty/graphics-protocol/      PNG alone
    iterm2   https://iterm2.com/documentation-images.html            whatever the terminal can decode
    sixel    the VT340's; a terminal that knows them says 4 among its attributes (DA1)
    blocks   two pixels a cell, ▀ in two colours; any terminal with colours

Inside tmux or screen the first two would not arrive, and DA1 is answered by these, for themselves.
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from PIL import Image
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

Way = Literal["kitty", "iterm2", "sixel", "blocks"]
WAYS: Final = ("kitty", "iterm2", "sixel", "blocks")
_KITTY_CHUNK: Final = 4096
_ANSWER_S: Final = 1.0  # a far terminal needs some; one that never answers is rare
_CELL_PIXELS: Final = 20  # of a usual cell's height: how large sixels are drawn
_SIXEL_COLOURS: Final = 128
_SIXEL_ROWS: Final = 6


def way_of(environment: Mapping[str, str], attributes: Callable[[], str]) -> Way:
    """How this terminal shows pictures best; `attributes` asks it for its answer to DA1."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" not in environment and not term.startswith(("screen", "tmux")):
        if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    known = re.search(r"\x1b\[\?([\d;]*)c", attributes())
    return "sixel" if known is not None and "4" in known[1].split(";")[1:] else "blocks"


def attributes_of_terminal() -> str:
    """What the terminal answers to DA1; empty where it does not within a moment, or there is none."""
    try:
        import termios
        import tty

        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return ""
    try:
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal)  # without echo, and without waiting for a line
            os.write(terminal, b"\x1b[c")
            return _until_c(terminal).decode("ascii", "replace")
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    except (termios.error, OSError):
        return ""
    finally:
        os.close(terminal)


def show(on: Console, content: bytes, way: Way) -> None:
    """Draw a picture where the cursor is, and leave the cursor on the line below. Raises OSError where it is none."""
    rows = max(4, min(16, on.height // 2))
    if way == "blocks":
        on.print(half_blocks(content, min(on.width, 2 * rows), rows))
        return
    drawn = {"kitty": kitty, "iterm2": iterm2, "sixel": sixel}[way](content, rows)
    on.file.write(f"{drawn}\n")
    on.file.flush()


def kitty(content: bytes, rows: int) -> str:
    """As a PNG, in pieces; q=2 keeps the terminal from answering."""
    text = base64.standard_b64encode(_as_png(content)).decode("ascii")
    pieces = [text[at : at + _KITTY_CHUNK] for at in range(0, len(text), _KITTY_CHUNK)]
    heads = [f"a=T,f=100,q=2,r={rows},", *[""] * (len(pieces) - 1)]
    return "".join(
        f"\x1b_G{head}m={int(number < len(pieces) - 1)};{piece}\x1b\\"
        for number, (head, piece) in enumerate(zip(heads, pieces, strict=True))
    )


def iterm2(content: bytes, rows: int) -> str:
    """As it is."""
    text = base64.standard_b64encode(content).decode("ascii")
    return f"\x1b]1337;File=inline=1;size={len(content)};height={rows};preserveAspectRatio=1:{text}\x07"


def sixel(content: bytes, rows: int) -> str:
    """Six rows of pixels a band; in a band one line of sixels for each of its colours."""
    side = rows * _CELL_PIXELS
    picture = _opened(content, (2 * side, side)).quantize(_SIXEL_COLOURS)
    width, height, palette, pixels = *picture.size, picture.getpalette() or [], picture.tobytes()
    colours = "".join(
        f"#{number};2;" + ";".join(str(round(part / 2.55)) for part in palette[3 * number : 3 * number + 3])
        for number in sorted(set(pixels))
    )
    bands = (_band(pixels, width, top, min(_SIXEL_ROWS, height - top)) for top in range(0, height, _SIXEL_ROWS))
    return f'\x1bPq"1;1;{width};{height}{colours}{"-".join(bands)}\x1b\\'


def half_blocks(content: bytes, columns: int, rows: int) -> Text:
    """Two pixels a cell: the upper one is the sign's colour, the lower one its background."""
    picture = _opened(content, (columns, 2 * rows))
    width, height, pixels = *picture.size, picture.tobytes()

    def colour(x: int, y: int) -> str:
        at = 3 * (min(y, height - 1) * width + x)
        return "#" + pixels[at : at + 3].hex()

    lines = (
        Text("").join(Text("▀", Style(color=colour(x, y), bgcolor=colour(x, y + 1))) for x in range(width))
        for y in range(0, height, 2)
    )
    return Text("\n").join(lines)


def _band(pixels: bytes, width: int, top: int, rows: int) -> str:
    bits: dict[int, list[int]] = defaultdict(lambda: [0] * width)
    for row in range(rows):
        at = (top + row) * width
        for x, colour in enumerate(pixels[at : at + width]):
            bits[colour][x] |= 1 << row
    return "$".join(f"#{colour}{_runs(line)}" for colour, line in sorted(bits.items()))


def _runs(line: list[int]) -> str:
    def written() -> Iterator[str]:
        for bits, run in groupby(line):
            sign, count = chr(63 + bits), sum(1 for _ in run)
            yield f"!{count}{sign}" if count > 3 else sign * count

    return "".join(written())


def _opened(content: bytes, fits: tuple[int, int]) -> Image.Image:
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    scale = min(fits[0] / picture.width, fits[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _as_png(content: bytes) -> bytes:
    if content.startswith(b"\x89PNG"):
        return content
    out = io.BytesIO()
    with Image.open(io.BytesIO(content)) as opened:
        opened.save(out, "PNG")
    return out.getvalue()


def _until_c(terminal: int) -> bytes:
    """The answer, which ends with a c."""
    answer, deadline = b"", time.monotonic() + _ANSWER_S
    while not answer.endswith(b"c"):
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return b""
        answer += os.read(terminal, 64)
    return answer
