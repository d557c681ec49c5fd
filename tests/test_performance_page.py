"""docs/performance.md says what its figures say, and nothing besides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image as PILImage

from benchmarks import number_formats
from benchmarks.performance import IMAGES, PAGE, RESULTS, read
from benchmarks.speed import plots
from benchmarks.speed.page import BEGIN, END, NEVER, Runs, with_tables, written
from benchmarks.speed.promises import promises
from r3core.bench.line import Line
from tests.speed_runs import MACHINE, lines, run

BOTH = Runs(run(), run(speed=2.5))


def test_the_page_has_the_tables_and_plots_that_the_results_make() -> None:
    text, runs = PAGE.read_text(), read(RESULTS)
    assert text == with_tables(text, runs)
    made = plots.drawn(dict(runs))
    assert {path.name for path in IMAGES.glob("performance_*.png")} == set(made)
    for name, picture in made.items():
        with PILImage.open(IMAGES / name) as shown:
            assert shown.tobytes() == picture.tobytes(), name


def test_no_figure_stands_outside_the_tables() -> None:
    text = PAGE.read_text()
    places = [(BEGIN.format(name=name), END.format(name=name)) for name in written(Runs())]
    for begin, end in (*places, (number_formats.BEGIN, number_formats.END)):
        before, _, rest = text.partition(begin)
        text = before + rest.partition(end)[2]
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?<![A-Za-z\d])\d[\d,.]*", prose)


def test_figures_stand_side_by_side_with_what_was_gained() -> None:
    made = written(BOTH)
    assert (
        "| reason (rounds 2) | 0.5 s | 0.2 s | 0.18–0.22 s | 2.5× | 20.0 %, 50.0 % |" in made["phases"]
    )  # of 0.1 s at the least: its bytes, not its arithmetic
    assert "| tokens decoded (batch 4) | 4 tokens/s | 10 tokens/s |  | 2.5× | 2.0 %, 5.0 % |" in made["decode"]
    assert "| matrix product (side 1024) | 95 GFLOP/s | 95 GFLOP/s | 90–100 GFLOP/s |  |" in made["ceiling"]
    assert "(images/performance_decode.png)" in made["decode"]
    assert made["scoring"] == "Not measured yet.\n"


def test_the_distance_to_the_floor_is_told_before_and_after() -> None:
    assert "| phases: reason (rounds 2) | 100 ms | 5× | 2× |" in written(BOTH)["floor"]


def test_what_was_promised_is_kept_or_missed_by_the_figures() -> None:
    loop, every, *together, overhead = promises(run(speed=1.9))
    assert (loop.is_kept, every.is_kept, overhead.is_kept) == (False, True, True)
    assert [one.is_kept for one in together] == [True, True]
    assert every.figure == pytest.approx(1.25 * 1.9)
    assert [one.is_kept for one in promises(run(speed=1.2))] == [False, False, False, True, True]
    late = [line for line in lines(3.0) if line.part != "overhead"]
    assert [one.is_kept for one in promises(run(lines=tuple(late)))] == [True, True, True, True, None]
    told = written(Runs(run(), run(speed=1.9)))["promises"]
    assert "| a whole loop, against the straightforward way | at least 2× | 1× | 1.9× | **missed** |" in told
    assert "15 ms or 3 % of the engine's time" in told


def test_what_only_one_of_the_runs_has_is_told_all_the_same() -> None:
    fewer = tuple(line for line in lines(1.0) if line.part != "phases")
    assert "| reason (rounds 2) | 0.5 s | — |" in written(Runs(run(), run(lines=fewer)))["phases"]
    assert "| reason (rounds 2) | — | 0.2 s |" in written(Runs(run(lines=fewer), run(speed=2.5)))["phases"]


def test_what_came_of_a_run_does_not_keep_its_figures_apart() -> None:
    one, other = (
        Line("load", "throughput", "jobs/s", (2.0,), {"loops": 32, "rounds": rounds}) for rounds in (0.5, 0.625)
    )
    assert "| 2 jobs/s | 2 jobs/s |" in written(Runs(run(lines=(one,)), run(lines=(other,))))["load"]
    other = Line("load", "throughput", "jobs/s", (2.0,), {"loops": 16, "rounds": 0.5})
    assert "| 2 jobs/s | — |" in written(Runs(run(lines=(one,)), run(lines=(other,))))["load"]


def test_that_no_gpu_was_used_is_said_until_there_are_figures_of_one() -> None:
    never = written(BOTH)["gpu"]
    assert never.startswith(NEVER)
    assert "| one decoded token, batch 1 | at most 3.7 ms a token | never run |" in never
    on_gpu = run(speed=500.0, machine={**MACHINE, "gpu": "a GPU"})
    told = written(Runs(gpu=[on_gpu]))["gpu"]
    assert "never run" not in told.lower()
    assert "a GPU, 2 cores" in told
    assert "| one decoded token, batch 1 | at most 3.7 ms a token | met: 2 ms a token |" in told
    assert "| decode | tokens decoded (batch 1) | 500 tokens/s |" in told


def test_another_machine_has_promises_and_figures_of_its_own() -> None:
    assert written(BOTH)["elsewhere"] == "Not measured yet.\n"
    told = written(Runs(elsewhere=[run(speed=2.5, machine={**MACHINE, "cpu": "another processor"})]))["elsewhere"]
    assert "*another processor*: measured on 2026-01-01 at `0123456789ab`" in told
    assert "| a whole loop, against the straightforward way | at least 2× | — | 2.5× | kept |" in told
    assert "| decode | tokens decoded (batch 1) | 2.5 tokens/s |" in told


def test_notes_of_a_run_are_told_with_it() -> None:
    partial = run(notes=("this is not all that was asked for: it was interrupted",))
    assert "Of that run: this is not all that was asked for: it was interrupted.\n" in written(Runs(partial))["machine"]


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    text = PAGE.read_text().replace("<!-- end decode -->\n", "")
    with pytest.raises(ValueError, match="no place for decode"):
        with_tables(text, Runs())


def test_plots_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    plots.write_plots(tmp_path, {"after": run()})
    drawn = {path.stem.removeprefix("performance_") for path in tmp_path.iterdir()}
    assert drawn == {"ways", "decode", "edit", "rounds", "load"}  # not of a single size, nor of what was not measured
    assert plots.ways(dict(BOTH))["engine, one loop"] == {"before": 4.0, "after": pytest.approx(1.6)}
    series = plots.rates(dict(BOTH), "decode", "tokens decoded")
    assert series["after"][-1] == (4.0, 10.0)
    assert series["the ceiling"] == [(1.0, 50.0), (2.0, 100.0), (4.0, 200.0)]
