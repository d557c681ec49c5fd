"""The mixture-of-transformers decoder: every layer has two full sets of weights, one that understands and one that
draws.

All tokens of a sequence attend over one K/V cache; a token's norms, projections and MLP come from its own expert, by
the token's kind (r3-model: sections 0 and 5; the reference's modeling/bagel/qwen2_navit.py). Letters in shapes:
    N rows of a packed forward, H hidden, Q query heads, K key/value heads, D head size, I intermediate.
Module names are the names on disk, so loading is a match of names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r3core.model.attention import Attention, LayerCache, Packing


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder, from tensors where they show and from llm_config.json where they do not."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int

    @property
    def head_dim(self) -> int:
        """Always hidden / heads; no config has a key for it."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Rows:
    """How the N rows of a packed forward lie: first the text-pass rows, then the markers around latents, then the
    latents.

    Rows before `und` are the understanding expert's, the others the drawing expert's. Rows from `lifted` on belong to a
    drawing pass, whose q and k are lifted to float32 before their norm (r3-model: section 10).
    """

    lifted: int
    und: int
    total: int


class RMSNorm(nn.Module):
    """Root-mean-square norm: float32 inside, cast to the input's dtype, then times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> the same shape and dtype (float32 weight and bf16 x give float32)."""
        lifted = x.float()
        normed = lifted * torch.rsqrt(lifted.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


class MLP(nn.Module):
    """SwiGLU without biases: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, H] -> [N, H]."""
        out: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class SelfAttention(nn.Module):
    """The projections of both experts; the attention itself is the `Attention` interface's."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, kv = config.hidden, config.kv_heads * config.head_dim
        for suffix in ("", "_moe_gen"):
            self.add_module(f"q_proj{suffix}", nn.Linear(hidden, hidden))
            self.add_module(f"k_proj{suffix}", nn.Linear(hidden, kv))
            self.add_module(f"v_proj{suffix}", nn.Linear(hidden, kv))
            self.add_module(f"o_proj{suffix}", nn.Linear(hidden, hidden, bias=False))
            self.add_module(f"q_norm{suffix}", RMSNorm(config.head_dim, config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", RMSNorm(config.head_dim, config.rms_norm_eps))


@dataclass(frozen=True)
class Expert:
    """One expert's weights of one layer."""

    input_norm: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    post_norm: nn.Module
    mlp: nn.Module


class Layer(nn.Module):
    """One decoder layer with both experts."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.self_attn = SelfAttention(config)
        for suffix in ("", "_moe_gen"):
            self.add_module(f"input_layernorm{suffix}", RMSNorm(config.hidden, config.rms_norm_eps))
            self.add_module(f"post_attention_layernorm{suffix}", RMSNorm(config.hidden, config.rms_norm_eps))
            self.add_module(f"mlp{suffix}", MLP(config.hidden, config.intermediate))

    def expert(self, suffix: str) -> Expert:
        """The weights named with `suffix`: "" understands, "_moe_gen" draws."""
        attn = self.self_attn
        return Expert(
            input_norm=self.get_submodule(f"input_layernorm{suffix}"),
            q=attn.get_submodule(f"q_proj{suffix}"),
            k=attn.get_submodule(f"k_proj{suffix}"),
            v=attn.get_submodule(f"v_proj{suffix}"),
            o=attn.get_submodule(f"o_proj{suffix}"),
            q_norm=attn.get_submodule(f"q_norm{suffix}"),
            k_norm=attn.get_submodule(f"k_norm{suffix}"),
            post_norm=self.get_submodule(f"post_attention_layernorm{suffix}"),
            mlp=self.get_submodule(f"mlp{suffix}"),
        )


class Decoder(nn.Module):
    """`language_model.model` of the checkpoint: embeddings, layers, and a final norm for each expert."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden, config.rms_norm_eps)

    def experts(self) -> list[tuple[Expert, Expert]]:
        """(understanding, drawing) of every layer, looked up once after loading."""
        layers = (layer for layer in self.layers if isinstance(layer, Layer))
        return [(layer.expert(""), layer.expert("_moe_gen")) for layer in layers]


def run_layer(
    experts: tuple[Expert, Expert],
    hidden: Tensor,
    rows: Rows,
    rope: tuple[Tensor, Tensor],
    attend: Attention,
    cache: LayerCache,
    packing: Packing,
) -> Tensor:
    """One layer over a packed forward: hidden [N, H] -> [N, H]; K and V of stored pieces go into `cache`."""
    head_dim = cache.keys.shape[-1]
    normed = by_expert(rows, hidden, experts[0].input_norm, experts[1].input_norm)
    shape = (rows.total, -1, head_dim)
    q = by_expert(rows, normed, experts[0].q, experts[1].q).view(shape)
    k = by_expert(rows, normed, experts[0].k, experts[1].k).view(shape)
    v = by_expert(rows, normed, experts[0].v, experts[1].v).view(shape)
    q = _norm_and_rotate(rows, q, experts[0].q_norm, experts[1].q_norm, rope)
    k = _norm_and_rotate(rows, k, experts[0].k_norm, experts[1].k_norm, rope)
    mixed = attend(q, k, v, cache, packing).flatten(-2)
    hidden = hidden + by_expert(rows, mixed, experts[0].o, experts[1].o)
    normed = by_expert(rows, hidden, experts[0].post_norm, experts[1].post_norm)
    return hidden + by_expert(rows, normed, experts[0].mlp, experts[1].mlp)


def by_expert(rows: Rows, x: Tensor, und: nn.Module, gen: nn.Module) -> Tensor:
    """Each row through its own expert's module; two slices, for the rows of an expert lie together."""
    if rows.und == rows.total:
        out: Tensor = und(x)
    elif rows.und == 0:
        out = gen(x)
    else:
        out = torch.cat((und(x[: rows.und]), gen(x[rows.und :])))
    return out


def rope_table(config: DecoderConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [positions, D] in float32; inverse frequencies stay float32 whatever the model's dtype."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**half)
    angles = torch.arange(config.max_positions, dtype=torch.float32, device=device)[:, None] * frequencies[None, :]
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half rope: x [N, heads, D], cos and sin [N, 1, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _norm_and_rotate(rows: Rows, x: Tensor, und: nn.Module, gen: nn.Module, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Per-head norm and rope. Where x is bf16, rows of a drawing pass are lifted to float32 for both, then cast
    back.
    """
    cos, sin = (table[:, None, :] for table in rope)
    if x.dtype == torch.float32 or rows.lifted == rows.total:
        return rotate(by_expert(rows, x, und, gen), cos, sin).to(x.dtype)
    plain = rotate(und(x[: rows.lifted]), cos[: rows.lifted], sin[: rows.lifted])
    high = Rows(0, rows.und - rows.lifted, rows.total - rows.lifted)
    lifted = by_expert(high, x[rows.lifted :].float(), und, gen)
    return torch.cat((plain, rotate(lifted, cos[rows.lifted :].float(), sin[rows.lifted :].float()).to(x.dtype)))
