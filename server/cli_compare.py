"""`r3 compare`: the options. Light: all that works is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="A folder of r3 batch", show_default=False)]


def compare(
    first: Folder,
    second: Folder,
    truth: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Which pictures are right, a JSON object a line; one file for both runs, or given twice one for each "
            "[results.jsonl of GenEval's scorer in each round's folder]",
        ),
    ] = None,
    sheet: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the pictures that differ are drawn side by side")
    ] = Path("differences.png"),
    no_sheet: Annotated[bool, typer.Option("--no-sheet", help="Draw none")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON, for machines")] = False,
) -> None:
    """Compare two runs of the same prompts: right or wrong or scores by round, stops, pictures spent, wins and losses.

    The second is held against the first, prompt by prompt, with 95 % intervals and the sign test.
    """
    from server.research.compare import run_compare

    raise typer.Exit(run_compare(first, second, truth or [], None if no_sheet else sheet, as_json=as_json))
