"""Pictures drawn and edited: latents of every step, branch velocities, pixels, branch counts, and who sees what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from r3core.events import Reasoned
from r3core.model import vae
from r3core.schedule import branches_per_step, is_guided, timesteps
from r3core.types import ImageSampling, Request, Trajectory
from r3core.verify.golden import Missing, Record
from r3core.verify.judging import Judge, Ways
from r3core.verify.pictures import compare_all
from r3core.verify.replaying import Replay
from r3core.verify.texts import NEAR_TIE, picture_of
from r3core.verify.traces import Job, Pass, Trace, greedy

_BRANCHES: Final = {"cond": 0, "text_uncond": 1, "img_uncond": 2}
_SEGMENTS: Final = {"vae": 0, "vit": 1, "text": 2}
_ALL_BRANCHES: Final = ImageSampling(num_timesteps=2, cfg_text_scale=2.0, cfg_img_scale=2.0, cfg_interval=(0.0, 1.0))


@dataclass(frozen=True)
class Case:
    """A recorded batch of pictures that were drawn, or of edits."""

    record: Record
    settings: ImageSampling
    jobs: tuple[Job, ...]
    edit: bool

    @property
    def tag(self) -> str:
        """The case's name, which begins the names of its tensors."""
        return self.record.name

    @property
    def round(self) -> int:
        """The round that its pictures are made in."""
        return 1 if self.edit else 0


def image_settings(settings: Record, num_timesteps: int, **own: Any) -> ImageSampling:
    """Recorded settings as the engine takes them; `own` are those that are recorded elsewhere or under other names."""
    low, high = settings["cfg_interval"]
    given = {
        "num_timesteps": num_timesteps,
        "cfg_text_scale": settings["cfg_text_scale"],
        "cfg_interval": (low, high),
        "cfg_renorm_min": settings["cfg_renorm_min"],
        "timestep_shift": settings["timestep_shift"],
    }
    return ImageSampling(**{**given, **own})


def check_drawings(replay: Replay, judge: Judge) -> None:
    """All rows of this file."""
    cases = []
    for kind, read in (("t2i", _drawing_case), ("edit", _edit_case)):
        with judge.case(kind):
            for record in replay.golden.cases(kind):
                with judge.case(record.name):
                    cases.append(read(replay, record))
    runs = replay.both_ways(job for case in cases for job in (*case.jobs, *_branch_jobs(replay, case)))
    for case in cases:
        with judge.case(case.tag):
            _check_case(replay, judge, case, runs)
    _routing(replay, judge)


def _drawing_case(replay: Replay, record: Record) -> Case:
    # cfg_img_scale is for edits: a first picture has no branch without its picture.
    _, own = record["cfg_img_scale"], record["settings"]
    settings = image_settings(own, record["num_timesteps"], cfg_renorm_type=own["cfg_renorm_type"])
    height, width = record["size_hw"]
    noise = {0: replay.golden.tensor(f"{record.name}.initial_noise")}
    jobs = []
    for i, prompt in enumerate(record["prompts"]):
        request = Request(
            prompt,
            width,
            height,
            seed=0,
            max_rounds=0,
            think=record["think"],
            reason=greedy(record["max_think_tokens"]),
            reflect=greedy(1),
            generate=settings,
        )
        jobs.append(Job(f"{record.name}/{i}", Trajectory(request), noise=noise))
    return Case(record, settings, tuple(jobs), edit=False)


def _edit_case(replay: Replay, record: Record) -> Case:
    own = record["settings"]
    settings = image_settings(
        own,
        record["num_timesteps"],
        cfg_renorm_type=own["cfg_renorm_type"],
        cfg_img_scale=own["cfg_img_scale"],
    )
    noise = {1: replay.golden.tensor(f"{record.name}.initial_noise")}
    wants_context = bool(replay.golden.names(rf"{re.escape(record.name)}\.ctx_.*"))
    jobs = []
    for i, instruction in enumerate(record["instructions"]):
        picture = picture_of(f"{record.name}/{i}", replay.golden.tensor(f"{record.name}.input{i}_u8"))
        jobs.append(_edit_job(f"{record.name}/{i}", picture.pixels.shape[:2], instruction, settings))
        jobs[-1] = replace(jobs[-1], picture=picture, noise=noise, keep=wants_context)
    return Case(record, settings, tuple(jobs), edit=True)


