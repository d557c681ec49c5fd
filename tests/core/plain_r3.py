"""R3 once more, as plainly as it can be written: one sequence at a time, everything computed anew, no cache, no batch.

An oracle for the engine, which shares no code with r3core: a context is a list of segments, and one forward runs over
all of its rows with one mask. Tensors are float32 on the CPU.
Letters: N rows of a context, H hidden, D head size, z latent channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as fn

Transform = tuple[int, int, int]
SCALE, SHIFT = 0.3611, 0.1159


@dataclass
class Segment:
    """Rows [n, H] as they enter the first layer. A text is causal; a picture is seen whole and takes one position."""

    rows: Tensor
    drawn: Tensor  # [n] bool: which rows are the drawing expert's
    causal: bool


Context = list[Segment]


@dataclass
class Settings:
    """How a picture is drawn."""

    num_timesteps: int
    cfg_text: float
    cfg_img: float
    interval: tuple[float, float]
    renorm: str
    renorm_min: float
    shift: float


class PlainR3:
    """The model of a checkpoint folder in BAGEL's layout."""

    def __init__(self, folder: Path, transforms: dict[str, Transform]) -> None:
        self.w = {name: t.float() for name, t in load_file(folder / "ema.safetensors").items()}
        self.v = load_file(folder / "ae.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.transforms = transforms
        llm: dict[str, Any] = json.loads((folder / "llm_config.json").read_text())
        self.vit: dict[str, Any] = json.loads((folder / "vit_config.json").read_text())
        self.heads, self.layers = llm["num_attention_heads"], llm["num_hidden_layers"]
        self.eps, self.theta = llm["rms_norm_eps"], llm["rope_theta"]
        self.hidden = self.w["vae2llm.bias"].shape[0]
        self.head_dim = self.hidden // self.heads
        self.levels = 1 + max(int(n.split(".")[2]) for n in self.v if n.startswith("encoder.down."))
        self.z = self.v["decoder.conv_in.weight"].shape[1]
        self.patch = math.isqrt(self.w["vae2llm.weight"].shape[1] // self.z)
        self.latent_side = math.isqrt(self.w["latent_pos_embed.pos_embed"].shape[0])
        self.vit_side = math.isqrt(self.w["vit_pos_embed.pos_embed"].shape[0])
        marks = [f"<|{mark}|>" for mark in ("im_start", "im_end", "vision_start", "vision_end")]
        ids: list[int] = [self.tokenizer.encode(mark).ids[0] for mark in marks]
        self.im_start, self.im_end, self.vision_start, self.vision_end = ids

    @property
    def stride(self) -> int:
        """Pixels on a side of one latent token."""
        return int(self.patch * 2 ** (self.levels - 1))

    # --- segments

    def text(self, ids: list[int]) -> Segment:
        return Segment(self.w["language_model.model.embed_tokens.weight"][ids], torch.zeros(len(ids)).bool(), True)

    def words(self, text: str) -> Segment:
        return self.text([self.im_start, *self.encode(text), self.im_end])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def eye(self, pixels: np.ndarray) -> Segment:
        return self._marked(self.vit_rows(pixels), drawn=False)

    def clean(self, pixels: np.ndarray) -> Segment:
        latent = self.vae_encode(self.preprocess(pixels, "vae"))
        grid = latent.shape[1] // self.patch, latent.shape[2] // self.patch
        return self._marked(self.latent_rows(self.pack(latent), 0.0, grid), drawn=True)

    def noisy(self, x: Tensor, t: float, grid: tuple[int, int]) -> Segment:
        return self._marked(self.latent_rows(x, t, grid), drawn=True)

    def _marked(self, rows: Tensor, *, drawn: bool) -> Segment:
        marks = self.w["language_model.model.embed_tokens.weight"][[self.vision_start, self.vision_end]]
        whose = torch.full((len(rows) + 2,), drawn)
        whose[0] = whose[-1] = False
        return Segment(torch.cat([marks[:1], rows, marks[1:]]), whose, causal=False)

    def latent_rows(self, x: Tensor, t: float, grid: tuple[int, int]) -> Tensor:
        table = self.table(self.latent_side)[self.ids(grid, self.latent_side)]
        return self._linear("vae2llm", x) + self.time(torch.tensor([t])) + table

    def time(self, t: Tensor) -> Tensor:
        hidden = fn.silu(self._linear("time_embedder.mlp.0", self.sinusoids(t)))
        return self._linear("time_embedder.mlp.2", hidden)

    def sinusoids(self, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.tensor([10000 ** (-k / 128) for k in range(128)])
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def ids(self, grid: tuple[int, int], side: int) -> list[int]:
        return [r * side + c for r in range(grid[0]) for c in range(grid[1])]

    def table(self, side: int) -> Tensor:
        quarter = self.hidden // 4
        rate = np.array([10000 ** (-k / quarter) for k in range(quarter)])
        rows = [
            np.concatenate([np.sin(c * rate), np.cos(c * rate), np.sin(r * rate), np.cos(r * rate)])
            for r in range(side)
            for c in range(side)
        ]
        return torch.tensor(np.array(rows)).float()

    # --- the decoder

    def run(self, context: Context) -> list[Tensor]:
        """All rows of a context after the final norm, by segment."""
        positions, mask = self.layout(context)
        x = torch.cat([s.rows for s in context])
        drawn = torch.cat([s.drawn for s in context])
        for i in range(self.layers):
            x, _, _ = self._layer(i, x, drawn, positions, mask)
        out = self._either("language_model.model.norm", drawn, lambda w: self._rms(x, w))
        return list(torch.split(out, [len(s.rows) for s in context]))

    def keys_and_values(self, context: Context) -> list[tuple[Tensor, Tensor]]:
        """K and V [N, kv heads, D] of every layer, keys after norm and rope."""
        positions, mask = self.layout(context)
        x, drawn = torch.cat([s.rows for s in context]), torch.cat([s.drawn for s in context])
        held = []
        for i in range(self.layers):
            x, k, v = self._layer(i, x, drawn, positions, mask)
            held.append((k, v))
        return held

    def layout(self, context: Context) -> tuple[Tensor, Tensor]:
        """Rope positions [N], and who sees whom [N, N]."""
        total = sum(len(s.rows) for s in context)
        positions, mask, first, at = [], torch.zeros(total, total).bool(), 0, 0
        for segment in context:
            n = len(segment.rows)
            mask[first : first + n, :first] = True
            own = torch.ones(n, n).bool()
            mask[first : first + n, first : first + n] = own.tril() if segment.causal else own
            positions += [at + j if segment.causal else at for j in range(n)]
            first, at = first + n, at + (n if segment.causal else 1)
        return torch.tensor(positions), mask

    def _layer(
        self, i: int, x: Tensor, drawn: Tensor, positions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        name = f"language_model.model.layers.{i}"
        h = self._either(f"{name}.input_layernorm", drawn, lambda w: self._rms(x, w))
        q, k, v = (self._project(f"{name}.self_attn.{p}_proj", drawn, h) for p in "qkv")
        q = self._rope(self._either(f"{name}.self_attn.q_norm", drawn, lambda w: self._rms(q, w)), positions)
        k = self._rope(self._either(f"{name}.self_attn.k_norm", drawn, lambda w: self._rms(k, w)), positions)
        mixed = []
        for head in range(self.heads):
            kv = head // (self.heads // k.shape[1])
            scores = q[:, head] @ k[:, kv].T / math.sqrt(self.head_dim)
            mixed.append(scores.masked_fill(~mask, -math.inf).softmax(-1) @ v[:, kv])
        joined = torch.cat(mixed, dim=-1)
        x = x + self._either(f"{name}.self_attn.o_proj", drawn, lambda w: joined @ w.T)
        h = self._either(f"{name}.post_attention_layernorm", drawn, lambda w: self._rms(x, w))
        both = [self._mlp(f"{name}.mlp{suffix}", h) for suffix in ("", "_moe_gen")]
        return x + torch.where(drawn[:, None], both[1], both[0]), k, v

    def _either(self, name: str, drawn: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """Both experts on all rows, and of each row what its own expert gave."""
        plain, gen = act(self.w[f"{name}.weight"]), act(self.w[f"{name}_moe_gen.weight"])
        return torch.where(drawn.reshape(-1, *[1] * (plain.dim() - 1)), gen, plain)

    def _project(self, name: str, drawn: Tensor, h: Tensor) -> Tensor:
        both = [self._linear(f"{name}{suffix}", h) for suffix in ("", "_moe_gen")]
        return torch.where(drawn[:, None], both[1], both[0]).reshape(len(h), -1, self.head_dim)

    def _mlp(self, name: str, h: Tensor) -> Tensor:
        gate, up, down = (self.w[f"{name}.{p}_proj.weight"] for p in ("gate", "up", "down"))
        return (fn.silu(h @ gate.T) * (h @ up.T)) @ down.T

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * weight

    def _rope(self, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self.rope(positions)
        half = self.head_dim // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        return x * cos[:, None] + turned * sin[:, None]

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [n, D]."""
        rate = torch.tensor([self.theta ** (-2 * i / self.head_dim) for i in range(self.head_dim // 2)])
        angles = positions[:, None] * torch.cat([rate, rate])[None]
        return angles.cos(), angles.sin()

    def logits(self, rows: Tensor) -> Tensor:
        return rows @ self.w["language_model.lm_head.weight"].T

    def velocity(self, context: Context, x: Tensor, t: float, grid: tuple[int, int]) -> Tensor:
        out = self.run([*context, self.noisy(x, t, grid)])[-1]
        return self._linear("llm2vae", out[1:-1])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return fn.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    # --- texts

    def write(self, context: Context, max_length: int) -> tuple[list[int], Tensor]:
        """Greedy: the ids with both markers, and the logits after each id but the last."""
        ids, seen = [self.im_start], []
        while ids[-1] != self.im_end:
            seen.append(self.logits(self.run([*context, self.text(ids)])[-1][-1]))
            ids.append(self.im_end if len(seen) >= max_length else int(seen[-1].argmax()))
        return ids, torch.stack(seen)

    def read(self, ids: list[int]) -> str:
        """What ids say between their markers."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text.split("<|im_end|>", maxsplit=1)[0].split("<|im_start|>")[1]

    # --- pictures

    def draw(
        self, contexts: tuple[Context, Context, Context | None], x: Tensor, grid: tuple[int, int], how: Settings
    ) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Each step's new x, guided velocity and branch velocities. Contexts: all, without text, without picture."""
        times = self.times(how)
        for t, t_next in pairwise(times):
            guided = how.interval[0] < t <= how.interval[1] and how.cfg_text > 1
            branches = [self.velocity(contexts[0], x, float(t), grid)]
            if guided:
                branches.append(self.velocity(contexts[1], x, float(t), grid))
                if contexts[2] is not None and how.cfg_img > 1:
                    branches.append(self.velocity(contexts[2], x, float(t), grid))
            v = self.guide(branches, how)
            x = x - v * (t - t_next)
            yield x, v, branches

    def times(self, how: Settings) -> Tensor:
        t = torch.linspace(1, 0, how.num_timesteps)
        return how.shift * t / (1 + (how.shift - 1) * t)

    def guide(self, branches: list[Tensor], how: Settings) -> Tensor:
        v = branches[0]
        if len(branches) == 1:
            return v
        g = branches[1] + how.cfg_text * (v - branches[1])
        if how.renorm == "text_channel":
            g = g * self._shrink(v, g, how, dim=1)
            return branches[2] + how.cfg_img * (g - branches[2]) if len(branches) > 2 else g
        if len(branches) > 2:
            g = branches[2] + how.cfg_img * (g - branches[2])
        return g * self._shrink(v, g, how, dim=1 if how.renorm == "channel" else None)

    def _shrink(self, v: Tensor, g: Tensor, how: Settings, dim: int | None) -> Tensor:
        if dim is None:
            ratio = torch.linalg.vector_norm(v) / (torch.linalg.vector_norm(g) + 1e-8)
        else:
            lengths = [torch.linalg.vector_norm(u, dim=dim, keepdim=True) for u in (v, g)]
            ratio = lengths[0] / (lengths[1] + 1e-8)
        return torch.clamp(ratio, how.renorm_min, 1.0)

    def pack(self, latent: Tensor) -> Tensor:
        rows, columns, p = latent.shape[1] // self.patch, latent.shape[2] // self.patch, self.patch
        cells = [latent[:, r * p : r * p + p, c * p : c * p + p] for r in range(rows) for c in range(columns)]
        return torch.stack([cell.permute(1, 2, 0).reshape(-1) for cell in cells])

    def unpack(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        p = self.patch
        latent = torch.zeros(self.z, grid[0] * p, grid[1] * p)
        for i, token in enumerate(tokens):
            r, c = divmod(i, grid[1])
            latent[:, r * p : r * p + p, c * p : c * p + p] = token.reshape(p, p, self.z).permute(2, 0, 1)
        return latent

    def to_uint8(self, pixels: Tensor) -> np.ndarray:
        levels = (pixels * 0.5 + 0.5).clamp(0, 1) * 255
        return levels.to(torch.uint8).permute(1, 2, 0).numpy()

    def preprocess(self, pixels: np.ndarray, which: str) -> Tensor:
        image = Image.fromarray(pixels)
        width, height = size_of(image.size, self.transforms[which])
        for size in ((width, image.height), (width, height)):  # as Pillow before 13 does it in one call
            image = image.resize(size, Image.Resampling.BICUBIC)
        return (torch.tensor(np.array(image)).float() / 255 - 0.5).permute(2, 0, 1) / 0.5

    # --- the eye and the hand

    def patches(self, pixels: np.ndarray) -> tuple[Tensor, list[int]]:
        image, p = self.preprocess(pixels, "vit"), self.vit["patch_size"]
        grid = image.shape[1] // p, image.shape[2] // p
        cells = [image[:, r * p : r * p + p, c * p : c * p + p] for r in range(grid[0]) for c in range(grid[1])]
        return torch.stack([c.permute(1, 2, 0).reshape(-1) for c in cells]), self.ids(grid, self.vit_side)

    def features(self, pixels: np.ndarray) -> Tensor:
        """The ViT after its last layer but one and its last norm."""
        name = "vit_model.vision_model"
        patches, ids = self.patches(pixels)
        x = self._linear(f"{name}.embeddings.patch_embedding", patches)
        x = x + self.w[f"{name}.embeddings.position_embedding.weight"][ids]
        for i in range(self.vit["num_hidden_layers"] - 1):
            layer = f"{name}.encoder.layers.{i}"
            h = self._layer_norm(f"{layer}.layer_norm1", x)
            q, k, v = (self._linear(f"{layer}.self_attn.{p}_proj", h) for p in "qkv")
            size = q.shape[1] // self.vit["num_attention_heads"]
            seen = [
                (a @ b.T / math.sqrt(size)).softmax(-1) @ c
                for a, b, c in zip(*(torch.split(u, size, 1) for u in (q, k, v)), strict=True)
            ]
            x = x + self._linear(f"{layer}.self_attn.out_proj", torch.cat(seen, dim=1))
            h = self._linear(f"{layer}.mlp.fc1", self._layer_norm(f"{layer}.layer_norm2", x))
            x = x + self._linear(f"{layer}.mlp.fc2", fn.gelu(h, approximate="tanh"))
        return self._layer_norm(f"{name}.post_layernorm", x)

    def vit_rows(self, pixels: np.ndarray) -> Tensor:
        h = fn.gelu(self._linear("connector.fc1", self.features(pixels)), approximate="tanh")
        return self._linear("connector.fc2", h) + self.table(self.vit_side)[self.patches(pixels)[1]]

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        eps = self.vit.get("layer_norm_eps", 1e-6)
        return fn.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def moments(self, pixels: Tensor) -> Tensor:
        """pixels [3, H, W] -> mean and log variance [2z, h, w]."""
        x = self._conv("encoder.conv_in", pixels[None], 1)
        for level in range(self.levels):
            for b in range(self._blocks(f"encoder.down.{level}.block")):
                x = self._block(f"encoder.down.{level}.block.{b}", x)
            if level < self.levels - 1:
                x = fn.pad(x, (0, 1, 0, 1))
                w, bias = (self.v[f"encoder.down.{level}.downsample.conv.{p}"] for p in ("weight", "bias"))
                x = fn.conv2d(x, w, bias, stride=2)
        return self._conv("encoder.conv_out", self._swish("encoder.norm_out", self._middle("encoder", x)), 1)[0]

    def vae_encode(self, pixels: Tensor) -> Tensor:
        return SCALE * (self.moments(pixels)[: self.z] - SHIFT)

    def vae_decode(self, latent: Tensor) -> Tensor:
        """latent [z, h, w] -> pixels [3, H, W]."""
        x = self._middle("decoder", self._conv("decoder.conv_in", latent[None] / SCALE + SHIFT, 1))
        for level in reversed(range(self.levels)):
            for b in range(self._blocks(f"decoder.up.{level}.block")):
                x = self._block(f"decoder.up.{level}.block.{b}", x)
            if level:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self._conv(f"decoder.up.{level}.upsample.conv", x, 1)
        return self._conv("decoder.conv_out", self._swish("decoder.norm_out", x), 1)[0]

    def _blocks(self, name: str) -> int:
        return len({n[len(name) + 1 :].split(".")[0] for n in self.v if n.startswith(name + ".")})

    def _block(self, name: str, x: Tensor) -> Tensor:
        h = self._conv(f"{name}.conv1", self._swish(f"{name}.norm1", x), 1)
        h = self._conv(f"{name}.conv2", self._swish(f"{name}.norm2", h), 1)
        return h + (self._conv(f"{name}.nin_shortcut", x, 0) if f"{name}.nin_shortcut.weight" in self.v else x)

    def _middle(self, name: str, x: Tensor) -> Tensor:
        x = self._block(f"{name}.mid.block_1", x)
        h = self._norm(f"{name}.mid.attn_1.norm", x)
        q, k, v = (self._conv(f"{name}.mid.attn_1.{p}", h, 0)[0].flatten(1) for p in "qkv")
        seen = v @ (q.T @ k / math.sqrt(len(q))).softmax(-1).T
        x = x + self._conv(f"{name}.mid.attn_1.proj_out", seen.reshape(x.shape), 0)
        return self._block(f"{name}.mid.block_2", x)

    def _conv(self, name: str, x: Tensor, padding: int) -> Tensor:
        return fn.conv2d(x, self.v[f"{name}.weight"], self.v[f"{name}.bias"], padding=padding)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return fn.group_norm(x, 32, self.v[f"{name}.weight"], self.v[f"{name}.bias"], 1e-6)

    def _swish(self, name: str, x: Tensor) -> Tensor:
        h = self._norm(name, x)
        return h * torch.sigmoid(h)


def size_of(size: tuple[int, int], transform: Transform) -> tuple[int, int]:
    """(width, height) through the size rule."""
    longest, shortest, stride = transform

    def apply(w: int, h: int, s: float) -> tuple[int, int]:
        w, h = round(w * s), round(h * s)
        return max(stride, round(w / stride) * stride), max(stride, round(h / stride) * stride)

    s = max(min(longest / max(size), 1.0), shortest / min(size))
    w, h = apply(*size, s)
    if w * h > 14 * 14 * 9 * 1024:
        w, h = apply(w, h, 14 * 14 * 9 * 1024 / (w * h))
    return apply(w, h, longest / max(w, h)) if max(w, h) > longest else (w, h)
