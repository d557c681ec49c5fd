"""A small random checkpoint in BAGEL's layout, with sizes that are nobody else's, and a tokenizer trained for it.

Its texts are gibberish, but some of its tokens are whole phrases of the loop, so that it edits and stops as others do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

PROMPTS = ("two red cubes on a mat", "ein blauer Fuchs im Schnee", "a café, at night", "seven {small} birds")
PHRASES = (
    "</think>",
    "<think>",
    " No further edit needed.",
    " add a red hat",
    " make the sky blue",
    " a cube is missing",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
# How much louder the rows of some tokens are in the last layer: what the loop turns on must be said at times.
LOUD = {"</think>": 2.4, "<think>": 1.6, "<|im_end|>": 1.8, " No further edit needed.": 2.2, " add a red hat": 1.6}


@dataclass(frozen=True)
class Sizes:
    """None of them is the golden checkpoint's."""

    hidden: int = 64
    intermediate: int = 80
    layers: int = 2
    heads: int = 4
    kv_heads: int = 1
    spare_rows: int = 9  # rows of the embedding past the tokenizer
    vit_hidden: int = 32
    vit_intermediate: int = 40
    vit_layers: int = 3  # the last one is never run
    vit_heads: int = 2
    vit_patch: int = 7
    vit_side: int = 12
    latent_patch: int = 3
    latent_side: int = 10
    z: int = 4
    channels: tuple[int, ...] = (32, 64, 32)
    blocks: int = 2
    rope_theta: float = 50000.0
    eps: float = 1e-5

    @property
    def stride(self) -> int:
        """Pixels on a side of one latent token."""
        return int(self.latent_patch * 2 ** (len(self.channels) - 1))

    @property
    def transforms(self) -> dict[str, tuple[int, int, int]]:
        """Long edge, short edge and stride, of latents and of patches."""
        return {
            "vae": (5 * self.stride, 2 * self.stride, self.stride),
            "vit": (8 * self.vit_patch, 2 * self.vit_patch, self.vit_patch),
        }


