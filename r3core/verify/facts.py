"""What needs no forward: files and sizes, the tokenizer, schedules and the size rule, sampling, the fixed tables."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from r3core.checkpoint import Transform
from r3core.model.bagel import Bagel, ModelConfig, sinusoids
from r3core.model.image_processing import preprocess, resize_to
from r3core.model.layers import rope_table
from r3core.model.sampling import candidates
from r3core.model.tokenizer import Tokenizer
from r3core.model.vae import SCALE, SHIFT
from r3core.model.vit import grid_ids
from r3core.schedule import is_guided, timesteps
from r3core.types import ImageSampling, TextSampling
from r3core.verify.golden import GoldenSet, Missing, Record, is_informational
from r3core.verify.judging import Judge
from r3core.verify.replaying import Replay

ONE_WAY: Final = "computed"


def check_facts(replay: Replay, judge: Judge) -> None:
    """All rows of this file."""
    golden = replay.golden
    with judge.case("files"):
        _files(golden, judge, replay)
    with judge.case("tensors"):
        _forms(golden, judge)
    with judge.case("sizes"):
        _sizes(golden, judge, replay.model.config)
    with judge.case("tokenizer"):
        _tokenizer(golden, judge, replay)
    _schedules(golden, judge)
    _size_rule(golden, judge)
    _sampling(golden, judge)
    _pictures(golden, judge)
    _tables(golden, judge, replay.model.bagel)


def _files(golden: GoldenSet, judge: Judge, replay: Replay) -> None:
    """The recorded files, where the checkpoint has them; another layout of the same weights may not."""
    if "files" not in golden.root:
        return
    files = replay.loaded.files
    used = (*files.weights, files.vae, files.llm_config, files.tokenizer)
    folders = dict.fromkeys(path.parent for path in used)
    for name, (size, digest) in golden.root["files"].items():
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            judge.inform(f"files.{name}", "the checkpoint has no file of this name")
        else:
            judge.same(f"files.{name}", {path.name: [path.stat().st_size, _sha256(path)]}, [size, digest])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _forms(golden: GoldenSet, judge: Judge) -> None:
    """Every tensor that golden.json lists is there in its dtype and shape; only those that are not make rows."""
    if "tensors" not in golden.root:
        return
    listed = golden.root["tensors"].plain()
    for name, form in listed.items():
        held = golden.form(name)
        if is_informational(name):
            continue
        if held is None:
            judge.fail(name, "listed in golden.json, and not in golden.safetensors")
        elif list(held) != form:
            judge.fail(name, f"is {held[0]} {held[1]} and listed as {form[0]} {form[1]}")
    judge.inform("tensors", f"{len(listed)} listed")


def _sizes(golden: GoldenSet, judge: Judge, config: ModelConfig) -> None:
    """What the checkpoint's sizes were taken for, against what they were."""
    own = _own_sizes(config)
    if "sizes" in golden.root:
        recorded = golden.root["sizes"]
        for group in recorded:
            _compare_sizes(f"sizes.{group}", recorded[group], own.get(group), judge)
    if "vae" in golden.root:
        if "noise" in golden.root["vae"]:
            judge.inform("vae.noise", golden.root["vae"]["noise"])
        _compare_sizes("vae.params", golden.root["vae"]["params"], own["vae_params"], judge)


def _own_sizes(config: ModelConfig) -> dict[str, Any]:
    decoder, vit, vae = config.decoder, config.vit, config.vae
    return {
        "llm": {
            "hidden_size": decoder.hidden,
            "intermediate_size": decoder.intermediate,
            "num_hidden_layers": decoder.layers,
            "num_attention_heads": decoder.heads,
            "num_key_value_heads": decoder.kv_heads,
            "rope_theta": decoder.rope_theta,
            "rms_norm_eps": decoder.rms_norm_eps,
        },
        "vit": {
            "hidden_size": vit.hidden,
            "intermediate_size": vit.intermediate,
            "num_hidden_layers": vit.layers + 1,  # the last one is counted and never run
            "num_attention_heads": vit.heads,
            "patch_size": vit.patch,
            "image_size": vit.patch * vit.side,
        },
        "vae_params": {
            "resolution": None,  # of the VAE's training; nothing depends on it
            "in_channels": 3,
            "out_ch": 3,
            "downsample": vae.downsample,
            "ch": vae.channels,
            "ch_mult": vae.channels,
            "num_res_blocks": vae.blocks,
            "z_channels": vae.latent_channels,
            "scale_factor": SCALE,
            "shift_factor": SHIFT,
        },
        "latent_patch_size": config.latent_patch,
        "max_latent_size": config.latent_side,
        "vit_side": config.vit_side,
        "vocab_rows": decoder.vocab,
    }


