"""The mixture-of-transformers decoder: every layer has two full sets of weights, one that understands and one that
draws.

All tokens of a sequence attend over one K/V cache; a token's norms, projections and MLP come from its own expert, by
the token's kind (r3-model: sections 0 and 5; the reference's modeling/bagel/qwen2_navit.py). Letters in shapes:
    N rows of a packed forward, H hidden, Q query heads, K key/value heads, D head size, I intermediate.
Module names are the names on disk, so loading is a match of names. Serving reads the same weights fused: one product
for q, k and v, and one for gate and up, whose parts the modules' parameters then are views of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r3core.model.attention import Attention, LayerCache, Packing
from r3core.model.one_thread import silu
from r3core.model.product import Product


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

    @property
    def attended(self) -> tuple[int, int, int]:
        """What attention has to do with: query heads, kv heads, and the size of each."""
        return self.heads, self.kv_heads, self.head_dim

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one expert of one layer: the multiplications that a row takes there."""
        return self.hidden * (2 * self.hidden + 2 * self.kv_heads * self.head_dim + 3 * self.intermediate)


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
        return normed(x, self.eps) * self.weight


def normed(x: Tensor, eps: float) -> Tensor:
    """x [..., size] over its root mean square, in x's dtype."""
    return nn.functional.rms_norm(x, x.shape[-1:], eps=eps)


@dataclass(frozen=True)
class Norm:
    """x [..., size] over its root mean square; or, where `least` is there, over its length, for the weights after it
    hold the square root of the size then.

    torch's own norm is eight operations on a CPU, and a length two: sqrt(|x|^2 + size * eps) is hypot(|x|, least).
    """

    eps: float
    least: Tensor | None  # sqrt(size * eps), float32

    @classmethod
    def of(cls, size: int, eps: float, *, by_length: bool) -> Norm:
        """The norm of rows of that size."""
        return cls(eps, torch.tensor(math.sqrt(size * eps)) if by_length else None)

    def weights(self, weight: Tensor) -> Tensor:
        """What stands behind it for the norm's `weight` [..., size]."""
        return weight if self.least is None else weight * math.sqrt(weight.shape[-1])

    def __call__(self, x: Tensor) -> Tensor:
        """The same shape and dtype."""
        if self.least is None:
            return normed(x, self.eps)
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.least)


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


@dataclass(frozen=True)
class Rope:
    """cos and sin [n, 1, D] of a forward's rows, as `rotated` takes them; the same for every layer. `lifted` are those
    of the rows of a drawing pass in float32, None where none is lifted; `plain` those of all others.
    """

    plain: tuple[Tensor, Tensor]
    lifted: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, rows: Rows, cos: Tensor, sin: Tensor) -> Rope:
        """Of those of all rows [N, 1, D], in the model's dtype."""
        if cos.dtype == torch.float32 or rows.lifted == rows.total:
            return cls((cos, sin), None)
        (cos, high_cos), (sin, high_sin) = (x.tensor_split([rows.lifted]) for x in (cos, sin))
        return cls((cos, sin), (high_cos.float(), high_sin.float()))


