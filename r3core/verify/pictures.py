"""What the eye and the hand make of recorded pictures: ViT features, the decoder's rows of them, latents, pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from r3core.model import vae
from r3core.model.image_processing import preprocess
from r3core.verify.judging import Judge, Ways
from r3core.verify.replaying import Replay
from r3core.verify.texts import look_job, picture_of
from r3core.verify.traces import Trace

_GIVEN = ("patches", "position_ids")  # what the ViT is given; no weights are in it


def check_pictures(replay: Replay, judge: Judge) -> None:
    """All rows of this file."""
    _eye(replay, judge)
    for match in replay.golden.names(r"vae\.(\w+)\.latent"):
        with judge.case(f"vae.{match[1]}"):
            _hand(replay, judge, match[1])


def _eye(replay: Replay, judge: Judge) -> None:
    """The ViT as it runs for a reflection on each picture."""
    golden, jobs = replay.golden, []
    names = dict.fromkeys(match[1] for match in golden.names(r"vit\.(\w+)\.\w+"))
    for name in names:
        with judge.case(f"vit.{name}"):
            pixels = golden.tensor(f"image.{name}_u8")
            jobs.append(look_job(name, picture_of(name, pixels), prompt="", max_length=1))
    runs = replay.both_ways(jobs)
    for name in runs["single"]:
        with judge.case(f"vit.{name}"):
            traces = {way: own[name] for way, own in runs.items()}
            for match in golden.names(rf"vit\.{name}\.(\w+)"):
                got = {way: _seen(replay, trace, match[1]) for way, trace in traces.items()}
                compare_all(replay, judge, match[0], got, of_model=match[1] not in _GIVEN)


def compare_all(replay: Replay, judge: Judge, name: str, got: Ways[Tensor | None], *, of_model: bool = True) -> None:
    """Compare a recorded tensor where every way gave it; what nobody knows stays unused, and so fails."""
    values = {way: value for way, value in got.items() if value is not None}
    if len(values) == len(got):
        judge.close(name, values, replay.golden.tensor(name), of_model=of_model)


def _seen(replay: Replay, trace: Trace, what: str) -> Tensor | None:
    segment = trace.prefill()[0]
    assert segment.given is not None
    match what:
        case "patches":
            return trace.seen[0].patches
        case "position_ids":
            return trace.seen[0].ids
        case "vision_model_out":
            return trace.seen[0].features
        case "llm_input":
            return segment.given[1:-1].float().cpu()  # between the markers
        case "segment_hidden":
            return replay.normed(segment)
        case _:
            return None


def _hand(replay: Replay, judge: Judge, name: str) -> None:
    """The VAE on one recorded picture, or on recorded latents alone; each of a batch alone, and all together."""
    golden, device = replay.golden, replay.model.bagel.device
    latent = golden.tensor(f"vae.{name}.latent")
    with torch.inference_mode():
        if f"image.{name}_u8" in golden:
            pixels = torch.from_numpy(_pixels(replay, golden.tensor(f"image.{name}_u8")))
            batch = {"single": pixels[None], "batched": pixels.expand(2, *pixels.shape)}
            encoded = {way: replay.model.vae.encode(p.to(device)).cpu()[:1] for way, p in batch.items()}
            moments = {way: replay.model.vae.moments(p.to(device)).cpu()[:1] for way, p in batch.items()}
            tokens = {way: vae.pack(z[0], replay.model.config.latent_patch) for way, z in encoded.items()}
            own = {"pixels": {"single": pixels}, "latent": encoded, "encoder_out": moments, "packed_tokens": tokens}
            for what, got in own.items():
                if f"vae.{name}.{what}" in golden:
                    want = golden.tensor(f"vae.{name}.{what}")
                    judge.close(f"vae.{name}.{what}", got, want, of_model=what != "pixels")
        decoded = {"single": [z[None] for z in latent], "batched": [latent]}
        for what in ("reconstruction", "decoded"):
            if f"vae.{name}.{what}" in golden:
                made = {way: torch.cat([_decode(replay, z) for z in parts]) for way, parts in decoded.items()}
                judge.close(f"vae.{name}.{what}", made, golden.tensor(f"vae.{name}.{what}"))


def _pixels(replay: Replay, picture: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return preprocess(np.ascontiguousarray(picture.numpy()), replay.description.transforms["vae"])


def _decode(replay: Replay, latent: Tensor) -> Tensor:
    return replay.model.vae.decode(latent.to(replay.model.bagel.device)).cpu()
