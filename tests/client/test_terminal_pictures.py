"""Pictures in a terminal: which way they are drawn, and that what is written is the picture."""

from __future__ import annotations

import base64
import io
import os
import re

import PIL.Image
import pytest
from rich.console import Console

from server.terminal_pictures import half_blocks, iterm2, kitty, sixel, way_of

RED, BLUE = (250, 10, 10), (10, 10, 250)


def picture(size: tuple[int, int] = (64, 64), form: str = "PNG") -> bytes:
    """Red above, blue below."""
    image = PIL.Image.new("RGB", size, RED)
    image.paste(BLUE, (0, size[1] // 2, *size))
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


@pytest.mark.parametrize(
    ("environment", "attributes", "way"),
    [
        ({"TERM": "xterm-kitty"}, "", "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "", "kitty"),
        ({"TERM": "xterm-ghostty"}, "", "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "\x1b[?62;4c", "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "", "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, "", "iterm2"),
        ({"TERM": "foot"}, "\x1b[?62;4;22c", "sixel"),
        ({"TERM": "xterm"}, "\x1b[?64;1;2c", "blocks"),
        ({"TERM": "vt100"}, "\x1b[?4c", "blocks"),  # its class, not what it can do
        ({"TERM": "xterm"}, "", "blocks"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, "\x1b[?1;2c", "blocks"),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, "\x1b[?1;2;4c", "sixel"),
    ],
)
def test_a_terminal_gets_the_best_that_it_knows(environment: dict[str, str], attributes: str, way: str) -> None:
    assert way_of(environment, lambda: attributes) == way


def test_kitty_gets_a_png_in_pieces() -> None:
    content = os.urandom(9000)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(b"\x89PNG" + content, 8))
    assert [head for head, _ in pieces] == ["a=T,f=100,q=2,r=8,m=1", "m=1", "m=0"]
    assert base64.b64decode("".join(piece for _, piece in pieces)) == b"\x89PNG" + content
    webp = re.findall(r";([^\x1b]*)\x1b\\", kitty(picture(form="WEBP"), 8))
    assert base64.b64decode("".join(webp)).startswith(b"\x89PNG")


def test_iterm2_gets_the_bytes_as_they_are() -> None:
    content = picture(form="WEBP")
    found = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);height=8;preserveAspectRatio=1:(.*)\x07", iterm2(content, 8)
    )
    assert found is not None
    assert (int(found[1]), base64.b64decode(found[2])) == (len(content), content)


def drawn_sixels(text: str) -> PIL.Image.Image:
    """What a terminal would make of it."""
    found = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert found is not None
    image = PIL.Image.new("RGB", (int(found[1]), int(found[2])))
    colours: dict[int, tuple[int, ...]] = {}
    colour, x, top = 0, 0, 0
    for token in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([$-])|([?-~])", found[3]):
        if token[1]:
            colours[int(token[1])] = tuple(round(int(part) * 2.55) for part in token.group(2, 3, 4))
        elif token[5]:
            colour = int(token[5])
        elif token[8]:
            x, top = 0, top + (6 if token[8] == "-" else 0)
        else:
            run, bits = int(token[6] or 1), ord(token[7] or token[9]) - 63
            for row in (row for row in range(6) if bits >> row & 1):
                image.paste(colours[colour], (x, top + row, x + run, top + row + 1))
            x += run
    return image


def test_sixels_are_the_picture() -> None:
    image = drawn_sixels(sixel(picture((48, 50)), rows=2))
    assert image.height == 40
    for at, colour in (((3, 3), RED), ((30, 17), RED), ((3, 23), BLUE), ((30, 39), BLUE)):
        drawn = image.getpixel(at)
        assert isinstance(drawn, tuple)
        assert all(abs(int(part) - wanted) < 12 for part, wanted in zip(drawn, colour, strict=True)), at


def test_half_blocks_are_two_pixels_a_cell() -> None:
    text = half_blocks(picture((64, 32)), columns=16, rows=4)
    assert text.plain == "\n".join(["▀" * 16] * 4)
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="truecolor", width=80, _environ={}).print(text)
    first, *_, last = out.getvalue().splitlines()
    for line, (red, _, blue) in ((first, RED), (last, BLUE)):  # scaling blurs a little
        colours = re.findall(r"38;2;(\d+);\d+;(\d+);48;2;(\d+);\d+;(\d+)m▀", line)
        assert len(colours) == 16
        assert all(abs(int(a) - b) < 12 for cell in colours for a, b in zip(cell, (red, blue) * 2, strict=True))
