"""The eye: SigLIP's encoder from transformers on NaViT patches, and the connector into the decoder's space.

Only the embedding is ours: patches @ W^T + b + a position row by (row, column) of the learned table's top-left crop;
transformers' own embedding interpolates, which the reference never does. The last layer of vit_config.json is dropped,
post_layernorm is kept (r3-model: sections 1.1, 3 and trap 6; the reference's modeling/bagel/siglip_navit.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of the ViT; `layers` counts those that run, `side` is that of the learned position table."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    patch: int
    side: int
    layer_norm_eps: float


class _PatchEmbedding(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        # On disk the patch embedding is a 2-D linear over (patch row, patch column, channel).
        self.patch_embedding = nn.Linear(config.patch * config.patch * 3, config.hidden)
        self.position_embedding = nn.Embedding(config.side * config.side, config.hidden)


class _VisionModel(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embeddings = _PatchEmbedding(config)
        self.encoder = SiglipEncoder(
            SiglipVisionConfig(
                hidden_size=config.hidden,
                intermediate_size=config.intermediate,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                patch_size=config.patch,
                image_size=config.patch * config.side,
                hidden_act="gelu_pytorch_tanh",
                layer_norm_eps=config.layer_norm_eps,
                attn_implementation="sdpa",
            )
        )
        self.post_layernorm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)


class ViT(nn.Module):
    """`vit_model` of the checkpoint; module names are the names on disk."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vision_model = _VisionModel(config)

    def forward(self, patches: Tensor, ids: Tensor) -> Tensor:
        """patches [n, patch * patch * 3] of one picture, ids [n] into the learned table -> features [n, Hv]."""
        model = self.vision_model
        weight = model.embeddings.patch_embedding.weight
        embedded = model.embeddings.patch_embedding(patches.to(weight.dtype)) + model.embeddings.position_embedding(ids)
        encoded = model.encoder(inputs_embeds=embedded[None]).last_hidden_state[0]
        out: Tensor = model.post_layernorm(encoded)
        return out


class Connector(nn.Module):
    """Two linear layers from the ViT's width to the decoder's."""

    def __init__(self, vit_hidden: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vit_hidden, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, Hv] -> [n, H]."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(x), approximate="tanh"))
        return out


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """pixels [c, H, W] -> [n, patch * patch * c], patches row by row, inside a patch (row, column, channel)."""
    channels, height, width = pixels.shape
    grid = pixels.reshape(channels, height // patch, patch, width // patch, patch)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch * patch * channels)


def grid_ids(rows: int, columns: int, side: int, device: torch.device | None = None) -> Tensor:
    """Position ids [rows * columns] of a grid in the top-left corner of a side x side table: row * side + column."""
    row = torch.arange(rows, device=device)[:, None] * side
    return (row + torch.arange(columns, device=device)[None, :]).flatten()


def sincos_table(side: int, hidden: int) -> Tensor:
    """The fixed 2-D table [side * side, hidden], float32: first half of the dims by COLUMN, second by ROW, each half
    [sin | cos]; computed in float64 (r3-model: section 1.2; the reference recomputes it too and ignores the file's).
    """
    quarter = hidden // 4
    frequencies = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies[None, :]
    one = torch.cat((angles.sin(), angles.cos()), dim=1)
    by_column = one[None, :, :].expand(side, side, -1)
    by_row = one[:, None, :].expand(side, side, -1)
    return torch.cat((by_column, by_row), dim=-1).reshape(side * side, -1).float()
