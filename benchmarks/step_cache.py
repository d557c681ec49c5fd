"""What a step cache saves and what it costs, with checkpoints/small: docs/step_cache.md from one run.

    python -m benchmarks.step_cache             measure, then write JSON, tables and picture; a quarter of an hour
    python -m benchmarks.step_cache --write     tables anew, from the JSON that there is

First pictures in the engine alone: how far they are from what every step gives, beside pictures that are drawn with
fewer timesteps in as many forwards. Then whole loops through the API, by the exact parser. No test prompt is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PILImage

from r3core.bench.driving import drive
from r3core.bench.results import commit, machine, versions
from r3core.config import EngineConfig
from r3core.engine.likeness import psnr
from r3core.runtime import Runtime, load_engine
from r3core.schedule import branches_per_step
from r3core.types import MOST_CACHED, ImageSampling, Trajectory
from training.eval_set import Case, cases
from training.figures import ROUNDS, Json, Share, accuracy, finished, refinements
from training.loops import loops_of
from training.measured import sample
from training.report import markdown, percent, put_between
from training.served import ask, private_server

PROJECT: Final = Path(__file__).resolve().parent.parent
CHECKPOINT: Final = PROJECT / "checkpoints" / "small"
RESULT: Final = PROJECT / "benchmarks" / "results" / "step_cache.json"
PAGE: Final = PROJECT / "docs" / "step_cache.md"
PICTURE: Final = PROJECT / "docs" / "images" / "step_cache.png"
BEGIN: Final = "<!-- begin {name}: written by `python -m benchmarks.step_cache` -->"
END: Final = "<!-- end {name} -->"
CACHES: Final = tuple(range(1, MOST_CACHED + 1))
TIMESTEPS: Final = (17, 50)  # the checkpoint's own, and the reference's
_PROMPTS: Final = 24
_SHOWN: Final = 4
_SCALE: Final = 2
HARD_TO_SEE_DB: Final = 40


def main() -> int:
    """Measure, and write what docs/step_cache.md shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="measure nothing; tables from the JSON")
    parser.add_argument("--limit", type=int, default=120, help="about so many loops each [120]")
    asked = parser.parse_args()
    if not asked.write:
        record = measure(sample(cases("validation"), asked.limit))
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    print("\n\n".join(written(record).values()))
    return 0


