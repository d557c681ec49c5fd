"""What docs/performance.md has between its markers: from the runs that there are, and from nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.speed import plots, promises
from benchmarks.speed.tables import NOTHING, figures_table, floor_table, part_table, targets_table
from r3core.bench.results import Results

BEGIN: Final = "<!-- begin {name}: written by `python -m benchmarks.performance` -->\n"
END: Final = "<!-- end {name} -->\n"
PARTS: Final = (
    *("ceiling", "ways", "together", "phases", "decode", "denoise", "growth", "load", "memory", "scoring"),
    *("system", "overhead", "system load"),
)
_PLOTS_OF: Final = {
    "ways": ("performance_ways.png",),
    "decode": ("performance_decode.png",),
    "denoise": ("performance_draw.png", "performance_edit.png"),
    "growth": tuple(f"performance_{axis}.png" for axis in ("rounds", "steps", "side", "batch")),
    "load": ("performance_load.png",),
}
NEVER: Final = "**Never run on a GPU.** Figures stand here as soon as there is the file of a run on one.\n"


@dataclass(frozen=True)
class Runs:
    """The engine before the work on speed and after it, on a CPU; on other machines' CPUs; and at the true size, on
    GPUs.
    """

    before: Results | None = None
    after: Results | None = None
    elsewhere: Sequence[Results] = ()
    gpu: Sequence[Results] = ()

    def __iter__(self) -> Iterator[tuple[str, Results]]:
        """Those before and after, by name."""
        return ((name, run) for name, run in (("before", self.before), ("after", self.after)) if run is not None)


def with_tables(text: str, runs: Runs) -> str:
    """The page with what the runs make."""
    for name, inner in written(runs).items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page has no place for {name}; put {begin.strip()} and {end.strip()} into it")
        text = f"{before}{begin}\n{inner}\n{end}{after}"
    return text


def written(runs: Runs) -> dict[str, str]:
    """Each by the name of its place."""
    shown = plots.drawn(dict(runs))
    return {
        "machine": _machine(runs),
        "promises": promises.table(runs.before, runs.after),
        **{part: _part(runs, part, shown) for part in PARTS},
        "floor": floor_table(runs.before, runs.after),
        "elsewhere": "\n".join(_elsewhere(run) for run in runs.elsewhere) or NOTHING,
        "gpu": "\n".join(_on_gpu(run) for run in runs.gpu) if runs.gpu else f"{NEVER}\n{targets_table(None)}",
    }


def _part(runs: Runs, part: str, shown: Collection[str]) -> str:
    table = part_table(runs.before, runs.after, part)
    names = [name for name in _PLOTS_OF.get(part, ()) if name in shown]
    return "\n".join([table, *(f"![{plots.TITLES[name]}](images/{name})\n" for name in names)])


def _elsewhere(run: Results) -> str:
    return "\n".join([_of(str(run.machine["cpu"]), run), promises.table(None, run), figures_table(run)])


def _on_gpu(run: Results) -> str:
    return "\n".join([_of(str(run.machine.get("gpu", "A GPU")), run), targets_table(run), figures_table(run)])


def _machine(runs: Runs) -> str:
    told = [_of(name.capitalize(), run) for name, run in runs]
    return "\n".join(told) if told else NOTHING


def _of(name: str, run: Results) -> str:
    """Which run it is, and on what."""
    machine = run.machine
    versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
    told = (
        f"*{name}*: measured on {run.date} at `{run.commit}` by `{run.command}`: {run.checkpoint}, {run.dtype}, "
        f"attention {run.attention}; {machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, "
        f"computing threads: {machine['threads']}, malloc of {machine.get('malloc', 'libc')}, "
        f"{int(machine['memory_bytes']) / 2**30:.0f} GiB, {machine['os']}; "
        f"{versions}.\n"
    )
    return told + "".join(f"Of that run: {note}.\n" for note in run.notes)