def _compare_sizes(case: str, recorded: Any, own: Any, judge: Judge) -> None:
    if not isinstance(recorded, Record):
        judge.same(case, {"checkpoint": own}, recorded)
        return
    want: dict[str, Any] = dict(recorded.plain())
    unknown = sorted(set(want) - set(own or {}))
    if unknown:
        raise Missing(f"{case}.{unknown[0]} is a size that the replay does not know")
    want.pop("resolution", None)
    if "ch_mult" in want:  # base width times factor, as one tuple of widths
        want["ch_mult"] = tuple(want["ch"] * factor for factor in want["ch_mult"])
        want["ch"] = want["ch_mult"]
    judge.same(case, {"checkpoint": {key: own[key] for key in want}}, want)


def _tokenizer(golden: GoldenSet, judge: Judge, replay: Replay) -> None:
    if "tokenizer" not in golden.root:
        return
    recorded, tokenizer = golden.root["tokenizer"], replay.tokenizer
    vocab = replay.model.config.decoder.vocab
    marks = recorded["special_ids"].plain()
    own = {
        "bos_token_id": tokenizer.im_start,
        "eos_token_id": tokenizer.im_end,
        "start_of_image": tokenizer.vision_start,
        "end_of_image": tokenizer.vision_end,
    }
    judge.same("tokenizer.special_ids", {"checkpoint": {k: own.get(k) for k in marks}}, marks)
    known = sum(bool(tokenizer.bytes_of(i)) for i in range(vocab))
    judge.same("tokenizer.n_tokens", {"checkpoint": known}, recorded["n_tokens"])
    judge.same("tokenizer.embedding_rows", {"checkpoint": vocab}, recorded["embedding_rows"])
    for i, case in enumerate(recorded["cases"]):
        text, ids = case["text"], case["ids"]
        judge.same(f"tokenizer.cases[{i}]", {"parsing": tokenizer.encode_parsing_specials(text)}, ids)
        judge.same(
            f"tokenizer.cases[{i}] as user text",
            {"serving": _as_user_text(tokenizer, text)},
            _plain_ids(ids, tokenizer),
        )
    for i, case in enumerate(recorded["decode"]):
        judge.same(f"tokenizer.decode[{i}]", {ONE_WAY: tokenizer.decode(case["ids"])}, case["text"])


def _special(id_: int, tokenizer: Tokenizer) -> bool:
    """Whether an id is one that user text must never become."""
    text = tokenizer.decode([id_])
    return tokenizer.encode_parsing_specials(text) == [id_] != tokenizer.encode(text)


def _as_user_text(tokenizer: Tokenizer, text: str) -> list[int] | str:
    """The ids that are served; where text holds special strings, what they say, if none of them is special."""
    ids = tokenizer.encode(text)
    if ids == tokenizer.encode_parsing_specials(text) or any(_special(i, tokenizer) for i in ids):
        return ids
    return tokenizer.decode(ids)


def _plain_ids(ids: list[int], tokenizer: Tokenizer) -> list[int] | str:
    return tokenizer.decode(ids) if any(_special(i, tokenizer) for i in ids) else ids


def _schedules(golden: GoldenSet, judge: Judge) -> None:
    for record in golden.cases("timesteps"):
        with judge.case(record.name):
            times = torch.tensor(timesteps(record["num_timesteps"], record["shift"]))
            judge.close(f"{record.name}.t", {ONE_WAY: times[:-1]}, torch.tensor(record["t"]), of_model=False)
            judge.close(
                f"{record.name}.dt", {ONE_WAY: times[:-1] - times[1:]}, torch.tensor(record["dt"]), of_model=False
            )
            for key in record:
                if bounds := re.fullmatch(r"cfg_active_(\d+(?:p\d+)?)_(\d+(?:p\d+)?)", key):
                    low, high = (float(bound.replace("p", ".")) for bound in bounds.groups())
                    settings = ImageSampling(cfg_interval=(low, high))
                    active = [is_guided(t, settings) for t in times[:-1].tolist()]
                    judge.same(f"{record.name}.{key}", {ONE_WAY: active}, record[key])


