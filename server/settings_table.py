"""The table of every setting in docs/operations.md, written from settings.py: name, default, meaning.

python -m server.settings_table             write the table anew
python -m server.settings_table --check     exit with 1 where it is not what settings.py says
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from server import settings
from server.settings import Settings

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
BEGIN: Final = "<!-- begin: written by `make settings` -->\n"
END: Final = "<!-- end -->\n"
_GROUP: Final = re.compile(r"^    # (.+)$")
_VARIABLE: Final = re.compile(r"(?<!`)\bR3_[A-Z_]+(=\w+)?\b")


def table() -> str:
    """The table, a row for each setting in the order of the file, with its groups."""
    rows = ["| setting | default | means |", "|---|---|---|"]
    for group, name, means in _told():
        if group is not None:
            rows.append(f"| **{group}** | | |")
        field = Settings.model_fields[name]
        rows.append(f"| `R3_{name.upper()}` | {_default(field)} | {_shown(means)}{_choices(field)} |")
    return "\n".join(rows) + "\n"


def with_table(page: str) -> str:
    """The page with the table of today between its marks. Raises ValueError where it lacks them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the table has no place: put {BEGIN.strip()} and, after it, {END.strip()} into the page")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _told() -> Iterator[tuple[str | None, str, str]]:
    """Each setting: the group that begins with it, its name, the text below it. Raises ValueError without a text."""
    source = Path(settings.__file__).read_text("utf-8")
    lines = source.splitlines()
    [body] = [
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    for node, below in pairwise(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, group = node.target.id, _GROUP.match(lines[node.lineno - 2])
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
            raise ValueError(f"{name} in server/settings.py does not say what it means; write a docstring below it")
        yield None if group is None else group[1], name, str(below.value.value).removesuffix(".")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:  # which says what it gives
        return str(field.default_factory.__doc__).rstrip(".")
    value: Any = field.default
    if value is None or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


def _choices(field: FieldInfo) -> str:
    """The words that a setting may be."""
    kinds = [field.annotation, *get_args(field.annotation)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return f" ({', '.join(f'`{word}`' for word in words)})" if words else ""


def _shown(means: str) -> str:
    return _VARIABLE.sub(lambda found: f"`{found[0]}`", means).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write or check; the exit code of the process."""
    stored = PAGE.read_text("utf-8")
    fresh = with_table(stored)
    if arguments == ["--check"]:
        if stored != fresh:
            sys.stderr.write(f"{PAGE} is not what server/settings.py says; write it anew with `make settings`\n")
        return int(stored != fresh)
    PAGE.write_text(fresh, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