def _edit_job(key: str, size_hw: tuple[int, ...], instruction: str, settings: ImageSampling) -> Job:
    height, width = size_hw
    request = Request(
        "",
        width,
        height,
        seed=0,
        max_rounds=1,
        given_image=True,
        instruction=instruction,
        reason=greedy(1),
        reflect=greedy(1),
        refine=settings,
    )
    return Job(key, Trajectory(request))


def _branch_jobs(replay: Replay, case: Case) -> Iterator[Job]:
    """The same pictures with every branch run at their first step: the reference ran one that counts for nothing."""
    recorded = [b for name, b in _BRANCHES.items() if f"{case.tag}.step0_v_{name}" in replay.golden]
    if max(recorded, default=0) < branches_per_step(case.settings, edit=case.edit)[0]:
        return
    for job in case.jobs:
        request = job.trajectory.request
        asked = replace(request, refine=_ALL_BRANCHES) if case.edit else replace(request, generate=_ALL_BRANCHES)
        yield replace(job, key=f"{job.key}/branches", trajectory=Trajectory(asked))


def _check_case(replay: Replay, judge: Judge, case: Case, runs: Ways[dict[str, Trace]]) -> None:
    traces = {way: [own[job.key] for job in case.jobs] for way, own in runs.items()}
    agreed = case.edit or _check_plans(judge, case, traces)
    _check_schedule(judge, case, traces)
    if case.edit:
        seen = case.jobs[0].trajectory.request
        judge.same(f"{case.tag} size_hw", {"picture": [seen.height, seen.width]}, case.record["size_hw"])
    golden = replay.golden
    for match in golden.names(rf"{re.escape(case.tag)}\.(\w+)"):
        if match[1] == "image_u8":
            made = {way: torch.stack([t.pixels(case.round) for t in own]) for way, own in traces.items()}
            judge.pixels(match[0], made, golden.tensor(match[0]), judged=agreed)
        elif branch := re.fullmatch(r"step0_v_(cond|text_uncond|img_uncond)", match[1]):
            _check_branch(replay, judge, case, branch[1], runs)
        elif match[1] != "initial_noise":  # that is row 0 of the latents
            compare_all(
                replay, judge, match[0], {w: _numbers(replay, case, own, match[1]) for w, own in traces.items()}
            )
    final = f"{case.tag}.final_latent"
    if judge.expects(final):
        last = {way: torch.cat([t.picture(case.round).x[-1] for t in own]) for way, own in traces.items()}
        judge.close(final, last, golden.tensor(f"{case.tag}.latents")[-1], judged=agreed)


def _check_plans(judge: Judge, case: Case, traces: Ways[list[Trace]]) -> bool:
    """The plans that were written first; where one honestly parted in bf16, its picture is another one."""
    agreed = True
    for i, text in enumerate(case.record["think_texts"]):
        name = f"{case.tag} think_texts[{i}]"
        if text is None:
            silent = {way: [e for e in own[i].events if isinstance(e, Reasoned)] for way, own in traces.items()}
            judge.same(name, silent, [])
            continue
        said = {way: own[i].event(Reasoned).text for way, own in traces.items()}
        sure = judge.exact or all(own[i].text("reason").margin > NEAR_TIE for own in traces.values())
        judge.same(name, said, text, judged=sure)
        agreed = agreed and (sure or all(one == text for one in said.values()))
    return agreed


def _check_schedule(judge: Judge, case: Case, traces: Ways[list[Trace]]) -> None:
    record, tag, settings = case.record, case.tag, case.settings
    times = timesteps(settings.num_timesteps, settings.timestep_shift)[:-1]
    judge.close(f"{tag} t", {"schedule": torch.tensor(times)}, torch.tensor(record["t"]), of_model=False)
    counts = {
        f"{way} {t.job.key}": [len(b) for b in t.picture(case.round).branches]
        for way, own in traces.items()
        for t in own
    }
    want = record["branches_per_step"]
    # Without text guidance the reference runs the picture's branch, and ignores it.
    judge.same(f"{tag} branches_per_step", counts, want, judged=settings.cfg_text_scale > 1 or not case.edit)
    scales = [settings.cfg_img_scale if is_guided(t, settings) else 1.0 for t in times]
    judge.same(f"{tag} img_scale_seen", {"schedule": scales}, record["img_scale_seen"])