def write_checkpoint(folder: Path, sizes: Sizes, seed: int) -> None:
    """Write the files that a server reads."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size() + sizes.spare_rows
    draws = np.random.Generator(np.random.PCG64(seed))
    weights = dict(_weights(sizes, vocab, draws))
    _make_loud(weights["language_model.lm_head.weight"], tokenizer)
    save_file(weights, folder / "ema.safetensors")
    save_file(dict(_VAEWeights(sizes, draws).all()), folder / "ae.safetensors")
    llm = {
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.intermediate,
        "rms_norm_eps": sizes.eps,
        "rope_theta": sizes.rope_theta,
        "max_position_embeddings": 2048,
        "vocab_size": vocab,
    }
    vit = {
        "hidden_size": sizes.vit_hidden,
        "intermediate_size": sizes.vit_intermediate,
        "num_hidden_layers": sizes.vit_layers,
        "num_attention_heads": sizes.vit_heads,
        "patch_size": sizes.vit_patch,
        "image_size": sizes.vit_patch * sizes.vit_side,
    }
    (folder / "llm_config.json").write_text(json.dumps(llm))
    (folder / "vit_config.json").write_text(json.dumps(vit))
    (folder / "config.json").write_text(json.dumps({"max_latent_size": 99, "sizes": asdict(sizes)}))


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    # No split at spaces: a whole phrase may become one token.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, max_token_length=64
    )
    tokenizer.train_from_iterator([*PHRASES * 50, *PROMPTS * 2], trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIAL])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def _make_loud(head: Tensor, tokenizer: Tokenizer) -> None:
    for text, factor in LOUD.items():
        ids = tokenizer.encode(text).ids
        assert len(ids) == 1, f"{text!r} is not one token of the trained tokenizer: {ids}"
        head[ids[0]] *= factor
    for mark in SPECIAL:
        if mark not in LOUD:  # a text that names them would be another text when it is read again
            head[tokenizer.token_to_id(mark)] = 0.0


def _weights(sizes: Sizes, vocab: int, draws: np.random.Generator) -> Iterator[tuple[str, Tensor]]:
    hidden, vit = sizes.hidden, sizes.vit_hidden
    head_dim = hidden // sizes.heads

    def matrix(name: str, out: int, into: int, *, bias: bool = True) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", _random(draws, (out, into), into**-0.5)
        if bias:
            yield f"{name}.bias", _random(draws, (out,), 0.1)

    def norm(name: str, size: int, *, bias: bool = False) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", 1 + _random(draws, (size,), 0.2)
        if bias:
            yield f"{name}.bias", _random(draws, (size,), 0.1)

    model = "language_model.model"
    yield f"{model}.embed_tokens.weight", _random(draws, (vocab, hidden), 1.0)
    yield "language_model.lm_head.weight", _random(draws, (vocab, hidden), 4 * hidden**-0.5)
    for suffix in ("", "_moe_gen"):
        yield from norm(f"{model}.norm{suffix}", hidden)
        for i in range(sizes.layers):
            layer = f"{model}.layers.{i}"
            yield from norm(f"{layer}.input_layernorm{suffix}", hidden)
            yield from norm(f"{layer}.post_attention_layernorm{suffix}", hidden)
            yield from matrix(f"{layer}.self_attn.q_proj{suffix}", hidden, hidden)
            yield from matrix(f"{layer}.self_attn.k_proj{suffix}", sizes.kv_heads * head_dim, hidden)
            yield from matrix(f"{layer}.self_attn.v_proj{suffix}", sizes.kv_heads * head_dim, hidden)
            yield from matrix(f"{layer}.self_attn.o_proj{suffix}", hidden, hidden, bias=False)
            yield from norm(f"{layer}.self_attn.q_norm{suffix}", head_dim)
            yield from norm(f"{layer}.self_attn.k_norm{suffix}", head_dim)
            for part, out, into in (
                ("gate", sizes.intermediate, hidden),
                ("up", sizes.intermediate, hidden),
                ("down", hidden, sizes.intermediate),
            ):
                yield from matrix(f"{layer}.mlp{suffix}.{part}_proj", out, into, bias=False)
    token = sizes.latent_patch**2 * sizes.z
    yield from matrix("time_embedder.mlp.0", hidden, 256)
    yield from matrix("time_embedder.mlp.2", hidden, hidden)
    yield from matrix("vae2llm", hidden, token)
    yield from matrix("llm2vae", token, hidden)
    yield from matrix("connector.fc1", hidden, vit)
    yield from matrix("connector.fc2", hidden, hidden)
    # Only the row counts of these two are read; the numbers are computed.
    yield "latent_pos_embed.pos_embed", torch.zeros(sizes.latent_side**2, hidden)
    yield "vit_pos_embed.pos_embed", torch.zeros(sizes.vit_side**2, hidden)
    eye = "vit_model.vision_model"
    yield from matrix(f"{eye}.embeddings.patch_embedding", vit, sizes.vit_patch**2 * 3)
    yield f"{eye}.embeddings.position_embedding.weight", _random(draws, (sizes.vit_side**2, vit), 0.3)
    yield from norm(f"{eye}.post_layernorm", vit, bias=True)
    for i in range(sizes.vit_layers):
        layer = f"{eye}.encoder.layers.{i}"
        yield from norm(f"{layer}.layer_norm1", vit, bias=True)
        yield from norm(f"{layer}.layer_norm2", vit, bias=True)
        for part in ("q", "k", "v", "out"):
            yield from matrix(f"{layer}.self_attn.{part}_proj", vit, vit)
        yield from matrix(f"{layer}.mlp.fc1", sizes.vit_intermediate, vit)
        yield from matrix(f"{layer}.mlp.fc2", vit, sizes.vit_intermediate)


class _VAEWeights:
    """The tensors of ae.safetensors."""

    def __init__(self, sizes: Sizes, draws: np.random.Generator) -> None:
        self.sizes, self.draws = sizes, draws

    def all(self) -> Iterator[tuple[str, Tensor]]:
        widths, z, blocks = self.sizes.channels, self.sizes.z, self.sizes.blocks
        yield from self.conv("encoder.conv_in", widths[0], 3)
        width = widths[0]
        for i, own in enumerate(widths):
            for b in range(blocks):
                yield from self.block(f"encoder.down.{i}.block.{b}", own, own if b else width)
            width = own
            if i < len(widths) - 1:
                yield from self.conv(f"encoder.down.{i}.downsample.conv", own, own)
        yield from self.ends("encoder", width, 2 * z, width)
        yield from self.conv("decoder.conv_in", width, z)
        for i, own in reversed(list(enumerate(widths))):
            for b in range(blocks + 1):
                yield from self.block(f"decoder.up.{i}.block.{b}", own, own if b else width)
            width = own
            if i:
                yield from self.conv(f"decoder.up.{i}.upsample.conv", own, own)
        yield from self.ends("decoder", width, 3, widths[-1])

    def ends(self, name: str, width: int, out: int, middle: int) -> Iterator[tuple[str, Tensor]]:
        """The blocks in the middle, and what comes last."""
        for b in (1, 2):
            yield from self.block(f"{name}.mid.block_{b}", middle, middle)
        yield from self.norm(f"{name}.mid.attn_1.norm", middle)
        for part in ("q", "k", "v", "proj_out"):
            yield from self.conv(f"{name}.mid.attn_1.{part}", middle, middle, 1)
        yield from self.norm(f"{name}.norm_out", width)
        yield from self.conv(f"{name}.conv_out", out, width)

    def block(self, name: str, out: int, into: int) -> Iterator[tuple[str, Tensor]]:
        yield from self.norm(f"{name}.norm1", into)
        yield from self.conv(f"{name}.conv1", out, into)
        yield from self.norm(f"{name}.norm2", out)
        yield from self.conv(f"{name}.conv2", out, out)
        if out != into:
            yield from self.conv(f"{name}.nin_shortcut", out, into, 1)

    def conv(self, name: str, out: int, into: int, side: int = 3) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", _random(self.draws, (out, into, side, side), (into * side * side) ** -0.5)
        yield f"{name}.bias", _random(self.draws, (out,), 0.1)

    def norm(self, name: str, size: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", 1 + _random(self.draws, (size,), 0.2)
        yield f"{name}.bias", _random(self.draws, (size,), 0.1)


def _random(draws: np.random.Generator, shape: tuple[int, ...], scale: float) -> Tensor:
    return torch.from_numpy((draws.standard_normal(shape) * scale).astype(np.float32))