def measure(chosen: Sequence[Case]) -> Json:
    """Everything, in plain values."""
    runtime = load_engine(EngineConfig(CHECKPOINT, dtype="fp32"))
    about = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "checkpoint": {"name": runtime.description.name, "hash": runtime.description.hash},
        "machine": machine(runtime.loaded.model.bagel.device),
        "versions": versions(),
    }
    few = sample(cases("validation"), _PROMPTS)
    near = [way for timesteps in TIMESTEPS for way in _near(runtime, few, _ways(runtime, timesteps))]
    _show(runtime, few[:: len(few) // _SHOWN][:_SHOWN])
    rounded = load_engine(EngineConfig(CHECKPOINT, dtype="bf16"))
    in_bf16 = [way for timesteps in TIMESTEPS for way in _near(rounded, few, _cached(_ways(rounded, timesteps)))]
    with private_server(CHECKPOINT) as url:
        loops = [_loops(url, way, chosen) for way in _ways(runtime, TIMESTEPS[0])]
    return {**about, "first_pictures": len(few), "near": near, "near_in_bf16": in_bf16, "loops": loops}


def _ways(runtime: Runtime, timesteps: int) -> list[ImageSampling]:
    """So many timesteps; then with each cache, and after it fewer timesteps that take as many forwards."""
    plain = replace(runtime.description.defaults.generate, num_timesteps=timesteps)
    caches = [replace(plain, step_cache=k) for k in CACHES[1:]]
    pairs = ((cached, replace(plain, num_timesteps=_computed(cached) + 1)) for cached in caches)
    return [plain, *(one for pair in pairs for one in pair)]


def _cached(ways: Sequence[ImageSampling]) -> list[ImageSampling]:
    """Those of all timesteps."""
    return [way for way in ways if way.num_timesteps == ways[0].num_timesteps]


def _near(runtime: Runtime, few: Sequence[Case], ways: Sequence[ImageSampling]) -> Iterator[Json]:
    """First pictures of each way, against those of the first."""
    drive(runtime.engine, [_asked(runtime, few[0], ways[0])])
    drawn = [[drive(runtime.engine, [_asked(runtime, case, way)]).seen[0] for way in ways] for case in few]
    for i, way in enumerate(ways):
        found = [psnr(own[0].pictures[0].pixels, own[i].pictures[0].pixels) for own in drawn]
        yield {
            "timesteps": way.num_timesteps,
            "of": ways[0].num_timesteps,
            "step_cache": way.step_cache,
            "forwards": drawn[0][i].trajectory.usage.forwards,
            "faster": round(statistics.median(own[0].seconds / own[i].seconds for own in drawn), 3),
            "db": round(statistics.median(found), 2),
            "others": sum(db < HARD_TO_SEE_DB for db in found),
        }


def _computed(settings: ImageSampling) -> int:
    return sum(count > 0 for count in branches_per_step(settings, edit=False))


def _asked(runtime: Runtime, case: Case, generate: ImageSampling) -> Trajectory:
    plain = runtime.description.request(case.prompt, seed=case.seed)
    return Trajectory(replace(plain, max_rounds=0, think=False, generate=generate))


def _show(runtime: Runtime, some: Sequence[Case]) -> None:
    """A row of pictures for each prompt, a column for each cache."""
    plain = runtime.description.defaults.generate
    rows = []
    for case in some:
        drawn = [drive(runtime.engine, [_asked(runtime, case, replace(plain, step_cache=k))]).seen[0] for k in CACHES]
        rows.append(np.hstack([seen.pictures[-1].pixels for seen in drawn]))
    whole = PILImage.fromarray(np.vstack(rows))
    whole.resize((whole.width * _SCALE, whole.height * _SCALE), PILImage.Resampling.NEAREST).save(
        PICTURE, optimize=True
    )


def _loops(url: str, way: ImageSampling, chosen: Sequence[Case]) -> Json:
    """Whole loops that draw and edit so. Of these forwards are told and not seconds: the ways come one after another,
    minutes apart.
    """
    stage = {"num_timesteps": way.num_timesteps, "step_cache": way.step_cache}
    own: Json = {"max_rounds": ROUNDS, "generate": stage, "refine": stage}
    answers = ask(url, [{"prompt": case.prompt, "seed": case.seed, **own} for case in chosen])
    loops = loops_of(chosen, answers)
    return {
        "timesteps": way.num_timesteps,
        "step_cache": way.step_cache,
        "right": [asdict(one) for one in accuracy(loops)["all"]],
        "satisfied": [asdict(one) for one in finished(loops)],
        "refinements": round(refinements(loops).value, 3),
        "forwards": round(statistics.mean(answer.job["usage"]["forwards"] for answer in answers), 1),
    }


# --- the page


def with_tables(text: str, record: Json) -> str:
    """The page with the figures in their places. Raises ValueError where it lacks one."""
    for name, inner in written(record).items():
        text = put_between(text, f"\n{inner}\n", BEGIN.format(name=name), END.format(name=name))
    return text


def written(record: Json) -> dict[str, str]:
    """What stands in each place."""
    return {
        "run": _run(record),
        "near": _near_table(record["near"], record["first_pictures"]),
        "bf16": _near_table(record["near_in_bf16"], record["first_pictures"]),
        "loops": _loops_table(record),
    }


def _run(record: Json) -> str:
    model, where = record["checkpoint"], record["machine"]
    return (
        f"Measured on {record['at'][:10]} at `{record['commit']}` with `{model['name']}` (`{model['hash']}`) on "
        f"{where['cores']} cores of an {where['cpu']}: {record['first_pictures']} first pictures a row in the first "
        f"tables, {record['loops'][0]['right'][0]['of']} loops a row in the last; float32 where nothing else is said."
    )


def _near_table(ways: Sequence[Json], pictures: int) -> str:
    head = ["timesteps", "`step_cache`", "forwards", "faster", "median, dB", f"under {HARD_TO_SEE_DB} dB"]
    rows = [head, ["---"] * len(head)]
    for way in ways:
        is_every_step = way["timesteps"] == way["of"] and way["step_cache"] == 1
        near = ["the same", ""] if is_every_step else [f"{way['db']:.1f}", f"{way['others']} of {pictures}"]
        told = _timesteps(way["timesteps"], way["of"])
        rows.append([told, str(way["step_cache"]), str(way["forwards"]), f"{way['faster']:.2f}×", *near])
    return markdown(rows)


def _timesteps(own: int, of: int) -> str:
    return str(own) if own == of else f"{own} instead"


def _loops_table(record: Json) -> str:
    after = [f"right after round {i}" for i in range(ROUNDS + 1)]
    head = ["timesteps", "`step_cache`", *after, "edits a loop", "forwards a loop"]
    rows = [head, ["---"] * len(head)]
    for run in record["loops"]:
        right = [percent(Share(**one)) for one in run["right"]]
        told = _timesteps(run["timesteps"], record["loops"][0]["timesteps"])
        rows.append([told, str(run["step_cache"]), *right, f"{run['refinements']:.2f}", f"{run['forwards']:.1f}"])
    return markdown(rows)


if __name__ == "__main__":
    raise SystemExit(main())