def _check_branch(replay: Replay, judge: Judge, case: Case, branch: str, runs: Ways[dict[str, Trace]]) -> None:
    index, name = _BRANCHES[branch], f"{case.tag}.step0_v_{branch}"
    run = index < branches_per_step(case.settings, edit=case.edit)[0]
    if not run and index > (2 if case.edit else 1):
        return
    keys = [job.key if run else f"{job.key}/branches" for job in case.jobs]
    got = {way: torch.cat([own[k].picture(case.round).branches[0][index] for k in keys]) for way, own in runs.items()}
    judge.close(name, got, replay.golden.tensor(name))


def _numbers(replay: Replay, case: Case, traces: list[Trace], what: str) -> Tensor | None:
    """A recorded tensor of a case by the last part of its name; None for one that the replay does not know."""
    drawn = [trace.picture(case.round) for trace in traces]
    match what:
        case "latents":
            return torch.cat([torch.stack(d.x) for d in drawn], dim=1)
        case "velocity":
            return torch.cat([torch.stack(d.velocities) for d in drawn], dim=1)
        case "vae_input":
            return torch.stack([vae.unpack(d.x[-1], d.grid, replay.model.config.latent_patch) for d in drawn])
        case "vae_output":
            latents = _numbers(replay, case, traces, "vae_input")
            assert latents is not None
            with torch.inference_mode():
                return replay.model.vae.decode(latents.to(replay.model.bagel.device)).cpu()
        case _ if match := re.fullmatch(r"ctx_(vae|vit|text)_hidden", what):
            return replay.normed(traces[0].prefill()[_SEGMENTS[match[1]]])
        case _:
            return None


# --- routing


def _routing(replay: Replay, judge: Judge) -> None:
    """The kinds of passes of one edit: experts, positions and past. The reference makes some of them twice."""
    if "routing" not in replay.golden.root:
        return
    with judge.case("routing"):
        recorded = replay.golden.root["routing"]
        job = _routed_job(recorded["case"])
        want = {_kind(p) for p in (record.plain() for record in recorded["passes"])}
        runs = replay.both_ways([job])
        got = {way: {_kind(_as_recorded(p)) for p in traces[job.key].passes} for way, traces in runs.items()}
        for kind in sorted(want | set().union(*got.values())):
            missing = [way for way, kinds in got.items() if kind not in kinds]
            name = f"routing {_named(kind)}"
            judge.same(name, {way: way not in missing for way in got}, kind in want)


def _routed_job(said: str) -> Job:
    """The edit that a sentence describes."""
    patterns = {
        "size": r"(\d+)x(\d+) \(w x h\)",
        "instruction": r"instruction '(.*?)', num_timesteps",
        "num_timesteps": r"num_timesteps=(\d+)",
        "cfg_text": r"cfg_text ([\d.]+)",
        "cfg_img": r"cfg_img ([\d.]+)",
        "interval": r"interval \(([\d.]+),\s*([\d.]+)\]",
    }
    found = {name: re.search(pattern, said) for name, pattern in patterns.items()}
    read = {name: match.groups() for name, match in found.items() if match is not None}
    if missing := sorted(set(patterns) - set(read)):
        raise Missing(f"routing.case does not say {', '.join(missing)} in words that the replay knows")
    width, height = (int(v) for v in read["size"])
    settings = ImageSampling(
        num_timesteps=int(read["num_timesteps"][0]),
        cfg_text_scale=float(read["cfg_text"][0]),
        cfg_img_scale=float(read["cfg_img"][0]),
        cfg_interval=(float(read["interval"][0]), float(read["interval"][1])),
    )
    picture = picture_of("routing", torch.zeros(height, width, 3, dtype=torch.uint8))
    return replace(_edit_job("routing", (height, width), read["instruction"][0], settings), picture=picture)


def _as_recorded(seen: Pass) -> dict[str, Any]:
    return {
        "mode": "gen" if any(seen.drawn) else "und",
        "n_tokens": len(seen.positions),
        "causal": seen.causal,
        "writes_cache": seen.stored,
        "past_len": [seen.past],
        "positions": seen.positions,
        "expert": ["gen" if drawn else "und" for drawn in seen.drawn],
    }


_Kind = tuple[tuple[str, str], ...]


def _kind(recorded: dict[str, Any]) -> _Kind:
    return tuple((key, str(recorded[key])) for key in sorted(recorded))


def _named(kind: _Kind) -> str:
    said = dict(kind)
    return f"{said['mode']} {said['n_tokens']} rows, past {said['past_len']}, from {said['positions'].split(',')[0]}]"
