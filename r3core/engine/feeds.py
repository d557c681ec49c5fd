"""From words and pictures to feeds: rows of the decoder's space, on the device.

text    ids, causal
vit     a picture as the eye sees it: its rows are computed once and serve every step that looks at it
vae     a picture as the hand drew it, clean
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from r3core.engine.packing import Cursor, Feed
from r3core.model import vae
from r3core.model.image_processing import Transform, preprocess
from r3core.model.placing import to_device
from r3core.model.vit import grid_ids, patchify

if TYPE_CHECKING:
    from r3core.events import Pixels
    from r3core.model.bagel import Model
    from r3core.model.tokenizer import Tokenizer


class Feeder:
    """Makes feeds of a model's; nothing is remembered."""

    def __init__(self, model: Model, tokenizer: Tokenizer, transforms: Mapping[str, Transform]) -> None:
        self._bagel, self._vae, self._config = model.bagel, model.vae, model.config
        self._transforms = transforms
        self._device = model.bagel.device
        self._clean = self._bagel.time_embedder(torch.zeros(1, device=self._device))  # a finished picture's time
        self.markers = self._bagel.embed_text(self.ids([tokenizer.vision_start, tokenizer.vision_end]))

    def ids(self, ids: Iterable[int]) -> Tensor:
        """Numbers on the device, [n]."""
        return to_device(np.array(list(ids), dtype=np.int64), self._device)

    def text(self, at: Cursor, ids: Sequence[int], *, stored: bool = True) -> Feed:
        """Ids, each of which sees those before it."""
        return Feed(at, self._bagel.embed_text(self.ids(ids)), causal=True, stored=stored)

    def texts(self, each: Sequence[tuple[Cursor, Sequence[int]]]) -> list[Feed]:
        """The same of several contexts, looked up at once."""
        rows = self._bagel.embed_text(self.ids(chain.from_iterable(ids for _, ids in each)))
        split = torch.split(rows, [len(ids) for _, ids in each])
        return [Feed(at, own, causal=True) for (at, _), own in zip(each, split, strict=True)]

    def vit(self, at: Cursor, rows: Tensor) -> Feed:
        """What `look` gave of a picture."""
        return Feed(at, torch.cat((self.markers[:1], rows, self.markers[1:])))

    def vae(self, at: Cursor, latent: Tensor) -> Feed:
        """What `latent` gave of a picture."""
        tokens = vae.pack(latent, self._config.latent_patch)
        grid = latent.shape[1] // self._config.latent_patch, latent.shape[2] // self._config.latent_patch
        places = self._bagel.latent_pos_embed(grid_ids(*grid, self._config.latent_side, self._device))
        return Feed(at, self.markers, self._bagel.latent_rows(tokens, self._clean, places))

    def look(self, pixels: Pixels) -> Tensor:
        """A picture's ViT rows in the decoder's space, [n, H]."""
        features, grid = self._seen(pixels)
        return self._bagel.embed_vit(features, grid_ids(*grid, self._config.vit_side, self._device))

    def features(self, pixels: Pixels) -> Tensor:
        """What the ViT makes of a picture, before the connector: [n, Hv]."""
        return self._seen(pixels)[0]

    def latent(self, pixels: Pixels) -> Tensor:
        """What the VAE makes of a picture: [z, h, w], float32."""
        image = to_device(preprocess(pixels, self._transforms["vae"]), self._device)
        return self._vae.encode(image[None])[0]

    def _seen(self, pixels: Pixels) -> tuple[Tensor, tuple[int, int]]:
        image = to_device(preprocess(pixels, self._transforms["vit"]), self._device)
        patch = self._config.vit.patch
        grid = image.shape[1] // patch, image.shape[2] // patch
        learned = grid_ids(*grid, self._config.vit.side, self._device)
        return self._bagel.vit_model(patchify(image, patch), learned), grid
