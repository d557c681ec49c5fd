"""Records what needs no whole text and no drawing: sizes, schedules, sampling, tables, and what eye and hand see."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.core.plain_checkpoint import PROMPTS, Sizes
from tests.core.plain_r3 import SCALE, PlainR3, Settings, size_of

STRINGS = {
    "GEN_THINK_SYSTEM_PROMPT": "Plan it, \nthen paint it.",
    "VLM_THINK_SYSTEM_PROMPT": "Look at it",
    "REFLECTION_TEMPLATE": "Wanted: {prompt}\nWhat to mend?",
}
DRAW = Settings(4, 4.0, 1.0, (0.4, 1.0), "global", 0.0, 3.0)


@dataclass
class Facts:
    """What both parts of a set in the making share, and its plain facts."""

    model: PlainR3
    sizes: Sizes
    draws: np.random.Generator
    tensors: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def noise(self, height: int, width: int) -> Tensor:
        tokens = (height // self.model.stride) * (width // self.model.stride)
        values = self.draws.standard_normal((tokens, self.sizes.latent_patch**2 * self.sizes.z))
        return torch.from_numpy(values.astype(np.float32))

    def all_sizes(self) -> dict[str, Any]:
        s = self.sizes
        return {
            "llm": {"hidden_size": s.hidden, "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads},
            "vit": {"num_hidden_layers": s.vit_layers, "patch_size": s.vit_patch},
            "vae_params": {
                "ch": 32,
                "ch_mult": [c // 32 for c in s.channels],
                "z_channels": s.z,
                "scale_factor": SCALE,
            },
            "latent_patch_size": s.latent_patch,
            "max_latent_size": s.latent_side,
            "vit_side": s.vit_side,
        }

    def resize_rows(self) -> list[dict[str, Any]]:
        sizes = [(48, 36), (7, 7), (500, 20), (61, 59), (30, 66)]
        return [
            {"transform": n, "max": t[0], "min": t[1], "stride": t[2], "inp": list(s), "out": list(size_of(s, t))}
            for s in sizes
            for n, t in {**self.sizes.transforms, "wide": (3000, 900, 10)}.items()
        ]

    def tokenizer(self) -> dict[str, Any]:
        m, texts = self.model, [*PROMPTS, "", "e\u0301 <|im_end|> x", "a <tool_call> b", *STRINGS.values()]
        ids = [[m.im_start, 70, 71, m.im_end], [200], [len(m.w["language_model.lm_head.weight"]) - 1, 70]]
        return {
            "special_ids": {"bos_token_id": m.im_start, "eos_token_id": m.im_end, "start_of_image": m.vision_start},
            "n_tokens": m.tokenizer.get_vocab_size(),
            "embedding_rows": len(m.w["language_model.lm_head.weight"]),
            "cases": [{"text": text, "ids": m.encode(text)} for text in texts],
            "decode": [{"ids": i, "text": m.tokenizer.decode(i, skip_special_tokens=False)} for i in ids],
        }

    def schedule(self, count: int, shift: float) -> dict[str, Any]:
        t = self.model.times(replace(DRAW, num_timesteps=count, shift=shift))
        active = [0.4 < float(v) <= 1 for v in t[:-1]]
        steps = (t[:-1] - t[1:]).tolist()
        return {
            "num_timesteps": count,
            "shift": shift,
            "t": t[:-1].tolist(),
            "dt": steps,
            "cfg_active_0p4_1": active,
        }

    def sampling(self) -> list[dict[str, Any]]:
        vocab = len(self.model.w["language_model.lm_head.weight"])
        logits = torch.from_numpy(self.draws.standard_normal((2, vocab)).astype(np.float32) * 3)
        self.tensors["sampling.logits"] = logits
        cases = []
        for i, (temperature, top_k, top_p) in enumerate([(0.7, 5, 0.8), (1.0, 9, 1.0), (0.9, -1, 1.0)]):
            probs = torch.stack([_probabilities(row / temperature, top_k, top_p) for row in logits])
            self.tensors[f"sampling.{i}.probs"] = probs
            settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
            support = [int((row > 0).sum()) for row in probs]
            cases.append({**settings, "probs": f"sampling.{i}.probs", "support": support})
        return cases

    def tables(self) -> None:
        m, t = self.model, self.tensors
        for name, grid, side in (("latent_pos", (4, 3), m.latent_side), ("vit_pos", (2, 5), m.vit_side)):
            ids = m.ids(grid, side)
            t[f"{name}.ids_{grid[0]}x{grid[1]}"] = torch.tensor(ids)
            t[f"{name}.rows_{grid[0]}x{grid[1]}"] = m.table(side)[ids]
        t["rope.pos"] = torch.tensor([0, 1, 5, 77, 1024])
        t["rope.cos"], t["rope.sin"] = m.rope(t["rope.pos"])
        t["time_embedder.t"] = torch.tensor([0.0, 0.3, 1.0])
        t["time_embedder.freq"], t["time_embedder.out"] = (
            m.sinusoids(t["time_embedder.t"]),
            m.time(t["time_embedder.t"]),
        )
        odd = self.draws.integers(0, 256, (31, 77, 3), dtype=np.uint8)
        t["preproc.image_31x77_u8"] = torch.from_numpy(odd)
        t["preproc.own_vae"], t["preproc.own_vit"] = m.preprocess(odd, "vae"), m.preprocess(odd, "vit")

    # --- the eye, the hand, texts

    def eye(self) -> None:
        m = self.model
        for name, pixels in self.pictures.items():
            patches, ids = m.patches(pixels)
            seen = m.run([m.words(STRINGS["VLM_THINK_SYSTEM_PROMPT"]), m.eye(pixels)])[1]
            made = {
                "patches": patches,
                "position_ids": torch.tensor(ids),
                "vision_model_out": m.features(pixels),
                "llm_input": m.vit_rows(pixels),
                "segment_hidden": seen,
            }
            self.tensors.update({f"vit.{name}.{what}": tensor for what, tensor in made.items()})

    def hand(self) -> None:
        m = self.model
        for name, picture in self.pictures.items():
            pixels = m.preprocess(picture, "vae")
            latent = m.vae_encode(pixels)
            made = {
                "pixels": pixels,
                "encoder_out": m.moments(pixels)[None],
                "latent": latent[None],
                "packed_tokens": m.pack(latent),
                "reconstruction": m.vae_decode(latent)[None],
            }
            self.tensors.update({f"vae.{name}.{what}": tensor for what, tensor in made.items()})
        latents = torch.from_numpy(self.draws.standard_normal((2, m.z, 6, 9)).astype(np.float32))
        self.tensors["vae.rand.latent"] = latents
        self.tensors["vae.rand.decoded"] = torch.stack([m.vae_decode(one) for one in latents])


def _probabilities(scaled: Tensor, top_k: int, top_p: float) -> Tensor:
    mass = scaled.softmax(-1)
    best = mass.argsort(descending=True)
    keep = best[:top_k] if top_k > 0 else best
    if top_p < 1:
        chosen, total = [], 0.0
        for id_ in best[:1000].tolist():
            if total > top_p:
                break
            chosen.append(id_)
            total += float(mass[id_])
        keep = torch.tensor(chosen)
    out = torch.zeros_like(mass)
    out[keep] = mass[keep] / mass[keep].sum()
    return out
