"""BAGEL-7B-MoT as R3 uses it: one decoder that reads text and pictures and draws latents (r3-model: sections 0 to 6).

embed_*      tokens, patches and latents to rows of the decoder's space
forward      one packed forward of many pieces over the K/V cache
logits       the next token's, from rows of the understanding expert
likelihoods  of given next tokens, from the same rows
velocity     the flow's, from rows of the drawing expert
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from r3core.model.attention import Attention, LayerCache, Packing
from r3core.model.layers import Decoder, DecoderConfig, Expert, Fused, Rope, Rows, fuse, rope_table, run_layer
from r3core.model.product import MOST_BYTES, why_not
from r3core.model.vae import VAE, VAEConfig
from r3core.model.vit import Connector, ViT, ViTConfig, sincos_table

_SINUSOIDS: Final = 256
_LIKELIHOODS_AT_ONCE: Final = 64  # rows of the whole vocabulary, some 0.1 GB, where a forward had its activations


@dataclass(frozen=True)
class ModelConfig:
    """All sizes of a checkpoint."""

    decoder: DecoderConfig
    vit: ViTConfig
    vae: VAEConfig
    latent_patch: int
    latent_side: int
    vit_side: int

    @property
    def token_channels(self) -> int:
        """Numbers in one latent token."""
        return self.latent_patch**2 * self.vae.latent_channels

    @property
    def latent_stride(self) -> int:
        """Pixels on a side of one latent token."""
        return self.latent_patch * self.vae.downsample


class _TimeEmbedder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_SINUSOIDS, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Tensor) -> Tensor:
        """t [B] in [0, 1], not scaled -> [B, H]."""
        weight = self.mlp[0].weight
        assert isinstance(weight, Tensor)
        out: Tensor = self.mlp(sinusoids(t).to(weight.dtype))
        return out


class _LanguageModel(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)


class _Table(nn.Module):
    """A fixed position table: computed, never loaded, in the model's dtype."""

    def __init__(self, side: int, hidden: int) -> None:
        super().__init__()
        self.side, self.hidden = side, hidden
        self.register_buffer("pos_embed", None, persistent=False)

    def compute(self, device: torch.device, dtype: torch.dtype) -> None:
        """Fill the table; float64 arithmetic, then the model's dtype."""
        self.pos_embed = sincos_table(self.side, self.hidden).to(device=device, dtype=dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [n] -> rows [n, H]."""
        assert isinstance(self.pos_embed, Tensor)
        return self.pos_embed[ids]


class Bagel(nn.Module):
    """The whole model but the VAE, whose names on disk are another file's; module names are the names on disk."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.decoder.hidden
        self.language_model = _LanguageModel(config.decoder)
        self.vit_model = ViT(config.vit)
        self.connector = Connector(config.vit.hidden, hidden)
        self.time_embedder = _TimeEmbedder(hidden)
        self.vae2llm = nn.Linear(config.token_channels, hidden)
        self.llm2vae = nn.Linear(hidden, config.token_channels)
        self.latent_pos_embed = _Table(config.latent_side, hidden)
        self.vit_pos_embed = _Table(config.vit_side, hidden)
        self.experts: list[tuple[Expert, Expert]] = []
        self._rope: tuple[Tensor, Tensor] | None = None
        self._served: list[tuple[Fused, Fused]] = []
        self._turns: tuple[Tensor, Tensor] | None = None

    @property
    def rope(self) -> tuple[Tensor, Tensor]:
        """cos and sin [positions, D] in the model's dtype."""
        assert self._rope is not None, "call ready() after loading"
        return self._rope

    @property
    def dtype(self) -> torch.dtype:
        """What the decoder computes in."""
        return self.vae2llm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.vae2llm.weight.device

    def ready(self) -> None:
        """Compute what is not in any file: position tables and rope, in float64 and float32, then the model's dtype."""
        for table in (self.latent_pos_embed, self.vit_pos_embed):
            table.compute(self.device, self.dtype)
        cos, sin = rope_table(self.config.decoder, self.device)
        self._rope = cos.to(self.dtype), sin.to(self.dtype)
        self.experts = self.language_model.model.experts()
        self.eval().requires_grad_(False)

    def fuse(self) -> None:
        """Lay the weights side by side as `forward` reads them, once; for weights that do not move any more."""
        if self._served:
            return
        lay_out = laid_out_bytes(self.config.decoder, self.device, self.dtype) > 0
        self._served = [(fuse(und, lay_out=lay_out), fuse(gen, lay_out=lay_out)) for und, gen in self.experts]
        cos, sin = self.rope
        half = sin.shape[-1] // 2
        self._turns = cos[:, None], torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)[:, None]

    def new_cache(self, rows: int) -> list[LayerCache]:
        """An empty K/V cache of `rows` rows for every layer."""
        decoder = self.config.decoder
        shape = (rows, decoder.kv_heads, decoder.head_dim)
        return [
            LayerCache(
                torch.zeros(shape, dtype=self.dtype, device=self.device),
                torch.zeros(shape, dtype=self.dtype, device=self.device),
            )
            for _ in range(decoder.layers)
        ]

    def embed_text(self, ids: Tensor) -> Tensor:
        """ids [n] -> rows [n, H]."""
        out: Tensor = self.language_model.model.embed_tokens(ids)
        return out

    def embed_vit(self, features: Tensor, ids: Tensor) -> Tensor:
        """ViT features [n, Hv], ids [n] into the decoder-side table -> rows [n, H]."""
        out: Tensor = self.connector(features) + self.vit_pos_embed(ids)
        return out

    def embed_latents(self, tokens: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """Latent tokens [n, d] at times [n] or [1] (0 for a clean picture), ids [n] -> rows [n, H]."""
        return self.latent_rows(tokens, self.time_embedder(times), self.latent_pos_embed(ids))

    def latent_rows(self, tokens: Tensor, time: Tensor, places: Tensor) -> Tensor:
        """The same where the rows of the time [1, H] and of the places [n, H] are known already."""
        out: Tensor = self.vae2llm(tokens.to(self.dtype)) + time + places
        return out

    def forward(
        self,
        hidden: Tensor,
        rows: Rows,
        positions: Tensor,
        cache: list[LayerCache],
        packing: Packing,
        attend: Attention,
    ) -> Tensor:
        """All layers over a packed forward: rows [N, H] at rope positions [N] -> [N, H], before the final norm."""
        assert self._turns is not None, "call fuse() before the first forward"
        rope = Rope.of(rows, self._turns[0][positions], self._turns[1][positions])
        for experts, layer_cache in zip(self._served, cache, strict=True):
            hidden = run_layer(experts, hidden, rows, rope, attend, layer_cache, packing)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Rows of the understanding expert [n, H] -> float32 [n, V]."""
        out: Tensor = self.language_model.lm_head(self.language_model.model.norm(hidden))
        return out.float()

    def likelihoods(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Rows of the understanding expert [n, H], the id after each [n] -> its log-probability [n], float32."""
        found = [
            self.logits(rows).log_softmax(-1).gather(-1, of[:, None])[:, 0]
            for rows, of in zip(*(torch.split(given, _LIKELIHOODS_AT_ONCE) for given in (hidden, ids)), strict=True)
        ]
        return torch.cat(found)

    def velocity(self, hidden: Tensor) -> Tensor:
        """Latent rows [n, H] -> [n, d], float32 (computed in the model's dtype)."""
        out: Tensor = self.llm2vae(self.language_model.model.norm_moe_gen(hidden))
        return out.float()


def laid_out_bytes(config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> int:
    """What the second copy of the decoder's weights takes that a CPU's product reads; 0 where there is none."""
    size = 2 * config.layers * config.layer_weights * torch.finfo(dtype).bits // 8
    return size if size <= MOST_BYTES and why_not(device, dtype) is None else 0


def sinusoids(t: Tensor) -> Tensor:
    """t [B] in [0, 1] -> [B, 256], cosines first, float32."""
    half = _SINUSOIDS // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


@dataclass(frozen=True)
class Model:
    """What a checkpoint loads to: decoder and ViT, and the VAE."""

    bagel: Bagel
    vae: VAE
    config: ModelConfig