def _size_rule(golden: GoldenSet, judge: Judge) -> None:
    if "resize_table" not in golden.root:
        return
    with judge.case("resize_table"):
        for name, rows in _by_transform(golden).items():
            got = [list(resize_to((row["inp"][0], row["inp"][1]), transform)) for row, transform in rows]
            judge.same(f"resize_table.{name}", {ONE_WAY: got}, [row["out"] for row, _ in rows])


def _by_transform(golden: GoldenSet) -> dict[str, list[tuple[Record, Transform]]]:
    table: dict[str, list[tuple[Record, Transform]]] = {}
    for row in golden.root["resize_table"]["rows"]:
        table.setdefault(row["transform"], []).append((row, (row["max"], row["min"], row["stride"])))
    return table


def _sampling(golden: GoldenSet, judge: Judge) -> None:
    for record in golden.cases("sampling"):
        with judge.case(record.name):
            sampling = TextSampling(
                max_tokens=1, temperature=record["temperature"], top_p=record["top_p"], top_k=record["top_k"]
            )
            logits = golden.tensor("sampling.logits")
            spread = torch.zeros(logits.shape, dtype=torch.float64)
            ids, mass = candidates(logits, [sampling] * len(logits))
            spread.scatter_(-1, ids, mass)
            support = (mass > 0).sum(-1).tolist()
            judge.close(record["probs"], {ONE_WAY: spread}, golden.tensor(record["probs"]), of_model=False)
            judge.same(f"{record.name}.support", {ONE_WAY: support}, record["support"])


def _pictures(golden: GoldenSet, judge: Judge) -> None:
    """A picture through a transform, named by its size rule in the table or by what it is for."""
    sources = [golden.tensor(m[0]) for m in golden.names(r"preproc\.image_.*_u8")]
    for match in golden.names(r"preproc\.((?:\w+_)?(vae|vit))"):
        with judge.case(match[0]):
            if len(sources) != 1:
                raise Missing(f"{len(sources)} tensors are called preproc.image_*_u8, and one is wanted")
            transform = golden.transforms()[match[2]]
            if "resize_table" in golden.root and match[1] in (named := _by_transform(golden)):
                transform = named[match[1]][0][1]
            got = torch.from_numpy(preprocess(np.ascontiguousarray(sources[0].numpy()), transform))
            judge.close(match[0], {ONE_WAY: got}, golden.tensor(match[0]), of_model=False)


def _tables(golden: GoldenSet, judge: Judge, bagel: Bagel) -> None:
    tables = {
        "latent_pos": (bagel.latent_pos_embed, bagel.config.latent_side),
        "vit_pos": (bagel.vit_pos_embed, bagel.config.vit_side),
    }
    for match in golden.names(r"(latent_pos|vit_pos)\.ids_((\d+)x(\d+))"):
        table, side = tables[match[1]]
        with judge.case(match[0]):
            ids = grid_ids(int(match[3]), int(match[4]), side)
            judge.close(match[0], {ONE_WAY: ids}, golden.tensor(match[0]), of_model=False)
            rows = f"{match[1]}.rows_{match[2]}"
            judge.close(rows, {ONE_WAY: table(ids.to(bagel.device)).float().cpu()}, golden.tensor(rows))
    _rope(golden, judge, bagel)
    _time(golden, judge, bagel)


def _rope(golden: GoldenSet, judge: Judge, bagel: Bagel) -> None:
    with judge.case("rope"):
        for name, table in zip(
            ("rope.cos", "rope.sin"), rope_table(bagel.config.decoder, torch.device("cpu")), strict=True
        ):
            if name in golden:
                judge.close(name, {ONE_WAY: table[golden.tensor("rope.pos")]}, golden.tensor(name), of_model=False)


def _time(golden: GoldenSet, judge: Judge, bagel: Bagel) -> None:
    with judge.case("time_embedder"), torch.inference_mode():
        if "time_embedder.freq" in golden:
            got = sinusoids(golden.tensor("time_embedder.t"))
            judge.close("time_embedder.freq", {ONE_WAY: got}, golden.tensor("time_embedder.freq"), of_model=False)
        if "time_embedder.out" in golden:
            out = bagel.time_embedder(golden.tensor("time_embedder.t").to(bagel.device))
            judge.close("time_embedder.out", {ONE_WAY: out.float().cpu()}, golden.tensor("time_embedder.out"))
