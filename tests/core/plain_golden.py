"""Records what tests/core/plain_r3.py computes, as a folder in the form of tests/golden, from another checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.core.plain_checkpoint import PROMPTS, Sizes
from tests.core.plain_facts import DRAW, STRINGS, Facts
from tests.core.plain_r3 import Context, PlainR3, Settings, size_of

PLAN_LENGTH, LOOK_LENGTH = 7, 14
ODD = (31, 77)  # height and width of a picture that no grid fits; other sizes are written in latent tokens
EDIT = Settings(5, 4.0, 1.5, (0.4, 1.0), "text_channel", 0.0, 3.0)


@dataclass
class Picture:
    """What comes of drawing: tensors by the last part of their name, and the picture."""

    tensors: dict[str, Tensor]
    branches: list[int]
    pixels: np.ndarray


@dataclass
class Recorder(Facts):
    """One golden set in the making."""

    def record(self) -> dict[str, Any]:
        """All of golden.json. The loops come first, for a seed is chosen by how they go."""
        loops = [self.loop("loop.several", 3, (0, 1, 3)), self.loop("loop.one", 4, (2,))]
        for name, (rows, columns) in {"i0": (3, 4), "i1": (5, 2)}.items():
            size = rows * self.model.stride, columns * self.model.stride, 3
            self.pictures[name] = self.draws.integers(0, 256, size, dtype=np.uint8)
            self.tensors[f"image.{name}_u8"] = torch.from_numpy(self.pictures[name])
        self.tables()
        self.eye()
        self.hand()
        greedy = [self.plan(i, m) for i in range(len(PROMPTS)) for m in (PLAN_LENGTH, 1, 3)]
        recorded = {
            "set": "plain",
            "legend": {"general": "as in the reference's set"},
            "transforms": {name: list(t) for name, t in self.sizes.transforms.items()},
            "prompt_strings": STRINGS,
            "sizes": self.all_sizes(),
            "resize_table": {"note": "plain", "rows": self.resize_rows()},
            "tokenizer": self.tokenizer(),
            "timesteps": [self.schedule(n, s) for n, s in ((2, 1.0), (5, 3.0), (11, 2.5))],
            "sampling": self.sampling(),
            "greedy_think": greedy,
            "cases": {"text.p0": self.context()},
            "reflect": [self.reflect(name, i) for name in self.pictures for i in (0, 3)],
            "t2i": self.drawings(),
            "edit": self.edits(),
            "loop": loops,
            "routing": self.routing(),
        }
        forms = {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in self.tensors.items()}
        return {**recorded, "tensors": forms}

    # --- texts

    def asked(self, prompt: str) -> Context:
        return [self.model.words(STRINGS["GEN_THINK_SYSTEM_PROMPT"]), self.model.words(prompt)]

    def plan(self, i: int, max_length: int) -> dict[str, Any]:
        ids, logits = self.model.write(self.asked(PROMPTS[i]), max_length)
        name = f"text.p{i}.m{max_length}.last_step_logits"
        self.tensors[name] = logits[-1:]
        self.tensors[f"text.p{i}.prefill_last_logits"] = self.model.logits(
            self.model.run(self.asked(PROMPTS[i]))[-1][-1:]
        )
        text = self.model.read(ids)
        return {
            "prompt": PROMPTS[i],
            "max_length": max_length,
            "ids": ids,
            "text": text,
            "format_ok_think": float(_well_formed(text, whole=True)),
            "forced_end": len(logits) == max_length and int(logits[-1].argmax()) != self.model.im_end,
            "min_top2_margin": margin(logits),
            "last_step_logits": name,
        }

    def context(self) -> dict[str, Any]:
        m, asked = self.model, self.asked(PROMPTS[0])
        ids, logits = m.write(asked, PLAN_LENGTH)
        system, prompt = m.run(asked)
        held = m.keys_and_values([*asked, m.text(ids)])
        length = len(system) + len(prompt)
        made = {
            "greedy7_step_logits": logits,
            "prefill_logits_prompt": m.logits(prompt),
            "prefill_logits_system_last": m.logits(system[-1:]),
            "k_layer0": held[0][0][:5],
            "k_lastlayer_tail": held[-1][0][-4:],
            "v_lastlayer_tail": held[-1][1][-4:],
        }
        self.tensors.update({f"text.p0.{what}": tensor for what, tensor in made.items()})
        return {
            "segments": [STRINGS["GEN_THINK_SYSTEM_PROMPT"], PROMPTS[0]],
            "max_length": PLAN_LENGTH,
            "generated_ids": ids,
            "generated_probs": [float(row.softmax(-1)[id_]) for row, id_ in zip(logits, ids[1:], strict=True)],
            "kv_len_after": length + len(ids),
            "context_len": length,
            "first_position": length,
        }

    def looked(self, pixels: np.ndarray, prompt: str) -> Context:
        m = self.model
        question = STRINGS["REFLECTION_TEMPLATE"].replace("{prompt}", prompt)
        return [m.words(STRINGS["VLM_THINK_SYSTEM_PROMPT"]), m.eye(pixels), m.words(question)]

    def reflect(self, image: str, i: int) -> dict[str, Any]:
        m, context = self.model, self.looked(self.pictures[image], PROMPTS[i])
        ids, logits = m.write(context, LOOK_LENGTH)
        name = f"reflect.{image}.p{i}"
        self.tensors[f"{name}.last_prefill_logits"] = m.logits(m.run(context)[-1][-1:])
        self.tensors[f"{name}.step_logits"] = logits[:12]
        text = m.read(ids)
        return {
            "image": image,
            "prompt": PROMPTS[i],
            "ids": ids,
            "text": text,
            "kv_len": sum(len(s.rows) for s in context),
            "rope_next": int(m.layout(context)[0][-1]) + 1,
            "max_length": LOOK_LENGTH,
            "last_prefill_logits": f"{name}.last_prefill_logits",
            "step_logits": f"{name}.step_logits",
            "format_ok_reflect": float(_well_formed(text, whole=False)),
            "edit_operation": operation(text),
        }

    # --- pictures

    def paint(
        self, contexts: tuple[Context, Context, Context | None], noise: Tensor, size: tuple[int, int], how: Settings
    ) -> Picture:
        m = self.model
        grid = size[0] // m.stride, size[1] // m.stride
        steps = list(m.draw(contexts, noise, grid, how))
        xs, velocities, branches = zip(*steps, strict=True)
        tensors = {"latents": torch.stack([noise, *xs]), "velocity": torch.stack(velocities)}
        for name, v in zip(("cond", "text_uncond", "img_uncond"), branches[0], strict=False):
            tensors[f"step0_v_{name}"] = v
        latent = m.unpack(xs[-1], grid)
        output = m.vae_decode(latent)
        tensors |= {"vae_input": latent[None], "vae_output": output[None]}
        return Picture(tensors, [len(b) for b in branches], m.to_uint8(output))

    def keep(self, tag: str, pictures: list[Picture], noise: Tensor) -> list[int]:
        """Record the tensors of a batch: samples side by side on the token axis; every branch count."""
        self.tensors[f"{tag}.initial_noise"] = noise
        for what in pictures[0].tensors:
            dim = 1 if what in ("latents", "velocity") else 0
            self.tensors[f"{tag}.{what}"] = torch.cat([p.tensors[what] for p in pictures], dim=dim)
        self.tensors[f"{tag}.image_u8"] = torch.from_numpy(np.stack([p.pixels for p in pictures]))
        return pictures[0].branches

    def drawn(
        self, prompt: str, noise: Tensor, size: tuple[int, int], how: Settings, *, think: bool
    ) -> tuple[list[int], Picture]:
        m = self.model
        asked = self.asked(prompt) if think else [m.words(prompt)]
        ids = m.write(asked, PLAN_LENGTH)[0] if think else []
        contexts = ([*asked, m.text(ids)] if think else asked, asked[:-1], None)
        return ids, self.paint(contexts, noise, size, how)

    def drawings(self) -> list[dict[str, Any]]:
        cases: list[tuple[str, tuple[int, ...], tuple[int, int], Settings, bool]] = [
            ("t2i.a", (0,), (3, 4), DRAW, True),
            ("t2i.nothink", (1,), (2, 2), replace(DRAW, num_timesteps=5, renorm="channel"), False),
            ("t2i.plain", (2,), (5, 2), replace(DRAW, cfg_text=1.0), True),
            ("t2i.several", (3, 0), (2, 3), replace(DRAW, interval=(0.0, 0.9), renorm_min=0.7, shift=2.0), True),
        ]
        records = []
        for tag, prompts, cells, how, think in cases:
            size = cells[0] * self.model.stride, cells[1] * self.model.stride
            noise = self.noise(*size)
            made = [self.drawn(PROMPTS[i], noise, size, how, think=think) for i in prompts]
            counts = self.keep(tag, [picture for _, picture in made], noise)
            texts = [self.model.read(ids) if think else None for ids, _ in made]
            own = {"prompts": [PROMPTS[i] for i in prompts], "think_texts": texts, "think": think}
            own |= {"max_think_tokens": PLAN_LENGTH, "cfg_img_scale": 1.0}
            settings = {key: value for key, value in self.settings(how).items() if key != "cfg_img_scale"}
            records.append({**own, **self.case(tag, size, how, counts), "settings": settings})
        return records

    def edits(self) -> list[dict[str, Any]]:
        cases: list[tuple[str, list[str], list[tuple[int, int]], Settings]] = [
            ("edit.several", ["make it red", "no cube"], [(3, 4), (3, 4)], EDIT),
            ("edit.empty", [""], [(5, 2)], replace(EDIT, renorm="global")),
            ("edit.channel", ["one more"], [(2, 2)], replace(EDIT, renorm="channel", num_timesteps=3)),
            ("edit.notext", ["one less"], [(2, 3)], replace(EDIT, cfg_text=1.0)),
            ("edit.noimage", ["one less"], [(2, 3)], replace(EDIT, cfg_img=1.0)),
            ("edit.odd", ["darker"], [ODD], EDIT),
        ]
        records = []
        for tag, said, cells, how in cases:
            sizes = [c if c == ODD else (c[0] * self.model.stride, c[1] * self.model.stride) for c in cells]
            noise, made = self.noise(*sizes[0]), []
            for i, (instruction, (height, width)) in enumerate(zip(said, sizes, strict=True)):
                pixels = self.draws.integers(0, 256, (height, width, 3), dtype=np.uint8)
                self.tensors[f"{tag}.input{i}_u8"] = torch.from_numpy(pixels)
                made.append(self.edited(pixels, instruction, noise, how))
            counts = self.keep(tag, made, noise)
            if how.cfg_text <= 1:  # the reference runs the picture's branch here, and ignores it
                every = self.edited(pixels, said[0], noise, replace(how, cfg_text=2.0)).tensors
                self.tensors[f"{tag}.step0_v_img_uncond"] = every["step0_v_img_uncond"]
                counts = [2] * len(counts)
            records.append({"instructions": said, **self.case(tag, sizes[0], how, counts)})
        self.segments("edit.channel", said="one more")
        return records

    def segments(self, tag: str, said: str) -> None:
        pixels = self.tensors[f"{tag}.input0_u8"].numpy()
        rows = self.model.run([self.model.clean(pixels), self.model.eye(pixels), self.model.words(said)])
        for name, out in zip(("vae", "vit", "text"), rows, strict=True):
            self.tensors[f"{tag}.ctx_{name}_hidden"] = out

    def edited(self, pixels: np.ndarray, said: str, noise: Tensor, how: Settings) -> Picture:
        m = self.model
        seen, text = [m.clean(pixels), m.eye(pixels)], m.words(said)
        height, width, _ = pixels.shape
        return self.paint(([*seen, text], seen, [text]), noise, (height, width), how)

    def settings(self, how: Settings) -> dict[str, Any]:
        return {
            "cfg_text_scale": how.cfg_text,
            "cfg_img_scale": how.cfg_img,
            "cfg_interval": list(how.interval),
            "timestep_shift": how.shift,
            "cfg_renorm_min": how.renorm_min,
            "cfg_renorm_type": how.renorm,
        }

    def case(self, tag: str, size: tuple[int, int], how: Settings, counts: list[int]) -> dict[str, Any]:
        t = self.model.times(how)[:-1].tolist()
        active = [how.interval[0] < v <= how.interval[1] for v in t]
        return {
            "tag": tag,
            "size_hw": list(size),
            "num_timesteps": how.num_timesteps,
            "settings": self.settings(how),
            "t": t,
            "branches_per_step": counts,
            "img_scale_seen": [how.cfg_img if on else 1.0 for on in active],
        }

    def loop(self, tag: str, rounds: int, prompts: tuple[int, ...]) -> dict[str, Any]:
        size = 3 * self.model.stride, 4 * self.model.stride
        names = [f"{tag}.noise{r}" for r in range(rounds)]
        self.tensors.update({name: self.noise(*size) for name in names})
        samples = [self.sample(f"{tag}.s{i}", PROMPTS[p], names, size) for i, p in enumerate(prompts)]
        stops = [s["finished_step"] for s in samples if s["finished"]]
        return {
            "tag": tag,
            "static_cache": False,
            "rounds": rounds,
            "size_hw": list(size),
            "noise": [f"{name} (of every sample)" for name in names],
            "max_output_token_n_gen": PLAN_LENGTH,
            "max_output_token_n_edit": LOOK_LENGTH,
            "do_sample": False,
            "settings": {
                **{k: v for k, v in self.settings(EDIT).items() if k != "cfg_renorm_type"},
                "num_timesteps_gen": DRAW.num_timesteps,
                "num_timesteps_edit": EDIT.num_timesteps,
                "cfg_renorm_type_gen": DRAW.renorm,
                "cfg_renorm_type_edit": EDIT.renorm,
            },
            "no_edit_cnt": [stops.count(r) for r in range(rounds)],
            "samples": samples,
        }

    def sample(self, name: str, prompt: str, noise: list[str], size: tuple[int, int]) -> dict[str, Any]:
        m, kept = self.model, self.tensors
        ids, picture = self.drawn(prompt, kept[noise[0]], size, DRAW, think=True)
        kept[f"{name}.r0.image_u8"] = torch.from_numpy(picture.pixels)
        kept[f"{name}.r0.final_latent"] = picture.tensors["latents"][-1]
        text = m.read(ids)
        rounds: list[dict[str, Any]] = [
            {"round": 0, "think_text": text, "think_ids": ids, "image": f"{name}.r0.image_u8"}
        ]
        scores, stop = [float(_well_formed(text, whole=True))], None
        for r in range(1, len(noise)):
            ids, logits = m.write(self.looked(picture.pixels, prompt), LOOK_LENGTH)
            text = m.read(ids)
            said = operation(text)
            stopped = "no further edit" in said.lower()
            stop = r if stopped and stop is None else stop
            made = self.edited(picture.pixels, said, kept[noise[r]], EDIT)
            kept[f"{name}.r{r}.edited_u8"] = torch.from_numpy(made.pixels)
            kept[f"{name}.r{r}.final_latent"] = made.tensors["latents"][-1]
            picture = picture if stopped else made
            scores.append(float(_well_formed(text, whole=False)))
            rounds.append(
                {
                    "round": r,
                    "reflection_text": text,
                    "reflection_ids": ids,
                    "input_image_equals_previous_output": True,
                    "edit_operation": said,
                    "stop": stopped,
                    "edited_image_before_no_edit_rule": f"{name}.r{r}.edited_u8",
                    "min_top2_margin": margin(logits),
                }
            )
        last = f"{name}.r{(stop or len(noise)) - 1}"
        kept[f"{name}.final_u8"] = kept[f"{last}.image_u8" if last.endswith(".r0") else f"{last}.edited_u8"].clone()
        return {
            "prompt": prompt,
            "rounds": rounds,
            "finished": stop is not None,
            "finished_step": stop or len(noise),
            "format_scores": scores,
            "n_per_sample_imgs": len(noise) + 1,
            "final_image": f"{name}.final_u8",
        }

    def routing(self) -> dict[str, Any]:
        width, height, cell = 3 * self.model.stride, 2 * self.model.stride, self.sizes.vit_patch
        seen_as = size_of((width, height), self.sizes.transforms["vit"])
        latents, patches = 3 * 2, (seen_as[0] // cell) * (seen_as[1] // cell)
        text = len(self.model.encode("as it is")) + 2
        passes = []

        def add(rows: int, past: int, first: int, *, drawn: bool, causal: bool = False, stored: bool = True) -> None:
            whose = ["und", *["gen" if drawn else "und"] * (rows - 2), "und"]
            positions = [first + j if causal else first for j in range(rows)]
            passes.append(
                {
                    "mode": "gen" if drawn else "und",
                    "n_tokens": rows,
                    "causal": causal,
                    "writes_cache": stored,
                    "past_len": [past],
                    "positions": positions,
                    "expert": whose,
                }
            )

        seen = latents + 2 + patches + 2
        add(latents + 2, 0, 0, drawn=True)
        add(patches + 2, latents + 2, 1, drawn=False)
        add(text, seen, 2, drawn=False, causal=True)
        add(text, 0, 0, drawn=False, causal=True)
        for past, first in ((seen + text, 2 + text), (seen, 2), (text, text)):
            add(latents + 2, past, first, drawn=True, stored=False)
        settings = "num_timesteps=2, cfg_text 3, cfg_img 2, interval (0,1]"
        case = f"one image of {width}x{height} (w x h), instruction 'as it is', {settings}"
        return {"case": case, "passes": passes}


def operation(text: str) -> str:
    return text.rsplit("</think>", maxsplit=1)[-1].strip() if "</think>" in text else "No further edit needed"


def margin(logits: Tensor) -> float:
    best = logits.topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


def _well_formed(text: str, *, whole: bool) -> bool:
    """<think>X</think>, and for a reflection something after it; no other tag."""
    body = text.strip()
    parts = body.split("</think>")
    if not body.startswith("<think>") or len(parts) != 2 or body.count("<think>") != 1:
        return False
    return not parts[1] if whole else bool(parts[1])


def write_golden(checkpoint: Path, folder: Path, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Record a set from a checkpoint folder; what golden.json holds."""
    with torch.inference_mode():
        recorder = Recorder(PlainR3(checkpoint, sizes.transforms), sizes, np.random.Generator(np.random.PCG64(seed)))
        recorded = recorder.record()
    folder.mkdir(parents=True)
    (folder / "golden.json").write_text(json.dumps(recorded), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in recorder.tensors.items()}, folder / "golden.safetensors")
    return recorded