@dataclass(frozen=True)
class Fused:
    """The same weights as serving reads them. `qk_norm` holds a row for each head, those of q before those of k."""

    norm: Norm  # of a row, before either product
    head_norm: Norm
    qkv: Product  # H -> (Q + 2K) D, with the input norm's weights
    qk_norm: Tensor  # [Q + K, D]
    o: Product  # H -> H
    gate_up: Product  # H -> 2I, with the other norm's weights
    down: Product  # I -> H

    def mlp(self, x: Tensor) -> Tensor:
        """SwiGLU, after the norm: x [N, H] -> [N, H]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(silu(gate).mul_(up))


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


def fuse(expert: Expert, *, lay_out: bool) -> Fused:
    """Lay an expert's weights side by side, and let its modules' parameters be views of them: one copy is held, and
    with `lay_out` another as the CPU's product wants it.
    """
    attn = [expert.q, expert.k, expert.v]
    mlp = expert.mlp
    assert isinstance(mlp, MLP)
    q_norm, k_norm = expert.q_norm.get_parameter("weight"), expert.k_norm.get_parameter("weight")
    head = q_norm.shape[0]
    q_heads, k_heads = (module.get_parameter("weight").shape[0] // head for module in attn[:2])
    eps = expert.input_norm.eps
    assert isinstance(eps, float)
    by_length = lay_out and q_norm.dtype == torch.float32
    norm = Norm.of(expert.input_norm.get_parameter("weight").shape[0], eps, by_length=by_length)
    head_norm = Norm.of(head, eps, by_length=by_length)
    return Fused(
        norm=norm,
        head_norm=head_norm,
        qkv=Product.of(
            _joined([module.get_parameter("weight") for module in attn]),
            _joined([module.get_parameter("bias") for module in attn]),
            scale=norm.weights(expert.input_norm.get_parameter("weight")),
            lay_out=lay_out,
        ),
        qk_norm=head_norm.weights(torch.cat((q_norm.expand(q_heads, head), k_norm.expand(k_heads, head)))),
        o=Product.of(expert.o.get_parameter("weight"), lay_out=lay_out),
        gate_up=Product.of(
            _joined([module.get_parameter("weight") for module in (mlp.gate_proj, mlp.up_proj)]),
            scale=norm.weights(expert.post_norm.get_parameter("weight")),
            lay_out=lay_out,
        ),
        down=Product.of(mlp.down_proj.get_parameter("weight"), lay_out=lay_out),
    )


def _joined(parts: list[nn.Parameter]) -> Tensor:
    """The parts end to end in one tensor, which they become views of."""
    whole = torch.cat([part.data for part in parts])
    for part, view in zip(parts, torch.split(whole, [part.shape[0] for part in parts]), strict=True):
        part.data = view
    return whole


def run_layer(
    experts: tuple[Fused, Fused],
    hidden: Tensor,
    rows: Rows,
    rope: Rope,
    attend: Attention,
    cache: LayerCache,
    packing: Packing,
) -> Tensor:
    """One layer over a packed forward: hidden [N, H] -> [N, H]; K and V of stored pieces go into `cache`."""
    und, gen = experts
    kv_heads, head_dim = cache.keys.shape[1:]
    qkv = _by_expert(rows, und.norm(hidden), und.qkv, gen.qkv).view(rows.total, -1, head_dim)
    turned = _norm_and_rotate(rows, qkv[:, :-kv_heads], und, gen, rope)
    q, k = turned[:, :-kv_heads], turned[:, -kv_heads:]
    mixed = attend(q, k, qkv[:, -kv_heads:], cache, packing).flatten(-2)
    hidden = hidden + _by_expert(rows, mixed, und.o, gen.o)
    return hidden + _by_expert(rows, und.norm(hidden), und.mlp, gen.mlp)


def _by_expert(rows: Rows, x: Tensor, und: Callable[[Tensor], Tensor], gen: Callable[[Tensor], Tensor]) -> Tensor:
    """Each row through its own expert's part; two slices, for the rows of an expert lie together."""
    if rows.und == rows.total:
        return und(x)
    if rows.und == 0:
        return gen(x)
    first, second = x.split_with_sizes((rows.und, rows.total - rows.und))
    return torch.cat((und(first), gen(second)))


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


def rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """`rotate` with fewer operations: rope is cos and sin [N, 1, D], the first half of sin negated."""
    cos, sin = rope
    turned = x.roll(x.shape[-1] // 2, -1)
    if x.dtype == torch.float32:
        return torch.addcmul(x * cos, turned, sin)
    return x * cos + turned * sin  # rounded after each product, as the reference's is


def _norm_and_rotate(rows: Rows, x: Tensor, und: Fused, gen: Fused, rope: Rope) -> Tensor:
    """Per-head norm and rope of q and k together. Where x is bf16, rows of a drawing pass are lifted to float32 for
    both, then cast back.
    """
    if rope.lifted is None:
        return rotated(_weighed(rows, und.head_norm(x), und, gen), rope.plain)
    high = Rows(0, rows.und - rows.lifted, rows.total - rows.lifted)
    lifted = _weighed(high, und.head_norm(x[rows.lifted :].float()), und, gen)
    turned = rotated(lifted, rope.lifted).to(x.dtype)
    if rows.lifted == 0:
        return turned
    return torch.cat((rotated(und.head_norm(x[: rows.lifted]).mul_(und.qk_norm), rope.plain), turned))


def _weighed(rows: Rows, x: Tensor, und: Fused, gen: Fused) -> Tensor:
    """Heads [N, Q + K, D] times the weights of their norm, in place."""
    if rows.und == rows.total:
        return x.mul_(und.qk_norm)
    first, second = x.split_with_sizes((rows.und, rows.total - rows.und))
    first.mul_(und.qk_norm)
    second.mul_(gen.qk_norm)
    return x
